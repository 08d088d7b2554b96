"""Rounds among partners that fail in every way, over a grid without a network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

import server.rounds.grid
from server.aggregation.records import to_arrays, to_weights
from server.rounds.grid import PatientGrid
from server.rounds.participants import Partner
from server.rounds.round import RoundReport
from server.rounds.strategy import FederatedStrategy, Terms
from shared.config import Aggregation, PrivacyConfig, RunConfig, ServerConfig
from shared.errors import Outcome, QuorumError, Refusal
from shared.messages import DESCRIBE, TRAIN, TrainReply, TrainRequest, Weights, refusal_reply

if TYPE_CHECKING:
    from tests.conftest import FakeGrid, Node

    MakeGrid = Callable[[dict[int, Node]], FakeGrid]

START: Weights = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(3, np.float32)}
NAMES = ("alpha", "beta", "gamma", "delta")
_draw = np.random.default_rng(0)


def change(size: float = 1.0) -> Weights:
    return {
        name: (size * _draw.standard_normal(value.shape)).astype(np.float32)
        for name, value in START.items()
    }


def answer(message: Message, **other: Any) -> Message:  # noqa: ANN401
    return Message(TrainReply(change=change() | other).to_content(), reply_to=message)


def died(message: Message) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_CRASHED, "user7 likes item 3"), reply_to=message)


def away(message: Message) -> Message:
    reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, "Node Unavailable"), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = 1  # as Flower answers in its place
    return reply


FAULTS: dict[Outcome, Callable[[Message], Message | None]] = {
    Outcome.MISSING: lambda message: None,
    Outcome.FAILED: died,
    Outcome.ABSENT: away,
    Outcome.NOT_FINITE: lambda m: answer(m, b=np.array([0, np.nan, 0], np.float32)),
    Outcome.WRONG_SHAPE: lambda m: answer(m, b=np.zeros(1, np.float32)),
    Outcome.TOO_LONG: lambda m: answer(m, b=np.full(3, 1e9, np.float32)),
    Outcome.MALFORMED: lambda m: Message(RecordDict(), reply_to=m),
} | {Outcome.of(code): lambda message, code=code: refusal_reply(code, message) for code in Refusal}


@pytest.fixture(scope="module")
def grid_of(connect: Callable[[Iterable[Path]], FakeGrid]) -> MakeGrid:
    """A grid between the coordinator and functions."""

    def make(nodes: dict[int, Node]) -> FakeGrid:
        grid = connect([])
        grid.nodes.update(nodes)
        return grid

    return make


class Federation:
    """A strategy, the nodes it asks, and what it says of each attempt."""

    def __init__(self, make: MakeGrid, nodes: dict[str, Node], **server: Any) -> None:  # noqa: ANN401
        fields: dict[str, Any] = {"deadline_seconds": 0.05, "retry_seconds": 0.0, "retries": 2}
        config = RunConfig(
            privacy=PrivacyConfig(epsilon=8.0, delta=1e-5), server=ServerConfig(**fields | server)
        )
        self.partners = {
            name: Partner(node_id=number, organisation=name, population=9)
            for number, name in enumerate(NAMES, start=1)
        }
        self.fake = make({self.partners[name].node_id: node for name, node in nodes.items()})
        self.grid = PatientGrid(self.fake)
        self.misses: list[RoundReport] = []
        self.strategy = FederatedStrategy(
            config,
            Terms(run="r", catalogue="c", noise_multiplier=1.0),
            self.look_up,
            names=list(START),
            on_miss=self.misses.append,
        )
        self.weights, self.number = START, 0

    def look_up(self, _: object) -> list[Partner]:
        here = set(self.fake.nodes)
        return [replace(p, connected=p.node_id in here) for p in self.partners.values()]

    def round(self) -> RoundReport:
        self.number += 1
        asked = self.strategy.configure_train(
            self.number, to_arrays(self.weights), ConfigRecord(), self.grid
        )
        timeout = self.strategy._config.server.deadline_seconds
        replies = self.grid.send_and_receive(asked, timeout=timeout)
        arrays, _ = self.strategy.aggregate_train(self.number, replies)
        assert arrays is not None
        self.weights = to_weights(arrays)
        return self.strategy.report


def outcomes(report: RoundReport) -> dict[str, Outcome]:
    return {name: verdict.outcome for name, verdict in report.verdicts.items()}


# --- each outcome --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_told_by_organisation_and_reason(
    grid_of: MakeGrid, fault: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    nodes: dict[str, Node] = dict.fromkeys(NAMES, answer) | {"beta": FAULTS[fault]}
    federation = Federation(grid_of, nodes)
    with caplog.at_level(logging.WARNING, "sotto.server"):
        report = federation.round()
    assert outcomes(report) == dict.fromkeys(NAMES, Outcome.VALID) | {"beta": fault}
    assert report.attempts == 1, "enough are valid: nobody is asked again"
    assert report.verdicts["beta"].reason in caplog.text
    assert "round 1 goes on without beta: " in caplog.text
    assert "user7" not in caplog.text
    assert all(np.isfinite(value).all() for value in federation.weights.values())


def test_there_is_a_fault_for_every_outcome() -> None:
    tested = {Outcome.VALID, Outcome.LATE, Outcome.STALE}
    assert set(FAULTS) | tested == set(Outcome)


def test_the_last_rounds_answer_does_not_count_again(grid_of: MakeGrid) -> None:
    kept: list[Weights] = []

    def replaying(message: Message) -> Message:
        if not kept:
            kept.append(change())
        return Message(TrainReply(change=kept[0]).to_content(), reply_to=message)

    federation = Federation(grid_of, dict.fromkeys(NAMES, answer) | {"beta": replaying})
    assert outcomes(federation.round())["beta"] is Outcome.VALID
    for _ in range(2):
        assert outcomes(federation.round())["beta"] is Outcome.STALE, "nor does it a round later"


def test_a_restarted_coordinator_knows_the_last_rounds_answer(grid_of: MakeGrid) -> None:
    same = change()

    def replaying(message: Message) -> Message:
        return Message(TrainReply(change=same).to_content(), reply_to=message)

    nodes: dict[str, Node] = dict.fromkeys(NAMES, answer) | {"beta": replaying}
    before, after = Federation(grid_of, nodes), Federation(grid_of, nodes)
    before.round()
    after.strategy.restore(before.strategy.state, dict(before.strategy.answers))
    assert outcomes(after.round())["beta"] is Outcome.STALE


def test_no_change_at_all_may_come_twice(grid_of: MakeGrid) -> None:
    """Without noise an empty batch gives that."""

    def nothing(message: Message) -> Message:
        return Message(TrainReply(change=START).to_content(), reply_to=message)

    federation = Federation(grid_of, dict.fromkeys(NAMES, nothing))
    for _ in range(2):
        assert set(outcomes(federation.round()).values()) == {Outcome.VALID}


def test_an_answer_after_its_round_is_late_and_changes_nothing(grid_of: MakeGrid) -> None:
    held: list[Message] = []

    def slow(message: Message) -> Message | None:
        held.append(message)
        return None

    federation = Federation(grid_of, dict.fromkeys(NAMES, answer) | {"beta": slow})
    assert outcomes(federation.round())["beta"] is Outcome.MISSING
    reply = answer(held[0], b=np.full(3, 100, np.float32))
    federation.fake._replies[held[0].metadata.message_id] = reply
    report = federation.round()
    assert report.late == ("beta",)
    assert outcomes(report)["beta"] is Outcome.MISSING
    assert max(np.abs(value).max() for value in federation.weights.values()) < 10
    assert federation.round().late == (), "told once"


def test_a_reason_is_never_long(grid_of: MakeGrid) -> None:
    federation = Federation(
        grid_of,
        dict.fromkeys(NAMES, answer)
        | {"beta": lambda m: answer(m, **{"\x1b[2J" * 10_000: np.zeros(1, np.float32)})},
    )
    reason = federation.round().verdicts["beta"].reason
    assert len(reason) <= 300
    assert "\x1b" not in reason


# --- retries -------------------------------------------------------------------------------------


def test_who_was_missing_is_asked_again_and_nobody_else(grid_of: MakeGrid) -> None:
    asked: dict[str, list[TrainRequest]] = {name: [] for name in NAMES}

    def counting(name: str, fault: Callable[[Message], Message | None], times: int) -> Node:
        def node(message: Message) -> Message | None:
            asked[name].append(TrainRequest.from_content(message.content))
            return fault(message) if len(asked[name]) <= times else answer(message)

        return node

    nan = FAULTS[Outcome.NOT_FINITE]
    federation = Federation(
        grid_of,
        {
            "alpha": counting("alpha", answer, 0),
            "beta": counting("beta", FAULTS[Outcome.MISSING], 2),
            "gamma": counting("gamma", died, 1),
            "delta": counting("delta", nan, 9),
        },
        quorum=0.75,
    )
    report = federation.round()
    assert {name: len(requests) for name, requests in asked.items()} == {
        "alpha": 1,
        "beta": 3,
        "gamma": 2,
        "delta": 1,
    }
    assert {(r.run, r.round) for requests in asked.values() for r in requests} == {("r", 1)}
    assert (report.attempts, report.valid, report.needed) == (3, 3, 3)
    assert [outcomes(miss)["gamma"] for miss in federation.misses] == [
        Outcome.FAILED,
        Outcome.VALID,
    ]


def test_a_run_pauses_after_the_last_attempt_and_says_why(grid_of: MakeGrid) -> None:
    federation = Federation(grid_of, {"alpha": answer, "beta": died}, quorum=0.5, organisations=4)
    with pytest.raises(
        QuorumError,
        match=r"round 1 has 1 valid replies of 4, 2 are needed \(beta: the node failed \(code 8\); "
        r"delta: its node is not connected; gamma: .*\), after 3 attempts\. Finished rounds are",
    ):
        federation.round()
    assert len(federation.misses) == 2


def test_waits_double(grid_of: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    federation = Federation(
        grid_of, {"alpha": died}, retries=4, retry_seconds=3.0, organisations=2, quorum=1.0
    )
    with pytest.raises(QuorumError, match="after 5 attempts"):
        federation.round()
    assert [wait for wait in waits if wait >= 3] == [3, 6, 12, 24]


def test_an_answer_between_two_attempts_counts(grid_of: MakeGrid) -> None:
    held: list[Message] = []

    def slow(message: Message) -> Message | None:
        held.append(message)
        return None

    federation = Federation(grid_of, {"alpha": slow}, quorum=1.0)

    def comes(_: RoundReport) -> None:
        message = held[0]
        federation.fake._replies[message.metadata.message_id] = answer(message)

    federation.strategy._on_miss = comes
    report = federation.round()
    assert outcomes(report)["alpha"] is Outcome.VALID
    assert len(held) == 1


def test_an_answer_to_the_first_attempt_ends_the_second(grid_of: MakeGrid) -> None:
    """A node that was slow once sends what it had, and is not waited for again."""
    held: list[Message] = []

    def slow(message: Message) -> Message | None:
        held.append(message)
        if len(held) == 2:
            first = held[0].metadata.message_id
            federation.fake._replies[first] = answer(held[0])
        return None

    federation = Federation(grid_of, {"alpha": slow}, quorum=1.0, deadline_seconds=1.0)
    started = time.monotonic()
    report = federation.round()
    assert (outcomes(report)["alpha"], report.attempts) == (Outcome.VALID, 2)
    assert time.monotonic() - started < 1.9, "one deadline, not two"
    federation.fake._replies[held[1].metadata.message_id] = answer(held[1])
    federation.fake.nodes[1] = answer
    assert federation.round().late == ("alpha",)


def test_where_late_answers_are_enough_nobody_is_asked_again(grid_of: MakeGrid) -> None:
    """A round does not wait a second deadline for a node that is dead."""
    held: list[Message] = []

    def dead(_: Message) -> None: ...

    nodes: dict[str, Node] = {"alpha": held.append, "beta": held.append, "gamma": dead}
    federation = Federation(grid_of, nodes, quorum=0.5, organisations=3, deadline_seconds=1.0)

    def come(_: RoundReport) -> None:
        federation.fake._replies |= {m.metadata.message_id: answer(m) for m in held}

    federation.strategy._on_miss = come
    started = time.monotonic()
    report = federation.round()
    assert time.monotonic() - started < 1.9, "one deadline, not two"
    assert (report.valid, report.attempts, len(federation.fake.sent)) == (2, 1, 3)
    assert outcomes(report)["gamma"] is Outcome.MISSING


def test_nodes_that_come_back_between_attempts_take_part(grid_of: MakeGrid) -> None:
    federation = Federation(grid_of, {}, quorum=0.5)
    back: dict[int, Node] = {1: answer, 2: answer}
    federation.strategy._on_miss = lambda _: federation.fake.nodes.update(back)
    report = federation.round()
    assert outcomes(report) == {
        "alpha": Outcome.VALID,
        "beta": Outcome.VALID,
        "gamma": Outcome.ABSENT,
        "delta": Outcome.ABSENT,
    }


def test_those_who_are_away_count_towards_what_the_first_round_takes(grid_of: MakeGrid) -> None:
    """One of four that is left is no quorum of a half."""
    assert Federation(grid_of, {"alpha": answer}, organisations=1).round().needed == 1
    with pytest.raises(QuorumError, match="2 are needed"):
        Federation(grid_of, {"alpha": answer}, organisations=4).round()


def test_a_robust_rule_raises_the_quorum(grid_of: MakeGrid) -> None:
    robust = {"aggregation": Aggregation.TRIMMED_MEAN, "malicious": 1, "organisations": 4}
    nodes: dict[str, Node] = {"alpha": answer, "beta": answer}
    with pytest.raises(QuorumError, match="2 valid replies of 4, 3 are needed"):
        Federation(grid_of, nodes, **robust).round()
    assert Federation(grid_of, nodes | {"gamma": answer}, **robust).round().valid == 3


def test_a_huge_reply_within_the_bound_does_not_move_a_robust_run(grid_of: MakeGrid) -> None:
    nodes: dict[str, Node] = dict.fromkeys(NAMES, answer)
    nodes["beta"] = lambda m: answer(m, b=np.array([5e3, 5e3, 5e3], np.float32))
    for rule, far in ((Aggregation.MEDIAN, False), (Aggregation.MEAN, True)):
        robust = rule is not Aggregation.MEAN
        federation = Federation(
            grid_of, nodes, aggregation=rule, malicious=int(robust), organisations=4
        )
        federation.round()
        assert bool(np.abs(federation.weights["b"]).max() > 10) is far


# --- the grid ------------------------------------------------------------------------------------


def test_a_message_that_cannot_be_delivered_does_not_end_the_run(grid_of: MakeGrid) -> None:
    """The node left between the look-up and the request."""
    federation = Federation(grid_of, {"alpha": answer, "beta": answer})
    everybody = list(federation.partners.values())
    federation.strategy._look_up = lambda _: everybody
    assert outcomes(federation.round())["delta"] is Outcome.MISSING


def test_a_node_that_lags_by_one_message_is_nudged(
    grid_of: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends each answer when the next message comes, as Flower's SuperNode may."""
    monkeypatch.setattr(server.rounds.grid, "NUDGES", (0.05, 0.1))
    left_over: list[Message] = []

    def lagging(message: Message) -> None:
        for old in left_over:
            federation.fake._replies[old.metadata.message_id] = answer(old)
        left_over[:] = [message]

    federation = Federation(grid_of, {"alpha": lagging}, quorum=1.0, deadline_seconds=5.0)
    started = time.monotonic()
    for _ in range(3):
        report = federation.round()
        assert (outcomes(report)["alpha"], report.attempts) == (Outcome.VALID, 1)
    assert time.monotonic() - started < 3
    kinds = [message.metadata.message_type for message in federation.fake.sent]
    assert kinds == [TRAIN, DESCRIBE] * 3


def test_waiting_ends_with_the_deadline(grid_of: MakeGrid) -> None:
    grid = PatientGrid(grid_of({1: lambda _: None}))
    started = time.monotonic()
    message = Message(RecordDict(), 1, "train")
    assert list(grid.send_and_receive([message], timeout=0.3)) == []
    assert 0.3 <= time.monotonic() - started < 2


def test_where_no_answer_can_change_nobody_waits(grid_of: MakeGrid) -> None:
    """Two have refused for good, and one of the others is only away."""
    refused = FAULTS[Outcome.REFUSED_POLICY]
    nodes: dict[str, Node] = {"alpha": answer, "beta": refused, "gamma": refused}
    federation = Federation(grid_of, nodes, organisations=4, quorum=0.75, retry_seconds=60.0)
    with pytest.raises(QuorumError, match=r"beta: .*policy; .* after 1 attempts"):
        federation.round()
    assert federation.misses == []
