"""A node that is killed, at every step of a request and at random, and started again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.ledger.balance import EntryType
from client.site.site import Site
from tests.flower_internals import recorddict_to_proto
from tests.kills import Story, run_driver

if TYPE_CHECKING:
    from tests.conftest import Sites

LEDGER_KILLS, OTHER_KILLS, MOMENTS = 45, 10, 10
"""Kills before evenly spread lines of the ledger's code, of the rest of the client, and at moments.

Only the ledger writes, so between its lines a kill can leave another state; elsewhere it cannot.
"""
LINE_KILLS = LEDGER_KILLS + OTHER_KILLS


@pytest.fixture(scope="module")
def killed(memory_folder: Path, make_sites: Callable[[Path], Sites]) -> tuple[Site, Story]:
    """The site that went through it, and what happened at each kill."""
    sites = make_sites(memory_folder)
    site = sites.make("alpha", {"policy.max_epsilon": 1e6})
    message = memory_folder / "request"
    content = sites.request(noise_multiplier=20.0).to_content()
    message.write_bytes(recorddict_to_proto(content).SerializeToString())
    driver = Path(__file__).with_name("kill_driver.py")
    kills = (LEDGER_KILLS, OTHER_KILLS, MOMENTS)
    return Site.load(site), run_driver(driver, site, message, *kills, state=memory_folder / "state")


def test_every_kill_is_followed_by_an_answer(killed: tuple[Site, Story]) -> None:
    _, story = killed
    assert len(story) == 8 + LINE_KILLS + MOMENTS
    for kill in story:
        assert set(kill["again_status"]) == {0}
        assert kill["size"] > 1000
        assert kill["status"] in (-9, 0)
    assert sum(kill["status"] == -9 for kill in story) >= LINE_KILLS + 6, "most were killed"


def test_the_steps_were_reached(killed: tuple[Site, Story]) -> None:
    _, story = killed
    status = {kill["point"]: kill["status"] for kill in story[:7]}
    assert status.pop("after the reply") == 0
    assert len(status) == 6
    assert set(status.values()) == {-9}


def test_a_repeat_gets_what_left_before_the_kill(killed: tuple[Site, Story]) -> None:
    _, story = killed
    for kill in story:
        assert kill["left_is_repeated"], kill
        assert len(set(kill["again"])) == 1
    assert any(kill["left"] for kill in story)
    assert len({kill["again"][0] for kill in story}) == len(story), "each round has its own noise"


def test_the_ledger_never_shows_less_than_was_released(killed: tuple[Site, Story]) -> None:
    _, story = killed
    for kill in story:
        rounds_before = kill["round"] - 1
        assert kill["charged_in_the_end"] == kill["round"], "one step each, whatever happened"
        charged = kill["charged_after_kill"] - rounds_before
        assert charged in (0, 1)
        if kill["left"]:
            assert charged == 1
    by_step = {kill["point"]: kill["charged_after_kill"] - kill["round"] + 1 for kill in story[:7]}
    assert by_step.pop("before the charge") == 0
    assert set(by_step.values()) == {1}


def test_kills_fell_on_both_sides_of_the_charge(killed: tuple[Site, Story]) -> None:
    _, story = killed
    lines = [kill for kill in story if kill["point"].startswith("line")]
    assert len(lines) == LINE_KILLS
    charged = Counter(kill["charged_after_kill"] - kill["round"] + 1 for kill in lines)
    assert charged[0] > 5
    assert charged[1] > 5


def test_the_chain_is_whole_and_holds_each_round_once(killed: tuple[Site, Story]) -> None:
    site, story = killed
    ledger = site.open_ledger()
    rounds = len(story) + 3
    assert ledger.verify() == 1 + 2 * rounds
    entries = Counter((r.type, r.fields.get("round")) for r in ledger.history())
    expected = {
        (what, n) for what in (EntryType.CHARGE, EntryType.ANSWER) for n in range(1, rounds + 1)
    }
    assert entries == Counter(expected | {(EntryType.OPENED, None)})
    assert len(ledger.outbox()) == rounds
