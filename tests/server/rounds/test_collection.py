"""Collections among partners that fail in every way, for training and for statistics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

import server.rounds.grid
from server.flower_internals import ErrorCode
from server.rounds.collection import Collection, CollectionSpec, Memory
from server.rounds.collection_report import CollectionReport
from server.rounds.grid import PatientGrid
from server.rounds.participants import Partner
from server.rounds.requests import Terms, statistic_spec, train_request, training_spec
from shared.config import Aggregation, ModelConfig, PrivacyConfig, RunConfig, ServerConfig
from shared.errors import QuorumError
from shared.messages import (
    DESCRIBE,
    STATISTICS,
    TRAIN,
    Statistic,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
    Weights,
    refusal_reply,
)
from shared.outcomes import Outcome, Refusal

if TYPE_CHECKING:
    from tests.conftest import FakeGrid, Node

    MakeGrid = Callable[[dict[int, Node]], FakeGrid]

NAMES = ("alpha", "beta", "gamma", "delta")
POPULATION = 9
CONFIG = RunConfig(privacy=PrivacyConfig(epsilon=8.0, delta=1e-5))
_draw = np.random.default_rng(0)
Answer = Callable[[Message], Message | None]


@dataclass(frozen=True)
class Use:
    """What collections are used for.

    Attributes:
        kind: of message.
        spec: of the n-th collection.
        answer: a good answer to a request.
        faults: what leads to each outcome.
        names: of the first two collections.
    """

    kind: str
    spec: Callable[[int], CollectionSpec[Any]]
    answer: Callable[[Message], Message]
    faults: dict[Outcome, Answer]
    names: tuple[str, str]


def died(message: Message) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_CRASHED, "user7 likes item 3"), reply_to=message)


def away(message: Message) -> Message:
    reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, "Node Unavailable"), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = 1  # as Flower answers in its place
    return reply


COMMON: dict[Outcome, Answer] = {
    Outcome.MISSING: lambda message: None,
    Outcome.FAILED: died,
    Outcome.ABSENT: away,
    Outcome.MALFORMED: lambda m: Message(RecordDict(), reply_to=m),
} | {Outcome.of(code): lambda message, code=code: refusal_reply(code, message) for code in Refusal}

# --- training ------------------------------------------------------------------------------------

START: Weights = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(3, np.float32)}


def change() -> Weights:
    return {n: _draw.standard_normal(v.shape).astype(np.float32) for n, v in START.items()}


def with_change(message: Message, **other: Any) -> Message:  # noqa: ANN401
    return Message(TrainReply(change=change() | other).to_content(), reply_to=message)


def round_of_training(number: int) -> CollectionSpec[Weights]:
    terms = Terms(run="r", catalogue="c", noise_multiplier=1.0)
    return training_spec(train_request(CONFIG, terms, number, START), max_norm=1e4)


TRAINING = Use(
    kind=TRAIN,
    spec=round_of_training,
    answer=with_change,
    faults=COMMON
    | {
        Outcome.NOT_FINITE: lambda m: with_change(m, b=np.array([0, np.nan, 0], np.float32)),
        Outcome.WRONG_SHAPE: lambda m: with_change(m, b=np.zeros(1, np.float32)),
        Outcome.TOO_LONG: lambda m: with_change(m, b=np.full(3, 1e9, np.float32)),
    },
    names=("round 1", "round 2"),
)

# --- statistics ----------------------------------------------------------------------------------

SHAPES = {Statistic.POPULARITY: (4,), Statistic.MOMENT: (2, 2)}


def with_total(message: Message, total: np.ndarray | None = None) -> Message:
    if total is None:
        request = StatisticsRequest.from_content(message.content)
        total = _draw.uniform(0, 1, SHAPES[request.statistic])
    return Message(StatisticsReply(total=total.astype(np.float32)).to_content(), reply_to=message)


def one_statistic(number: int) -> CollectionSpec[Any]:
    statistic = list(Statistic)[(number - 1) % 2]
    request = StatisticsRequest(
        run="r",
        round=number,
        catalogue="c",
        model=ModelConfig(),
        noise_multiplier=1.0,
        statistic=statistic,
        fade=0.5,
    )
    return statistic_spec(request, SHAPES[statistic])


STATISTIC = Use(
    kind=STATISTICS,
    spec=one_statistic,
    answer=with_total,
    faults=COMMON
    | {
        Outcome.NOT_FINITE: lambda m: with_total(m, np.array([0, np.nan, 0, 0])),
        Outcome.WRONG_SHAPE: lambda m: with_total(m, np.zeros(3)),
        Outcome.TOO_LONG: lambda m: with_total(m, np.full(4, 1e9)),
    },
    names=("the popularity statistic", "the moment statistic"),
)
USES = {"training": TRAINING, "statistics": STATISTIC}
each_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@pytest.fixture(scope="module")
def grid_of(connect: Callable[[Iterable[Path]], FakeGrid]) -> MakeGrid:
    """A grid between the coordinator and functions."""

    def make(nodes: dict[int, Node]) -> FakeGrid:
        grid = connect([])
        grid.nodes.update(nodes)
        return grid

    return make


class Coordinator:
    """Collects from the nodes of four partners, one collection after the other."""

    def __init__(self, make: MakeGrid, use: Use, nodes: dict[str, Node], **server: Any) -> None:  # noqa: ANN401
        fields: dict[str, Any] = {"deadline_seconds": 0.05, "retry_seconds": 0.0, "retries": 2}
        self.use, self.config = use, ServerConfig(**fields | server)
        self.partners = {
            name: Partner(node_id=number, organisation=name, population=POPULATION)
            for number, name in enumerate(NAMES, start=1)
        }
        self.fake = make({self.partners[name].node_id: node for name, node in nodes.items()})
        self.grid = PatientGrid(self.fake)
        self.misses: list[CollectionReport] = []
        self.on_miss: Callable[[CollectionReport], Any] = self.misses.append
        self.memory, self.number = Memory(), 0
        self.collection: Collection[Any] | None = None

    def look_up(self, _: object) -> list[Partner]:
        connected = set(self.fake.nodes)
        return [replace(p, connected=p.node_id in connected) for p in self.partners.values()]

    def collect(self) -> CollectionReport:
        self.number += 1
        spec = self.use.spec(self.number)
        collection = self.collection = Collection(spec, self.config, self.memory)
        collection.collect(self.grid, self.look_up, self.on_miss)
        self.memory = collection.memory
        return collection.report

    def deliver(self, request: Message, reply: Message) -> None:
        """A reply arrives, whenever it is looked for next."""
        self.fake._replies[request.metadata.message_id] = reply


def everybody(use: Use, **others: Node) -> dict[str, Node]:
    nodes: dict[str, Node] = dict.fromkeys(NAMES, use.answer)
    return nodes | others


def outcomes(report: CollectionReport) -> dict[str, Outcome]:
    return {name: verdict.outcome for name, verdict in report.verdicts.items()}


# --- each outcome of the table -------------------------------------------------------------------


@each_use
@pytest.mark.parametrize("fault", TRAINING.faults)
def test_each_fault_has_its_outcome_and_a_reason(
    grid_of: MakeGrid, use: Use, fault: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = Coordinator(grid_of, use, everybody(use, beta=use.faults[fault]))
    with caplog.at_level(logging.WARNING, "sotto.server"):
        report = coordinator.collect()
    assert outcomes(report) == dict.fromkeys(NAMES, Outcome.VALID) | {"beta": fault}
    assert report.attempts == 1, "enough are valid: nobody is asked again"
    assert report.verdicts["beta"].reason in caplog.text
    assert f"{use.names[0]} goes on without beta: " in caplog.text
    assert "user7" not in caplog.text
    assert coordinator.collection is not None
    valid = coordinator.collection.valid
    assert [partner.organisation for partner, _ in valid] == ["alpha", "delta", "gamma"]


@each_use
def test_there_is_a_fault_for_every_outcome(use: Use) -> None:
    tested = {Outcome.VALID, Outcome.LATE, Outcome.STALE}
    assert set(use.faults) | tested == set(Outcome)


@each_use
@pytest.mark.parametrize("fault", TRAINING.faults)
def test_only_a_passing_fault_is_asked_again(grid_of: MakeGrid, use: Use, fault: Outcome) -> None:
    asked: list[Message] = []

    def node(message: Message) -> Message | None:
        asked.append(message)
        return use.faults[fault](message) if len(asked) == 1 else use.answer(message)

    nodes: dict[str, Node] = {"alpha": use.answer, "beta": node}
    coordinator = Coordinator(grid_of, use, nodes, quorum=1.0, organisations=2)
    if fault.retryable:
        assert outcomes(coordinator.collect())["beta"] is Outcome.VALID
    else:
        with pytest.raises(QuorumError):
            coordinator.collect()
    assert len(asked) == 1 + fault.retryable


@pytest.mark.parametrize("restarted", [False, True])
def test_an_earlier_rounds_answer_is_stale(grid_of: MakeGrid, restarted: bool) -> None:
    kept = change()

    def replaying(message: Message) -> Message:
        return Message(TrainReply(change=kept).to_content(), reply_to=message)

    coordinator = Coordinator(grid_of, TRAINING, everybody(TRAINING, beta=replaying))
    assert outcomes(coordinator.collect())["beta"] is Outcome.VALID
    for _ in range(2):
        if restarted:
            coordinator.memory = Memory(answers=dict(coordinator.memory.answers))
        assert outcomes(coordinator.collect())["beta"] is Outcome.STALE, "nor a round later"


def test_a_change_of_zero_may_come_twice(grid_of: MakeGrid) -> None:
    """Without noise an empty batch gives that."""

    def nothing(message: Message) -> Message:
        return Message(TrainReply(change=START).to_content(), reply_to=message)

    coordinator = Coordinator(grid_of, TRAINING, dict.fromkeys(NAMES, nothing))
    for _ in range(2):
        assert set(outcomes(coordinator.collect()).values()) == {Outcome.VALID}


def test_an_answer_to_the_other_statistic_has_the_wrong_shape(grid_of: MakeGrid) -> None:
    kept: list[np.ndarray] = []

    def replaying(message: Message) -> Message:
        if not kept:
            kept.append(_draw.uniform(0, 1, SHAPES[Statistic.POPULARITY]))
        return with_total(message, kept[0])

    coordinator = Coordinator(grid_of, STATISTIC, everybody(STATISTIC, beta=replaying))
    assert outcomes(coordinator.collect())["beta"] is Outcome.VALID
    assert outcomes(coordinator.collect())["beta"] is Outcome.WRONG_SHAPE


def test_a_kept_answer_to_a_statistic_counts_again(grid_of: MakeGrid) -> None:
    """A resumed run repeats both requests, and gets the same bytes."""
    kept = _draw.uniform(0, 1, SHAPES[Statistic.POPULARITY])
    nodes = everybody(STATISTIC, beta=lambda message: with_total(message, kept))
    coordinator = Coordinator(grid_of, STATISTIC, nodes)
    for _ in range(2):
        coordinator.number = 0
        assert outcomes(coordinator.collect())["beta"] is Outcome.VALID


@each_use
def test_an_answer_after_its_collection_is_late_and_not_counted(
    grid_of: MakeGrid, use: Use
) -> None:
    held: list[Message] = []

    def slow(message: Message) -> Message | None:
        held.append(message)
        return None

    coordinator = Coordinator(grid_of, use, everybody(use, beta=slow))
    assert outcomes(coordinator.collect())["beta"] is Outcome.MISSING
    coordinator.deliver(held[0], use.answer(held[0]))
    report = coordinator.collect()
    assert report.late == ("beta",)
    assert outcomes(report)["beta"] is Outcome.MISSING
    assert coordinator.collection is not None
    assert "beta" not in [partner.organisation for partner, _ in coordinator.collection.valid]
    assert coordinator.collect().late == (), "reported once"


def test_a_late_statistic_is_reported_with_the_first_round(grid_of: MakeGrid) -> None:
    held: list[Message] = []
    nodes = everybody(STATISTIC, beta=held.append)
    coordinator = Coordinator(grid_of, STATISTIC, nodes)
    coordinator.collect()
    coordinator.use, coordinator.number = TRAINING, 0
    coordinator.fake.nodes.update(dict.fromkeys((1, 3, 4), with_change))
    coordinator.deliver(held[0], with_total(held[0]))
    assert coordinator.collect().late == ("beta",)


def test_a_late_answer_to_one_statistic_does_not_end_the_wait_for_the_other(
    grid_of: MakeGrid,
) -> None:
    """Both requests are of one kind, and are different questions."""
    held: list[Message] = []

    def slow(message: Message) -> Message | None:
        held.append(message)
        if len(held) == 1:
            return None
        coordinator.deliver(held[0], with_total(held[0]))
        return with_total(message)

    coordinator = Coordinator(grid_of, STATISTIC, everybody(STATISTIC, beta=slow))
    coordinator.collect()
    report = coordinator.collect()
    assert outcomes(report)["beta"] is Outcome.VALID
    coordinator.use, coordinator.number = TRAINING, 0
    coordinator.fake.nodes.update(dict.fromkeys((1, 2, 3, 4), with_change))
    assert coordinator.collect().late == ("beta",)


def test_a_reason_is_never_long(grid_of: MakeGrid) -> None:
    nodes = everybody(
        TRAINING, beta=lambda m: with_change(m, **{"\x1b[2J" * 10_000: np.zeros(1, np.float32)})
    )
    reason = Coordinator(grid_of, TRAINING, nodes).collect().verdicts["beta"].reason
    assert len(reason) <= 300
    assert "\x1b" not in reason


# --- retries -------------------------------------------------------------------------------------


@each_use
def test_a_retry_asks_for_the_same_of_those_without_a_final_outcome(
    grid_of: MakeGrid, use: Use
) -> None:
    asked: dict[str, list[tuple[str, int]]] = {name: [] for name in NAMES}

    def counting(name: str, fault: Answer, times: int) -> Node:
        def node(message: Message) -> Message | None:
            parse = TrainRequest if use is TRAINING else StatisticsRequest
            request = parse.from_content(message.content)
            asked[name].append((request.run, request.round))
            return fault(message) if len(asked[name]) <= times else use.answer(message)

        return node

    nan = use.faults[Outcome.NOT_FINITE]
    coordinator = Coordinator(
        grid_of,
        use,
        {
            "alpha": counting("alpha", use.answer, 0),
            "beta": counting("beta", use.faults[Outcome.MISSING], 2),
            "gamma": counting("gamma", died, 1),
            "delta": counting("delta", nan, 9),
        },
        quorum=0.75,
    )
    report = coordinator.collect()
    assert {name: len(requests) for name, requests in asked.items()} == {
        "alpha": 1,
        "beta": 3,
        "gamma": 2,
        "delta": 1,
    }
    assert {request for requests in asked.values() for request in requests} == {("r", 1)}
    assert (report.attempts, report.valid, report.needed) == (3, 3, 3)
    assert [outcomes(miss)["gamma"] for miss in coordinator.misses] == [
        Outcome.FAILED,
        Outcome.VALID,
    ]
    assert [miss.attempts for miss in coordinator.misses] == [1, 2]


@each_use
def test_after_the_last_attempt_the_error_names_each_failure(grid_of: MakeGrid, use: Use) -> None:
    nodes: dict[str, Node] = {"alpha": use.answer, "beta": died}
    coordinator = Coordinator(grid_of, use, nodes, quorum=0.5, organisations=4)
    with pytest.raises(
        QuorumError,
        match=rf"{use.names[0]} has 1 valid replies of 4, 2 are needed \(beta: the node failed "
        r"\(code 8\); delta: its node is not connected; gamma: .*\), after 3 attempts\. Finished "
        "rounds are saved, and no partner pays twice: correct the cause and resume, or resume "
        r"with a smaller quorum",
    ):
        coordinator.collect()
    assert len(coordinator.misses) == 2


@each_use
def test_waits_double(grid_of: MakeGrid, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    coordinator = Coordinator(
        grid_of,
        use,
        {"alpha": died},
        retries=4,
        retry_seconds=3.0,
        organisations=2,
        quorum=1.0,
    )
    with pytest.raises(QuorumError, match="after 5 attempts"):
        coordinator.collect()
    assert [wait for wait in waits if wait >= 3] == [3, 6, 12, 24]


@each_use
def test_an_answer_between_two_attempts_counts(grid_of: MakeGrid, use: Use) -> None:
    held: list[Message] = []
    coordinator = Coordinator(grid_of, use, {"alpha": held.append}, quorum=1.0)
    coordinator.on_miss = lambda _: coordinator.deliver(held[0], use.answer(held[0]))
    report = coordinator.collect()
    assert outcomes(report)["alpha"] is Outcome.VALID
    assert len(held) == 1


@each_use
def test_an_answer_to_the_first_attempt_ends_the_second(grid_of: MakeGrid, use: Use) -> None:
    """A node that was slow once sends what it had, and is not waited for again."""
    held: list[Message] = []

    def slow(message: Message) -> Message | None:
        held.append(message)
        if len(held) == 2:
            coordinator.deliver(held[0], use.answer(held[0]))
        return None

    coordinator = Coordinator(grid_of, use, {"alpha": slow}, quorum=1.0, deadline_seconds=1.0)
    started = time.monotonic()
    report = coordinator.collect()
    assert (outcomes(report)["alpha"], report.attempts) == (Outcome.VALID, 2)
    assert time.monotonic() - started < 1.9, "one deadline, not two"
    coordinator.deliver(held[1], use.answer(held[1]))
    coordinator.fake.nodes[1] = use.answer
    assert coordinator.collect().late == ("alpha",)


@each_use
def test_where_late_answers_make_a_quorum_nobody_is_asked_again(
    grid_of: MakeGrid, use: Use
) -> None:
    """There is no second deadline to wait for a node that is dead."""
    held: list[Message] = []

    def dead(_: Message) -> None: ...

    nodes: dict[str, Node] = {"alpha": held.append, "beta": held.append, "gamma": dead}
    coordinator = Coordinator(
        grid_of, use, nodes, quorum=0.5, organisations=3, deadline_seconds=1.0
    )

    def deliver_all(_: CollectionReport) -> None:
        for message in held:
            coordinator.deliver(message, use.answer(message))

    coordinator.on_miss = deliver_all
    started = time.monotonic()
    report = coordinator.collect()
    assert time.monotonic() - started < 1.9, "one deadline, not two"
    assert (report.valid, report.attempts, len(coordinator.fake.sent)) == (2, 1, 3)
    assert outcomes(report)["gamma"] is Outcome.MISSING


@each_use
def test_nodes_that_come_back_between_attempts_take_part(grid_of: MakeGrid, use: Use) -> None:
    coordinator = Coordinator(grid_of, use, {}, quorum=0.5)
    back: dict[int, Node] = {1: use.answer, 2: use.answer}
    coordinator.on_miss = lambda _: coordinator.fake.nodes.update(back)
    assert outcomes(coordinator.collect()) == {
        "alpha": Outcome.VALID,
        "beta": Outcome.VALID,
        "gamma": Outcome.ABSENT,
        "delta": Outcome.ABSENT,
    }


@each_use
def test_there_is_no_wait_when_no_outcome_can_change(grid_of: MakeGrid, use: Use) -> None:
    """Two have refused for good, and one of the others is only away."""
    refused = use.faults[Outcome.REFUSED_POLICY]
    nodes: dict[str, Node] = {"alpha": use.answer, "beta": refused, "gamma": refused}
    coordinator = Coordinator(grid_of, use, nodes, organisations=4, quorum=0.75, retry_seconds=60.0)
    with pytest.raises(QuorumError, match=r"beta: .*policy; .* after 1 attempts"):
        coordinator.collect()
    assert coordinator.misses == []


# --- the quorum ----------------------------------------------------------------------------------


@each_use
def test_organisations_that_are_away_count_up_to_those_that_a_start_takes(
    grid_of: MakeGrid, use: Use
) -> None:
    """One of four that is left is no quorum of a half."""
    nodes: dict[str, Node] = {"alpha": use.answer}
    assert Coordinator(grid_of, use, nodes, organisations=1).collect().needed == 1
    with pytest.raises(QuorumError, match="2 are needed"):
        Coordinator(grid_of, use, nodes, organisations=4).collect()


@each_use
def test_a_robust_rule_raises_the_quorum(grid_of: MakeGrid, use: Use) -> None:
    robust = {"aggregation": Aggregation.TRIMMED_MEAN, "malicious": 1, "organisations": 4}
    nodes: dict[str, Node] = {"alpha": use.answer, "beta": use.answer}
    with pytest.raises(QuorumError, match="2 valid replies of 4, 3 are needed"):
        Coordinator(grid_of, use, nodes, **robust).collect()
    assert Coordinator(grid_of, use, nodes | {"gamma": use.answer}, **robust).collect().valid == 3


# --- the grid ------------------------------------------------------------------------------------


@each_use
def test_a_message_that_cannot_be_delivered_does_not_end_the_run(
    grid_of: MakeGrid, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node left between the look-up and the request."""
    coordinator = Coordinator(grid_of, use, {"alpha": use.answer, "beta": use.answer})
    partners = list(coordinator.partners.values())
    monkeypatch.setattr(coordinator, "look_up", lambda _: partners)
    assert outcomes(coordinator.collect())["delta"] is Outcome.MISSING


@each_use
def test_a_node_that_lags_by_one_message_is_nudged(
    grid_of: MakeGrid, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends each answer when the next message comes, as Flower's SuperNode may."""
    monkeypatch.setattr(server.rounds.grid, "NUDGES", (0.05, 0.1))
    left_over: list[Message] = []

    def lagging(message: Message) -> None:
        for old in left_over:
            coordinator.deliver(old, use.answer(old))
        left_over[:] = [] if message.metadata.message_type == DESCRIBE else [message]

    coordinator = Coordinator(grid_of, use, {"alpha": lagging}, quorum=1.0, deadline_seconds=5.0)
    started = time.monotonic()
    for _ in range(3):
        report = coordinator.collect()
        assert (outcomes(report)["alpha"], report.attempts) == (Outcome.VALID, 1)
    assert time.monotonic() - started < 3
    kinds = [message.metadata.message_type for message in coordinator.fake.sent]
    assert kinds == [use.kind, DESCRIBE] * 3


def test_waiting_ends_with_the_deadline(grid_of: MakeGrid) -> None:
    grid = PatientGrid(grid_of({1: lambda _: None}))
    started = time.monotonic()
    message = Message(RecordDict(), 1, "train")
    assert list(grid.send_and_receive([message], timeout=0.3)) == []
    assert 0.3 <= time.monotonic() - started < 2
