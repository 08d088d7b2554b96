"""A whole run of the lab under masks, statistics and two rounds: what can its coordinator compute?

All that it received is recorded and searched (`transcript_search`): it tells the sums that it was
to get and nothing of a single organisation, even with a colluding partner's secrets.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

import client.app
from shared.messages import (
    AGGREGATE,
    DESCRIBE,
    LARGEST_STEP,
    PLAN,
    AggregateReply,
    AggregateRequest,
    DescribeReply,
    PlanReply,
)
from shared.sections import Value
from shared.secure_aggregation.messages import UnmaskingShares
from shared.secure_aggregation.partner import Partner
from simulations.experiment.config import SimulationConfig, read_settings
from simulations.experiment.federation import WrappedApp
from simulations.experiment.prepare import prepare
from simulations.experiment.simulate import simulate
from tests.hostile.transcript_search import Determined, Exchange, Sums, Transcript, spans
from tests.simulations.conftest import TINY_SETTINGS
from tests.simulations.experiment.test_simulate import Silent

ORGANISATIONS, ATTEMPTS, WITH_DROPOUT = 5, 4, 3
SETTINGS = (
    *("privacy.trust=secure-aggregation", f"lab.organisations={ORGANISATIONS}"),
    *("server.weighting=population", "lab.alone=false", "training.rounds=2"),
    *("warm_start.share=0.7", "privacy.dropouts=1"),
)
Label = tuple[int, str, int]


@dataclass
class Run:
    """What the coordinator of a run received, and what its partners know.

    Attributes:
        exchanges: every step of secure aggregation.
        others: every other reply, by the kind of its request.
        vectors: what each organisation put in, by attempt and name.
        secrets: cipher key, mask key and seed, by attempt and name.
        shares: the shares that a survivor held at the end, by attempt and name.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    others: list[tuple[str, Message]] = field(default_factory=list)
    vectors: dict[tuple[int, str], Sums] = field(default_factory=dict)
    secrets: dict[tuple[int, str], tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    shares: dict[tuple[int, str], Any] = field(default_factory=dict)

    def answer(self, message: Message, context: Any) -> Message:  # noqa: ANN401 Flower's
        """Answer as a node does, and record it; one drops out of one attempt."""
        kind = message.metadata.message_type
        request = AggregateRequest.from_content(message.content) if kind == AGGREGATE else None
        if _drops_out(message, request):
            return Message(Error(0, "gone"), reply_to=message)
        reply = client.app.app(message, context)
        if request is None:
            self.others.append((kind, reply))
        else:
            received = AggregateReply.from_content(reply.content, LARGEST_STEP).message
            self.exchanges.append(
                Exchange(step=request.step, sent=request.message, received=received)
            )
        return reply

    def search(
        self, *, colluding: Collection[str] = (), more: Collection[Exchange] = ()
    ) -> list[Determined]:
        """Return what can be computed, also with what colluding partners know."""
        transcript = Transcript([*self.exchanges, *more])
        for attempt in transcript.attempts.values():
            for name in colluding:
                number = attempt.invitation.aggregation.round
                attempt.collude(attempt.invitation.index(name), *self.secrets[number, name])
        return transcript.determined()

    def sum_of(self, attempt: int, names: Collection[str]) -> Sums:
        return np.sum([self.vectors[attempt, name] for name in names], axis=0, dtype=np.uint64)


def _drops_out(message: Message, request: AggregateRequest | None) -> bool:
    if request is None or message.metadata.dst_node_id != ORGANISATIONS:
        return False
    return request.attempt == WITH_DROPOUT and request.step >= 3


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    made, mask, unmask = Run(), Partner.mask, Partner.unmask

    def watched_mask(self: Partner, delivery: Any, values: Any) -> Any:  # noqa: ANN401
        label, kept = (self.aggregation.round, self._identity.name), self._live_secrets()
        made.vectors[label] = values.view(np.uint64).copy()
        made.secrets[label] = kept.cipher_key, kept.mask_key, kept.seed
        return mask(self, delivery, values)

    def watched_unmask(self: Partner, proof: Any) -> Any:  # noqa: ANN401
        label = (self.aggregation.round, self._identity.name)
        made.shares[label] = self._held_shares(self._delivery)
        return unmask(self, proof)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Partner, "mask", watched_mask)
        patched.setattr(Partner, "unmask", watched_unmask)
        folder = tmp_path_factory.mktemp("run") / "run"
        simulate(prepare(settings(tiny_data), folder), Silent(), WrappedApp(made.answer))
        yield made


def settings(data: Path) -> SimulationConfig:
    options: dict[str, Value] = {
        "privacy.epsilon": 4.0,
        "privacy.delta": 1e-2,
        "lab.data": str(data),
    }
    return read_settings(None, options, [*TINY_SETTINGS, *SETTINGS])


def survivors(run: Run) -> dict[int, list[str]]:
    """Names of those whose vector is in the sum, by attempt."""
    return {
        attempt: sorted(name for number, name in run.vectors if number == attempt)
        for attempt in sorted({number for number, _ in run.vectors})
    }


def in_one_form(determined: list[Determined]) -> tuple[list[Label], list[list[int]]]:
    labels = sorted({label for one in determined for label in one.factors})
    return labels, [[one.factors.get(label, 0) for label in labels] for one in determined]


def test_besides_the_steps_the_coordinator_received_public_constants_alone(run: Run) -> None:
    assert {kind for kind, _ in run.others} == {DESCRIBE, PLAN}
    for kind, reply in run.others:
        (DescribeReply if kind == DESCRIBE else PlanReply).from_content(reply.content)


def test_the_sums_can_be_computed_and_nothing_else(run: Run) -> None:
    """Generators of all that can be computed: one for each attempt, the sum over its survivors."""
    attempts, determined = survivors(run), run.search()
    assert [len(names) for names in attempts.values()] == [5, 5, 4, 5]
    assert len(determined) == len(attempts) == ATTEMPTS
    for one in determined:
        ((number, *_), *_) = one.factors
        assert set(one.factors.values()) == {1}
        assert sorted(one.factors) == [(number, name, 0) for name in attempts[number]]
        np.testing.assert_array_equal(one.value, run.sum_of(number, attempts[number]))


def test_no_secret_stands_in_what_was_received(run: Run) -> None:
    transcript = Transcript(exchange for exchange in run.exchanges if exchange.step != 3)
    transcript.search_bytes()
    for attempt in transcript.attempts.values():
        assert not attempt.seeds
        assert not attempt.mask_keys


def test_with_a_colluding_partner_no_sum_of_some_honest_ones_can_be_computed(run: Run) -> None:
    attempts = survivors(run)
    false = attempts[1][0]
    labels, rows = in_one_form(run.search(colluding=[false]))
    for attempt, names in attempts.items():
        honest = [name for name in names if name != false]
        for size in range(1, len(honest) + 1):
            for chosen in itertools.combinations(honest, size):
                sought = [int(a == attempt and name in chosen) for a, name, _ in labels]
                assert spans(rows, sought) == (len(chosen) == len(honest))


def test_one_survivor_both_of_whose_secrets_are_revealed_is_found(run: Run) -> None:
    """The fault that the search is there for: in one attempt, survivors give both shares."""
    attempt, names = next((number, names) for number, names in survivors(run).items())
    victim = names[1]
    more = []
    for exchange in [one for one in run.exchanges if one.step == 5]:
        answer = UnmaskingShares.from_bytes(exchange.received)
        index = names.index(victim)  # all take part, so they are the participants
        held = run.shares.get((attempt, names[answer.sender]))
        if held is None or answer.session != first_session(run, attempt):
            continue
        seeds = {owner: seed for owner, seed in answer.seed_shares.items() if owner != index}
        keys = {**answer.key_shares, index: held[index][0]}
        both = replace(answer, seed_shares=seeds, key_shares=keys)
        more.append(replace(exchange, received=both.to_bytes()))
    (own,) = [one for one in run.search(more=more) if len(one.factors) == 1]
    assert set(own.factors) == {(attempt, victim, 0)}
    np.testing.assert_array_equal(own.value, run.vectors[attempt, victim])


def first_session(run: Run, number: int) -> bytes:
    attempts = Transcript(run.exchanges).attempts
    return next(s for s, one in attempts.items() if one.invitation.aggregation.round == number)
