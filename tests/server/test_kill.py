"""A coordinator that is killed, at every step of a run, and started again."""

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
    StrategyName,
    TrainingConfig,
    WarmStartConfig,
)

if TYPE_CHECKING:
    from tests.conftest import Sites

ROOT = Path(__file__).parents[2]
ROUNDS = 3
Story = list[dict[str, Any]]


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory,
    make_sites: Callable[[Path], Sites],
    model: ModelConfig,
) -> Story:
    """What came of each kill; first, of none."""
    sites = make_sites(tmp_path_factory.mktemp("killed") / "sites")
    for stream, name in enumerate(("alpha", "beta")):
        sites.make(name, {"policy.delta": 1e-3}, seed=3, stream=stream)
    config = RunConfig(
        privacy=PrivacyConfig(epsilon=4.0, delta=1e-3),
        model=model,
        warm_start=WarmStartConfig(share=0.0),
        training=TrainingConfig(rounds=ROUNDS, sample_rate=0.5, learning_rate=0.5),
        server=ServerConfig(
            organisations=2, strategy=StrategyName.FEDADAM, learning_rate=0.05, quorum=1.0
        ),
        seed=1,
    )
    driver = Path(__file__).with_name("kill_driver.py")
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
    assert len(killed) == 12
    assert {kill["point"]: kill["status"] for kill in killed} == {
        kill["point"]: -9 for kill in killed
    }
    assert {kill["resumed"] for kill in killed} == {0}
    for end in story:
        assert (end["state"], end["round"], end["model"]) == ("finished", ROUNDS, True)


def test_each_ends_with_the_bits_of_one_that_was_never_killed(story: Story) -> None:
    through, *killed = story
    assert {kill["point"]: kill["bits"] for kill in killed} == {
        kill["point"]: through["bits"] for kill in killed
    }


def test_no_partner_pays_twice(story: Story) -> None:
    for end in story:
        assert end["charged"] == [ROUNDS, ROUNDS], end["point"]


def test_the_kills_fell_where_they_should(story: Story) -> None:
    paid = {kill["point"]: kill["killed"]["charged"] for kill in story[1:]}
    assert paid["before the first checkpoint"] == [0, 0]
    assert paid["when one partner has answered"] == [2, 1]
    assert paid["when all have answered"] == [1, 1]
    assert paid["with half a checkpoint written"] == [2, 2]
    assert paid["between checkpoint and report"] == [2, 2]
    assert paid["after the last round"] == [3, 3]
    assert {kill["killed"]["state"] for kill in story[1:]} == {"interrupted"}


def test_no_log_is_broken_and_nothing_is_left_over(story: Story) -> None:
    for end in story:
        assert end["entries"] >= 1 + 2 + ROUNDS + 1
        assert end["left over"] == []
