"""A coordinator that is killed, at every step of a run, and started again."""

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
    StrategyName,
    TrainingConfig,
    WarmStartConfig,
)
from tests.kills import Story, assert_each_ended_well, run_driver

if TYPE_CHECKING:
    from tests.conftest import Sites

ROUNDS = 3


@pytest.fixture(scope="module")
def story(
    memory_folder: Path,
    make_sites: Callable[[Path], Sites],
    model: ModelConfig,
) -> Story:
    """What came of each kill; first, of none."""
    sites = make_sites(memory_folder / "sites")
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
    flat = json.dumps(config.to_flat())
    return run_driver(driver, sites.folder, flat, state=memory_folder / "state")


def test_each_was_killed_and_ended_well(story: Story) -> None:
    assert_each_ended_well(story, points=12, rounds=ROUNDS)


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
