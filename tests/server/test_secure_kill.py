"""A coordinator of sums that is killed at every step of an attempt, and started again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared.config import (
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    Trust,
    WarmStartConfig,
    Weighting,
)
from tests.client.secure_aggregation.peers import Peers

if TYPE_CHECKING:
    from tests.conftest import Sites

ROOT = Path(__file__).parents[2]
Story = list[dict[str, Any]]


@pytest.fixture(scope="module")
def story(
    memory_folder: Path,
    make_sites: Callable[[Path], Sites],
    model: ModelConfig,
) -> Story:
    """What came of each kill; first, of none."""
    sites = make_sites(memory_folder / "sites")
    Peers.make(sites, {"policy.delta": 1e-3, "lab.simulated": True})
    config = RunConfig(
        privacy=PrivacyConfig(
            epsilon=4.0, delta=1e-3, trust=Trust.SECURE_AGGREGATION, colluding=1, dropouts=1
        ),
        model=model,
        warm_start=WarmStartConfig(share=0.0),
        training=TrainingConfig(rounds=1, sample_rate=0.5, learning_rate=0.5),
        server=ServerConfig(organisations=4, weighting=Weighting.POPULATION, quorum=1.0),
        seed=1,
    )
    driver = Path(__file__).with_name("secure_kill_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(sites.folder), json.dumps(config.to_flat())],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_was_killed_and_ended_well(story: Story) -> None:
    through, *killed = story
    assert through["status"] == 0
    assert {kill["point"]: kill["status"] for kill in killed} == {
        kill["point"]: -9 for kill in killed
    }
    assert len(killed) == 8
    assert {kill["resumed"] for kill in killed} == {0}
    for end in story:
        assert (end["state"], end["round"], end["model"]) == ("finished", 1, True)


def test_the_next_attempt_has_a_higher_number(story: Story) -> None:
    through, *killed = story
    assert through["attempts"] == 1
    for kill in killed:
        assert kill["killed at"] == int(kill["point"] != "before the number is written")
        assert kill["attempts"] == kill["killed at"] + 1


def test_a_partner_is_charged_for_each_attempt_that_it_masked_in(story: Story) -> None:
    for end in story:
        assert end["charged"] == [len(numbers) for numbers in end["answered"]], end["point"]
        for numbers in end["answered"]:
            assert numbers[-1] == end["attempts"]
            assert numbers == sorted(set(numbers))
    charged = {end["point"]: end["charged"] for end in story}
    assert charged["when two answers to step 2 are taken"] == [1] * 4
    assert charged["when two answers to step 3 are taken"] == [2] * 4  # all had sent theirs
    assert charged["with the sum"] == [2] * 4
