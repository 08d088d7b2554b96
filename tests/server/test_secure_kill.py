"""A coordinator of sums that is killed at every step of an attempt, and started again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

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
from tests.kills import Story, assert_each_ended_well, run_driver

if TYPE_CHECKING:
    from tests.conftest import Sites


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
    flat = json.dumps(config.to_flat())
    return run_driver(driver, sites.folder, flat, state=memory_folder / "state")


def test_each_was_killed_and_ended_well(story: Story) -> None:
    assert_each_ended_well(story, points=8, rounds=1)


def test_the_next_attempt_has_a_higher_number(story: Story) -> None:
    through, *killed = story
    assert through["attempts"] == 1
    for kill in killed:
        assert kill["killed"]["attempts"] == int(kill["point"] != "before the number is written")
        assert kill["attempts"] == kill["killed"]["attempts"] + 1


def test_a_partner_is_charged_for_each_attempt_that_it_masked_in(story: Story) -> None:
    for end in story:
        assert end["charged"] == [len(numbers) for numbers in end["answered"]], end["point"]
        for numbers in end["answered"]:
            assert numbers[-1] == end["attempts"]
            assert numbers == sorted(set(numbers))
    charged = {end["point"]: end["charged"] for end in story}
    assert charged["when two answers to step 2 are taken"] == [1] * 4
    assert charged["when two answers to step 3 are taken"] == [2, 2, 1, 1]
    assert charged["with the sum"] == [2] * 4


def test_whom_step_3_was_sent_to_counts_as_charged(story: Story) -> None:
    """Also where the coordinator was killed before it knew: it never counts too little."""
    for end in story:
        pairs = zip(end["may have charged"], end["charged"], strict=True)
        assert all(counted >= charged for counted, charged in pairs), end["point"]
    counted = {end["point"]: end["may have charged"] for end in story}
    assert counted["when two answers to step 2 are taken"] == [1] * 4
    assert counted["when two answers to step 3 are taken"] == [2] * 4
    assert counted["with the sum"] == [2] * 4
