"""The lines that `sotto-server run` prints while a run goes on."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from server.runs.follow import describe_changes
from server.state.status import Organisation, RunState, RunStatus

AWAY, HERE = (Organisation(connected=connected, population=100) for connected in (False, True))
WAITING = RunStatus(
    run="r", state=RunState.WAITING, rounds=2, started="2026-01-01T00:00:00+00:00", starts=1
)


def printed(*looks: RunStatus | None) -> list[str]:
    """Every line over some looks at a run that needs two organisations."""
    return [
        line
        for before, now in pairwise(looks)
        if now is not None
        for line in describe_changes(before, now, 2)
    ]


def test_a_run_is_followed_from_its_first_partner_to_its_last_round() -> None:
    one = replace(WAITING, organisations={"Alpha": HERE})
    both = replace(one, organisations={"Alpha": HERE, "Beta": HERE})
    begun = replace(both, state=RunState.RUNNING)
    answered = {"Alpha": HERE, "Beta": HERE}
    answered = {name: replace(one, outcome="valid") for name, one in answered.items()}
    first = replace(begun, round=1, round_seconds=3.25, organisations=answered)
    second = replace(first, round=2, organisations={**answered, "Beta": replace(HERE, outcome="x")})
    assert printed(None, WAITING, WAITING, one, both, begun, begun, first, first, second) == [
        "waiting until 2 organisations are connected; `sotto-server list` shows which are",
        "Alpha is connected",
        "Beta is connected",
        "the run begins with 2 organisations",
        "round 1 of 2: 2 valid replies of 2, 3.2 s",
        "round 2 of 2: 1 valid replies of 2, 3.2 s",
    ]


def test_a_disconnection_and_the_reason_of_a_retry_are_printed_once() -> None:
    both = replace(
        WAITING, state=RunState.RUNNING, organisations={"Alpha": HERE, "Beta": HERE}, round=1
    )
    alone = replace(both, organisations={"Alpha": HERE, "Beta": AWAY})
    again = replace(alone, state=RunState.RETRYING, reason="round 2, attempt 1: Beta is absent")
    more = replace(again, reason="round 2, attempt 2: Beta is absent")
    assert printed(both, alone, again, again, more) == [
        "Beta is disconnected",
        "round 2, attempt 1: Beta is absent; trying again",
        "round 2, attempt 2: Beta is absent; trying again",
    ]


def test_nothing_of_a_resumed_run_is_printed_twice() -> None:
    paused = replace(
        WAITING, state=RunState.PAUSED, organisations={"Alpha": HERE, "Beta": HERE}, round=1
    )
    waiting = replace(
        paused, state=RunState.WAITING, starts=2, organisations={"Alpha": AWAY, "Beta": AWAY}
    )
    back = replace(waiting, organisations={"Alpha": HERE, "Beta": AWAY})
    running = replace(back, state=RunState.RUNNING)
    assert printed(paused, paused, waiting, back, running, replace(running, round=2)) == [
        "waiting until 2 organisations are connected; `sotto-server list` shows which are",
        "Alpha is connected",
        "round 2 of 2: 0 valid replies of 2, 0.0 s",
    ]


def test_a_run_that_paused_before_its_first_request_is_followed_anew() -> None:
    """It has another name then, and starts are counted anew."""
    both = {"Alpha": HERE, "Beta": HERE}
    paused = replace(WAITING, state=RunState.PAUSED, organisations=both)
    again = replace(WAITING, run="s")
    one = replace(again, organisations={"Alpha": HERE})
    assert printed(paused, again, one) == [
        "waiting until 2 organisations are connected; `sotto-server list` shows which are",
        "Alpha is connected",
    ]


def test_the_steps_of_a_warm_start_are_printed_once() -> None:
    begun = replace(WAITING, state=RunState.RUNNING, organisations={"Alpha": HERE})
    asked = replace(begun, warm_start=["warm start: asking for the popularity statistic"])
    more = replace(asked, warm_start=[*asked.warm_start, "the popularity statistic: 1 valid"])
    assert printed(WAITING, begun, asked, asked, more)[-2:] == [*more.warm_start]
    assert printed(more, replace(more, starts=2, warm_start=["again"]))[-1] == "again"


def test_a_node_that_cannot_take_part_is_named_with_the_reason() -> None:
    declined = replace(WAITING, declined={"node 9": "its key is not on record"})
    assert printed(WAITING, declined, declined) == [
        "node 9 cannot take part: its key is not on record"
    ]
