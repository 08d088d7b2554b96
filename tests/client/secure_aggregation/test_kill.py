"""A node that is killed at every step of a sum, and asked again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.config import Trust
from shared.outcomes import Refusal
from tests.flower_internals import recorddict_to_proto
from tests.kills import Story, run_driver

if TYPE_CHECKING:
    from tests.conftest import Sites

LINES = 1
"""Kills of each step before evenly spread lines of the room's code, beside the named points."""
POINTS = 5 * 4 + 4


@pytest.fixture(scope="module")
def killed(memory_folder: Path, make_sites: Callable[[Path], Sites]) -> Story:
    """What happened at each kill."""
    sites = make_sites(memory_folder / "sites")
    site, message = sites.make("alpha"), memory_folder / "request"
    request = replace(sites.request(noise_multiplier=0.8), trust=Trust.SECURE_AGGREGATION)
    message.write_bytes(recorddict_to_proto(request.to_content()).SerializeToString())
    driver = Path(__file__).with_name("kill_driver.py")
    return run_driver(driver, site, message, LINES, state=memory_folder / "state")


def test_each_point_was_reached_and_every_sum_came_out(killed: Story) -> None:
    """A driver that ends well has unmasked the sum of each attempt."""
    assert len(killed) == POINTS + 5 * LINES
    assert {kill["status"] for kill in killed} == {-9}


def test_it_answers_the_same_bytes_or_drops_out(killed: Story) -> None:
    for kill in killed:
        one, two = kill["again"]
        assert one == two, kill
        assert kill["left"] in ("", one), kill
        assert bool(kill["left"]) == (kill["point"] == "as the answer leaves")
        assert kill["dropped"] == (one == "")
    dropped = {(kill["step"], kill["point"]) for kill in killed if kill["dropped"]}
    # Only where the session says that it masked, and the outbox has nothing.
    assert (3, "with the session written") in dropped
    assert (3, "before the outbox") in dropped
    assert {step for step, _ in dropped} == {3}
    assert {kill["refusal"] for kill in killed if kill["dropped"]} == {Refusal.DROPPED}


def test_the_ledger_never_shows_less_than_may_have_left(killed: Story) -> None:
    for kill in killed:
        assert kill["charged_in_the_end"] == 1, kill
        assert kill["charged_after_kill"] == int(kill["step"] > 3) or kill["step"] == 3
    third = {kill["point"]: kill["charged_after_kill"] for kill in killed if kill["step"] == 3}
    assert third.pop("before the charge") == 0
    for point in ("after the charge", "with the session written", "with the outbox written"):
        assert third[point] == 1, point
