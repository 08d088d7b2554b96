"""The decision on one list: what each measure does, and that risk can only take away."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.site.wellbeing import Measure, WellbeingConfig
from client.wellbeing.guard import Candidates, Decision, Session, decide, engagement_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()
FRESH = Session(last=NOW, since=NOW)


def policy(**keys: Any) -> WellbeingConfig:  # noqa: ANN401
    return WellbeingConfig(who="all", model="m", items="i", **keys)  # type: ignore[arg-type]


def candidates(
    scores: list[float], engagement: list[float], finite: list[int] | None = None, k: int = 2
) -> Candidates:
    """The k highest scores are shown without the guard."""
    values = np.array(scores)
    return Candidates(
        values,
        np.array(engagement),
        np.array([False] * len(scores) if finite is None else finite, np.bool_),
        np.argsort(-values, kind="stable")[:k],
        float(np.mean(engagement)),
    )


FOUR = candidates([0.4, 0.3, 0.2, 0.1], [4.0, 1.0, 1.0, 2.0], [0, 0, 1, 0])

UNDONE = Candidates(np.zeros(2), np.zeros(2), np.array([False, True]), np.array([1]), 0.0)
"""Damping shows the first of equal items, and the preference for finite ones the second again."""


def measures(decision: Decision) -> list[str]:
    return [str(action.measure) for action in decision.actions]


def decided(
    keys: dict[str, Any], session: Session = FRESH, now: float = NOW, risk: float = 1.0
) -> Decision:
    return decide(FOUR, risk, session, policy(**keys), now)


# --- each measure ------------------------------------------------------------------------------


def test_below_the_threshold_a_list_is_as_without_the_guard() -> None:
    everything = {
        "cap": 1,
        "damping": 9.0,
        "pause_after_minutes": 1.0,
        "quiet_hours": "00:00-23:59",
        "finite_worth": 9.0,
        "threshold": 0.7,
    }
    below = decided(everything, risk=0.69)
    assert below.places.tolist() == FOUR.plain.tolist()
    assert (below.actions, below.pause_seconds) == ((), 0)
    assert below.session == replace(FRESH, items=2)
    assert measures(decided(everything, risk=0.7)) == ["quiet"]
    own = decided(everything | {"quiet_threshold": 0.8}, replace(FRESH, since=0.0), risk=0.7)
    assert measures(own) == ["pause"]


def test_a_cap_leaves_what_the_session_has_left() -> None:
    first = decided({"cap": 3})
    assert (len(first.places), first.actions, first.session.items) == (2, (), 2)
    second = decided({"cap": 3}, first.session)
    assert second.places.tolist() == [0]
    [action] = second.actions
    assert action.sentence == "1 of 2 items are shown: a session has 3 at most."
    third = decided({"cap": 3}, second.session, NOW + 60)
    assert len(third.places) == 0
    assert "It ends after 30 minutes without use." in third.actions[0].sentence
    assert third.pause_seconds == 29 * 60
    assert third.session == second.session  # what is not shown does not make a session longer


def test_a_pause_begins_after_so_long_and_ends() -> None:
    keys = {"pause_after_minutes": 60.0, "pause_minutes": 10.0}
    session = replace(FRESH, since=NOW - 3600)
    assert measures(decided(keys, session, NOW - 1)) == []
    begun = decided(keys, session)
    assert (measures(begun), begun.pause_seconds, len(begun.places)) == (["pause"], 600, 0)
    assert begun.actions[0].sentence == "A pause of 10 minutes begins after 60 minutes in a row."
    during = decided(keys, begun.session, NOW + 400)
    assert (measures(during), during.pause_seconds) == (["pause"], 200)
    assert measures(decided(keys, begun.session, NOW + 600)) == []
    assert measures(decided(keys, begun.session, NOW + 600 + 3600)) == ["pause"]


@pytest.mark.parametrize(
    ("hours", "at", "seconds"),
    [
        ("23:00-07:00", "2026-03-01 22:59", 0),
        ("23:00-07:00", "2026-03-01 23:00", 8 * 3600),
        ("23:00-07:00", "2026-03-02 06:30", 1800),
        ("23:00-07:00", "2026-03-02 07:00", 0),
        ("12:00-13:00", "2026-03-01 12:15", 2700),
        ("23:00-07:00", "2026-03-28 23:00", 7 * 3600),  # the clock goes forward that night
    ],
)
def test_quiet_hours_are_local_time(hours: str, at: str, seconds: int) -> None:
    zone = ZoneInfo("Europe/Berlin")
    now = datetime.fromisoformat(at).replace(tzinfo=zone).timestamp()
    session = Session(last=now, since=now)
    settings = policy(quiet_hours=hours, time_zone="Europe/Berlin")
    quiet = decide(FOUR, 1.0, session, settings, now)
    assert quiet.pause_seconds == seconds
    assert (len(quiet.places) == 0) == (seconds > 0)
    of_user = decide(FOUR, 1.0, session, policy(quiet_hours=hours), now, zone)
    assert of_user.pause_seconds == seconds


def test_damping_shows_what_keeps_people_less_long() -> None:
    damped = decided({"damping": 1.0})  # 4.0 is twice the mean: e^-2
    assert damped.places.tolist() == [1, 2]
    assert damped.actions[0].sentence == (
        "1 of 2 items gave way to others that keep people less long."
    )
    lower = decided({"damping": 0.35})
    assert lower.places.tolist() == [1, 0]
    assert lower.actions[0].sentence == "Items that keep people longest stand lower in the list."


def test_finite_items_go_before_others_that_are_as_engaging() -> None:
    assert decided({"finite_worth": 1.4}).places.tolist() == [0, 1]  # .2 · 1.4 < .3
    swapped = decided({"finite_worth": 1.6})
    assert swapped.places.tolist() == [0, 2]
    assert swapped.actions[0].sentence == "1 of 2 items gave way to others that have an end."
    engaging = candidates([0.4, 0.3, 0.2], [1.0, 1.0, 5.0], [0, 0, 1])
    kept = decide(engaging, 1.0, FRESH, policy(finite_worth=99.0), NOW)
    assert kept.places.tolist() == [0, 1]  # the finite one would keep people longer


def test_measures_hold_together_and_say_so() -> None:
    keys = {"cap": 3, "damping": 1.0, "finite_worth": 3.0}
    both = decided(keys, replace(FRESH, items=2))
    assert (both.places.tolist(), measures(both)) == ([2], ["cap", "damping", "finite"])


# --- it only takes away ------------------------------------------------------------------------

NUMBERS = st.floats(0, 10, allow_nan=False)
SHARES = st.floats(0, 1, allow_nan=False)


@st.composite
def policies(draw: st.DrawFn) -> WellbeingConfig:
    keys: dict[str, Any] = {
        "cap": draw(st.integers(0, 12)),
        "damping": draw(st.sampled_from([0.0, 0.1, 1.0, 30.0])),
        "pause_after_minutes": draw(st.sampled_from([0.0, 0.5, 60.0])),
        "quiet_hours": draw(st.sampled_from(["", "11:00-13:00", "13:00-11:00"])),
        "finite_worth": draw(st.sampled_from([1.0, 1.5, 1000.0])),
        "threshold": draw(SHARES),
    }
    for measure in Measure:
        keys[f"{measure}_threshold"] = draw(st.none() | SHARES)
    if not WellbeingConfig(**keys).measures:
        keys["cap"] = 1
    return policy(**keys)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Candidates, Session]:
    size = draw(st.integers(0, 12))
    own = st.lists(SHARES, min_size=size, max_size=size)
    places = draw(st.permutations(range(size)))[: draw(st.integers(0, size))]
    found = Candidates(
        np.array(draw(own), np.float64),
        np.array(draw(st.lists(NUMBERS, min_size=size, max_size=size)), np.float64),
        np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), np.bool_),
        np.array(places, np.int64),
        draw(st.just(0.0) | st.floats(1e-6, 10)),  # 0, or a mean of whole numbers
    )
    since = NOW - draw(st.sampled_from([0.0, 60.0, 7200.0]))
    until = NOW + draw(st.sampled_from([-1e9, 100.0]))
    return found, Session(NOW - 10, since, draw(st.integers(0, 15)), until)


@given(policies(), situations(), SHARES, SHARES)
@settings(max_examples=400, deadline=None)
@example(policy(damping=1.0), (FOUR, FRESH), 0.0, 1.0)
@example(policy(damping=1.0, finite_worth=2.0), (UNDONE, FRESH), 0.0, 1.0)
def test_no_risk_makes_a_list_longer_or_more_engaging(
    chosen: WellbeingConfig, situation: tuple[Candidates, Session], one: float, other: float
) -> None:
    found, session = situation
    low, high = sorted((one, other))
    less = decide(found, low, session, chosen, NOW)
    more = decide(found, high, session, chosen, NOW)
    plain, at_low, at_high = (
        engagement_of(found, places) for places in (found.plain, less.places, more.places)
    )
    assert at_high <= at_low <= plain
    assert len(more.places) <= len(less.places) <= len(found.plain)
    assert more.pause_seconds >= 0
    for decision in (less, more):
        assert len(set(decision.places.tolist())) == len(decision.places)
        same = decision.places.tolist() == found.plain.tolist()
        assert bool(decision.actions) != same or len(found.plain) == 0
        assert all(action.sentence.endswith(".") for action in decision.actions)
    again = decide(found, high, session, chosen, NOW)
    assert again.places.tolist() == more.places.tolist()
    assert (again.actions, again.session) == (more.actions, more.session)


def test_a_list_of_ten_from_200_is_decided_in_a_millisecond() -> None:
    draw = np.random.default_rng(0)
    values = np.sort(draw.random(200))[::-1].copy()
    found = Candidates(
        values, draw.random(200), draw.random(200) < 0.3, np.arange(10, dtype=np.int64), 0.5
    )
    chosen = policy(cap=30, damping=1.0, finite_worth=2.0, quiet_hours="23:00-07:00")
    taken = []
    for _ in range(20):
        begin = time.process_time()
        decide(found, 1.0, FRESH, chosen, NOW)
        taken.append(time.process_time() - begin)
    assert min(taken) < 0.001
