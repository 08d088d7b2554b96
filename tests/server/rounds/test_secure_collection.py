"""Sums under secure aggregation among organisations that leave at every step."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, Message
from numpy.typing import NDArray

from server.flower_internals import ErrorCode
from server.rounds.collection import CollectionSpec, Memory
from server.rounds.collection_report import CollectionReport
from server.rounds.grid import PatientGrid
from server.rounds.participants import Partner
from server.rounds.requests import (
    Terms,
    evaluate_request,
    evaluation_spec,
    statistic_spec,
    train_request,
    training_spec,
)
from server.rounds.secure_collection import SecureCollection
from server.rounds.secure_sum import SumAttempt
from server.state.attempts import Attempts
from shared.config import (
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    Trust,
    Weighting,
)
from shared.errors import CheckpointError, QuorumError
from shared.messages import (
    AGGREGATE,
    STEPS,
    AggregateReply,
    AggregateRequest,
    Statistic,
    StatisticsRequest,
    Weights,
    refusal_reply,
)
from shared.outcomes import Outcome, Refusal
from shared.privacy.distributed_noise import GRID_BITS
from shared.privacy.release import Release, ReleaseKind
from shared.secure_aggregation.messages import (
    Invitation,
    KeyList,
    ShareDelivery,
    SurvivorList,
    SurvivorProof,
)
from shared.secure_aggregation.partner import Partner as Machine
from shared.secure_aggregation.roster import Roster
from shared.secure_aggregation.signing import Identity

if TYPE_CHECKING:
    from tests.conftest import FakeGrid, Node

    MakeGrid = Callable[[dict[int, Node]], FakeGrid]

NAMES = ("alpha", "beta", "delta", "gamma", "omega")
CONFIG = RunConfig(
    privacy=PrivacyConfig(
        epsilon=8.0, delta=1e-5, trust=Trust.SECURE_AGGREGATION, colluding=1, dropouts=1
    ),
    training=TrainingConfig(rounds=3, sample_rate=0.5, learning_rate=0.25, weight_decay=0.5),
    server=ServerConfig(
        organisations=5, weighting=Weighting.POPULATION, retry_seconds=0.0, retries=3, quorum=0.8
    ),
)
TERMS = Terms(run="r", catalogue="c" * 64, noise_multiplier=0.5)
START: Weights = {"b": np.ones((2, 2), np.float32), "a": np.zeros(3, np.float32)}
Fault = Callable[[Message, AggregateRequest], Message | None]


@cache
def identity(name: str) -> Identity:
    return Identity(name=name, key=ec.generate_private_key(ec.SECP384R1()))


def silent(_: Message, __: AggregateRequest) -> None:
    return None


def died(message: Message, _: AggregateRequest) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_CRASHED, "user7"), reply_to=message)


def refusing(code: Refusal) -> Fault:
    return lambda message, _: refusal_reply(code, message)


@dataclass
class Organisation:
    """Answers the steps with the protocol's machine, and fails where it is told to.

    Attributes:
        name: its own.
        points: what it adds, [m].
        faults: by attempt and step; a fault happens as often as it stands in the list.
        asked: what it was asked, in order.
    """

    name: str
    points: NDArray[np.int64]
    faults: dict[tuple[int, int], list[Fault]] = field(default_factory=dict)
    asked: list[AggregateRequest] = field(default_factory=list)
    _machines: dict[int, Machine] = field(default_factory=dict)

    def __call__(self, message: Message) -> Message | None:
        assert message.metadata.message_type == AGGREGATE
        request = AggregateRequest.from_content(message.content)
        self.asked.append(request)
        if faults := self.faults.get((request.attempt, request.step)):
            return faults.pop(0)(message, request)
        reply = AggregateReply(message=self._answer(request).to_bytes())
        return Message(reply.to_content(), reply_to=message)

    def _answer(self, request: AggregateRequest) -> Any:  # noqa: ANN401
        data, number = request.message, request.attempt
        if request.step == 1:
            invitation = Invitation.from_bytes(data)
            peers = {n: identity(n).public for n in NAMES if n != self.name}
            roster = Roster(peers=peers, colluding=1, fewest=4)
            own = identity(self.name)
            self._machines.setdefault(number, Machine(own, roster, invitation.aggregation))
            return self._machines[number].advertise(invitation)
        machine = self._machines[number]
        match request.step:
            case 2:
                return machine.share_keys(KeyList.from_bytes(data))
            case 3:
                return machine.mask(ShareDelivery.from_bytes(data), self.points)
            case 4:
                return machine.sign_survivors(SurvivorList.from_bytes(data))
            case _:
                return machine.unmask(SurvivorProof.from_bytes(data))


@dataclass
class Federation:
    """Five organisations, a grid and a counter."""

    organisations: dict[str, Organisation]
    grid: FakeGrid
    attempts: Attempts
    partners: list[Partner]
    missed: list[CollectionReport] = field(default_factory=list)

    def collection(
        self, spec: CollectionSpec[Any], config: RunConfig = CONFIG
    ) -> SecureCollection[Any]:
        return SecureCollection(spec, config, Memory(), self.attempts)

    def collect(
        self, spec: CollectionSpec[Any] | None = None, config: RunConfig = CONFIG
    ) -> SecureCollection[Any]:
        collection = self.collection(spec or training(), config)
        collection.collect(self.grid, lambda _: self.partners, self.missed.append)
        return collection

    def fails(self, name: str, step: int, *faults: Fault, attempt: int = 1) -> None:
        self.organisations[name].faults[attempt, step] = list(faults)

    def asked(self, name: str) -> list[tuple[int, int]]:
        return [(one.attempt, one.step) for one in self.organisations[name].asked]


@pytest.fixture
def grid_of(connect: Callable[[Iterable[Path]], FakeGrid]) -> MakeGrid:
    """A grid of these nodes."""

    def made(nodes: dict[int, Node]) -> FakeGrid:
        grid = connect([])
        grid.nodes.update(nodes)
        return grid

    return made


@pytest.fixture
def federation(grid_of: MakeGrid, tmp_path: Path) -> Federation:
    return make(grid_of, tmp_path, 7)


def make(grid_of: MakeGrid, folder: Path, length: int, size: float = 1.0) -> Federation:
    draw = np.random.default_rng(1)
    scale = size * 2.0**GRID_BITS
    organisations = {
        name: Organisation(name, (draw.standard_normal(length) * scale).astype(np.int64))
        for name in NAMES
    }
    partners = [
        Partner(
            node_id=number,
            organisation=name,
            population=10 * number,
            aggregation_key=identity(name).public,
        )
        for number, name in enumerate(NAMES, start=1)
    ]
    grid = grid_of(dict(enumerate(organisations.values(), start=1)))
    return Federation(organisations, grid, Attempts(folder, "r"), partners)


def training(number: int = 2) -> CollectionSpec[Weights]:
    return training_spec(train_request(CONFIG, TERMS, number, START), max_norm=1e4)


def sum_of(federation: Federation, names: tuple[str, ...] = NAMES) -> NDArray[np.float64]:
    total = sum(federation.organisations[name].points for name in names)
    return np.asarray(total).astype(np.float64) / 2.0**GRID_BITS


def outcomes(collection: SecureCollection[Any]) -> dict[str, Outcome]:
    return {name: v.outcome for name, v in collection.report.verdicts.items()}


# --- what a sum becomes -------------------------------------------------------------------------


def test_a_rounds_change_is_one_step_by_the_mean_gradient_of_all(federation: Federation) -> None:
    collection = federation.collect()
    assert [partner.organisation for partner, _ in collection.valid] == list(NAMES)
    gradient = CONFIG.training.clip_norm * sum_of(federation) / (0.5 * 150)
    for _, change in collection.valid:
        np.testing.assert_allclose(change["a"], -0.25 * gradient[:3], rtol=1e-6)
        expected = -0.25 * (gradient[3:].reshape(2, 2) + 0.5)
        np.testing.assert_allclose(change["b"], expected, rtol=1e-6)
    report = collection.report
    assert (report.sum_attempt, report.attempts, report.valid) == (1, 1, 5)
    assert report.left_at_step == {}
    assert report.bytes_up > 5 * 8 * 7
    assert all(federation.asked(name) == [(1, step) for step in STEPS] for name in NAMES)


def test_statistics_and_metrics_are_equal_parts_of_the_sum(
    grid_of: MakeGrid, tmp_path: Path
) -> None:
    statistic = StatisticsRequest(
        run="r",
        round=2,
        catalogue="c" * 64,
        model=ModelConfig(),
        noise_multiplier=0.5,
        statistic=Statistic.MOMENT,
        fade=0.0,
        trust=Trust.SECURE_AGGREGATION,
    )
    four = make(grid_of, tmp_path / "four", 4)
    parts = [part for _, part in four.collect(statistic_spec(statistic, (2, 2))).valid]
    np.testing.assert_allclose(np.sum(parts, axis=0).ravel(), sum_of(four))
    asked = evaluate_request(CONFIG, TERMS, 1, START)
    three = make(grid_of, tmp_path / "three", 3)
    parts = [part for _, part in three.collect(evaluation_spec(asked)).valid]
    np.testing.assert_allclose(np.sum(parts, axis=0), sum_of(three) * asked.clip_norm, rtol=1e-5)


def test_a_sum_that_honest_ones_cannot_reach_is_refused_at_once(
    grid_of: MakeGrid, tmp_path: Path
) -> None:
    federation = make(grid_of, tmp_path, 7, size=1e9)
    with pytest.raises(QuorumError, match=r"not what honest ones add up to .*max_update_norm"):
        federation.collect()
    assert federation.missed == []


# --- who leaves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", [silent, died, refusing(Refusal.DROPPED)])
def test_one_may_leave_at_any_step(federation: Federation, step: int, fault: Fault) -> None:
    federation.fails("beta", step, fault)
    collection = federation.collect()
    in_sum = tuple(name for name in NAMES if name != "beta" or step > 3)
    gradient = CONFIG.training.clip_norm * sum_of(federation, in_sum)
    users = 150 - 20 * ("beta" not in in_sum)
    change = collection.valid[0][1]
    np.testing.assert_allclose(change["a"], -0.25 * gradient[:3] / (0.5 * users), rtol=1e-6)
    assert collection.report.left_at_step == {"beta": step}
    verdict = collection.report.verdicts["beta"]
    assert (verdict.outcome is Outcome.VALID) == (step > 3)
    assert f"step {step}" in verdict.reason
    assert federation.asked("beta") == [(1, one) for one in range(1, step + 1)]


def test_those_that_are_not_connected_are_invited_and_not_asked(federation: Federation) -> None:
    federation.partners[0] = replace(federation.partners[0], connected=False)
    collection = federation.collect()
    assert outcomes(collection)["alpha"] is Outcome.ABSENT
    assert federation.asked("alpha") == []
    (invitation,) = {one.message for one in federation.organisations["beta"].asked[:1]}
    assert Invitation.from_bytes(invitation).dropouts == 1
    assert len(Invitation.from_bytes(invitation).participants) == 5


def test_one_without_a_key_is_not_invited(federation: Federation) -> None:
    federation.partners[0] = replace(federation.partners[0], aggregation_key=b"")
    collection = federation.collect()
    assert "no aggregation key" in collection.report.verdicts["alpha"].reason
    (first, *_) = federation.organisations["beta"].asked
    invitation = Invitation.from_bytes(first.message)
    assert (len(invitation.participants), invitation.dropouts) == (4, 0)


def test_a_step_with_too_few_answers_is_asked_again_with_the_same_bytes(
    federation: Federation,
) -> None:
    for step in STEPS:
        for name in ("beta", "gamma"):
            federation.fails(name, step, died)
    config = replace(CONFIG, server=replace(CONFIG.server, retries=9))
    collection = federation.collect(config=config)
    assert collection.report.valid == 5
    assert collection.report.left_at_step == {}
    assert federation.asked("alpha") == [(1, step) for step in STEPS]
    asked = federation.organisations["beta"].asked
    # One too few in steps 4 and 5 is enough for the threshold, which is 4 of 5.
    again = Counter((one.step, one.message) for one in asked)
    assert set(again.values()) == {2}
    assert [report.sum_attempt for report in federation.missed] == [1] * 5
    assert [report.valid for report in federation.missed] == [0] * 5


def test_an_attempt_that_cannot_go_on_is_followed_by_one_with_a_higher_number(
    federation: Federation,
) -> None:
    for name in ("beta", "gamma"):
        federation.fails(name, 3, refusing(Refusal.DROPPED))
    collection = federation.collect()
    assert outcomes(collection) == dict.fromkeys(NAMES, Outcome.VALID)
    report = collection.report
    assert (report.sum_attempt, report.attempts, report.left_at_step) == (2, 2, {})
    (missed,) = federation.missed
    assert missed.left_at_step == {"beta": 3, "gamma": 3}
    assert missed.verdicts["alpha"].reason == "it answered, and too few others did"
    assert federation.asked("alpha") == [(1, 1), (1, 2), (1, 3)] + [(2, step) for step in STEPS]


def test_whom_a_masked_input_was_asked_of_counts_as_charged(
    federation: Federation, tmp_path: Path
) -> None:
    """Also in an attempt that came to nothing, and where no answer came."""
    federation.fails("alpha", 3, refusing(Refusal.BUDGET))
    federation.fails("beta", 3, died)
    federation.fails("gamma", 2, died)
    federation.fails("gamma", 3, died, attempt=2)
    report = federation.collect().report
    assert (report.sum_attempt, report.attempts) == (2, 2)
    release = Release(kind=ReleaseKind.TRAIN, noise_multiplier=0.5, sample_rate=0.5, steps=1)
    three = release.with_shares(3)
    assert report.charges == Attempts(tmp_path, "r").charges
    found = {name: (it.releases, it.unsure) for name, it in report.charges.items()}
    twice = (replace(three, steps=2),)
    assert found == {
        "alpha": ((), 0),  # it said so before it was charged, and is not asked again
        "beta": (twice, 1),
        "delta": (twice, 0),
        "gamma": ((three,), 0),  # asked twice in one attempt, and charged once
        "omega": (twice, 0),
    }


def test_no_number_is_used_twice(federation: Federation, tmp_path: Path) -> None:
    federation.collect()
    federation.attempts = Attempts(tmp_path, "r")  # a coordinator that was started again
    federation.collect(training(3))
    assert sorted({attempt for attempt, _ in federation.asked("alpha")}) == [1, 2]


def test_retries_are_counted_over_steps_and_attempts(federation: Federation) -> None:
    for attempt in range(1, 9):
        for name in ("beta", "gamma"):
            federation.fails(name, 4, *[silent] * 9, attempt=attempt)
    with pytest.raises(QuorumError, match="no sum of 4 organisations or more") as error:
        federation.collect()
    assert len(federation.missed) == CONFIG.server.retries
    assert "masked inputs has cost" in str(error.value)


def test_who_never_comes_back_ends_an_attempt_and_not_the_collection(
    federation: Federation,
) -> None:
    """Two that leave after their masked input, and a third that is too many with them."""
    federation.fails("omega", 1, silent)
    for name in ("beta", "gamma"):
        federation.fails(name, 4, *[silent] * 9)
    collection = federation.collect()
    report = collection.report
    assert (report.sum_attempt, report.valid) == (2, 5)
    assert [missed.sum_attempt for missed in federation.missed] == [1, 1, 1]
    assert federation.asked("beta").count((1, 4)) == 3


def test_too_many_final_refusals_end_it_at_once(federation: Federation) -> None:
    for name in ("beta", "gamma"):
        federation.fails(name, 1, refusing(Refusal.BUDGET))
    with pytest.raises(QuorumError, match="privacy budget"):
        federation.collect()
    assert federation.missed == []
    assert federation.asked("alpha") == [(1, 1)]


def test_a_final_refusal_is_not_asked_again_in_the_next_attempt(federation: Federation) -> None:
    federation.fails("omega", 1, refusing(Refusal.POLICY))
    federation.fails("beta", 3, refusing(Refusal.DROPPED))
    collection = federation.collect()
    assert federation.asked("omega") == [(1, 1)]
    assert outcomes(collection)["omega"] is Outcome.REFUSED_POLICY
    assert collection.report.sum_attempt == 2


def test_a_message_that_is_none_of_the_protocols_drops_its_sender(federation: Federation) -> None:
    def garbled(message: Message, _: AggregateRequest) -> Message:
        return Message(AggregateReply(message=b"garbled").to_content(), reply_to=message)

    federation.fails("beta", 2, garbled)
    collection = federation.collect()
    assert outcomes(collection)["beta"] is Outcome.MALFORMED


def test_too_few_known_organisations_are_not_even_asked(federation: Federation) -> None:
    del federation.partners[:2]
    with pytest.raises(QuorumError, match="3 organisations can be invited, 4 are needed"):
        federation.collect()
    assert federation.grid.sent == []


def test_one_attempt_may_come_to_nothing(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("beta", "gamma"):
        federation.fails(name, 2, silent)
    collection = federation.collection(training())
    with caplog.at_level(logging.WARNING, "sotto.server"):
        collection.ask_once(federation.grid, lambda _: federation.partners)
    assert collection.valid == []
    assert "3 of 5 partners answered" in caplog.text


def test_each_masked_input_is_added_before_the_next_is_pulled(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the coordinator never holds the masked inputs of a whole sum."""
    happened: list[str] = []
    pull, take = federation.grid.pull_messages, SumAttempt.take

    def pull_one(numbers: Iterable[str]) -> list[Message]:
        ready = [number for number in numbers if number in federation.grid._replies]
        happened.append("pulled")
        return pull(ready[:1])

    def taken(attempt: SumAttempt, step: int, name: str, reply: Message) -> None:
        happened.append("taken")
        take(attempt, step, name, reply)

    monkeypatch.setattr(federation.grid, "pull_messages", pull_one)
    monkeypatch.setattr(SumAttempt, "take", taken)
    collection = federation.collection(training())
    grid = PatientGrid(federation.grid)
    collection.collect(grid, lambda _: federation.partners, federation.missed.append)
    assert collection.report.valid == 5
    assert happened == ["pulled", "taken"] * 5 * len(STEPS)


def test_an_answer_that_came_late_is_reported_with_the_next_sum(
    grid_of: MakeGrid, tmp_path: Path
) -> None:
    federation = make(grid_of, tmp_path, 7)
    grid = PatientGrid(federation.grid)
    config = replace(CONFIG, server=replace(CONFIG.server, deadline_seconds=0.1))
    kept: list[Message] = []

    def late(message: Message, request: AggregateRequest) -> None:
        organisation = federation.organisations["beta"]
        answer = AggregateReply(message=organisation._answer(request).to_bytes())
        kept.append(Message(answer.to_content(), reply_to=message))

    federation.fails("beta", 2, late)
    first = federation.collection(training(), config)
    first.collect(grid, lambda _: federation.partners, federation.missed.append)
    assert first.report.left_at_step == {"beta": 2}
    (reply,) = kept
    federation.grid._replies[reply.metadata.reply_to_message_id] = reply
    second = SecureCollection(training(3), config, first.memory, federation.attempts)
    second.collect(grid, lambda _: federation.partners, federation.missed.append)
    assert second.report.late == ("beta",)
    assert second.report.valid == 5


# --- what a run that is resumed knows -----------------------------------------------------------


def test_a_sum_that_was_released_is_taken_from_disk(federation: Federation, tmp_path: Path) -> None:
    federation.fails("beta", 2, silent)
    before = federation.collect()
    asked = federation.asked("alpha")
    federation.attempts = Attempts(tmp_path, "r")  # a coordinator that was started again
    again = federation.collect()
    assert federation.asked("alpha") == asked
    assert [p.organisation for p, _ in again.valid] == [p.organisation for p, _ in before.valid]
    for (_, one), (_, other) in zip(before.valid, again.valid, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in START)
    assert (again.report.attempts, again.report.valid) == (0, 4)
    federation.attempts.sums.drop(1)
    assert federation.collect().report.attempts == 0  # it is of round 2
    federation.attempts.sums.drop(2)
    assert federation.collect().report.attempts == 1
    assert federation.collect(training(3)).report.attempts == 1  # another request


def test_what_is_asked_for_once_is_not_asked_again_though_it_came_to_nothing(
    grid_of: MakeGrid, tmp_path: Path
) -> None:
    """Its attempt may have been charged; one that ended before the charge is made again."""
    federation = make(grid_of, tmp_path, 3)
    spec = evaluation_spec(evaluate_request(CONFIG, TERMS, 1, START))
    for attempt, step in ((1, 1), (2, 3)):
        for name in ("beta", "gamma"):
            federation.fails(name, step, silent, attempt=attempt)
    for attempts in (1, 2, 2):
        collection = SecureCollection(spec, CONFIG, Memory(), Attempts(tmp_path, "r"))
        collection.ask_once(federation.grid, lambda _: federation.partners)
        assert collection.valid == []
        assert Attempts(tmp_path, "r").last == attempts


def test_a_damaged_sum_is_no_reason_to_ask_again(federation: Federation, tmp_path: Path) -> None:
    federation.collect()
    [file] = (tmp_path / "sums").iterdir()
    file.write_bytes(b"no sum")
    with pytest.raises(CheckpointError, match="charged again"):
        federation.collect()
