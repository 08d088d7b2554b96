"""All that a coordinator received, searched: no organisation's sum can be computed from it.

The search (`transcript_search`) is tried on rounds with planted faults first, and finds each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shared.secure_aggregation.messages import UnmaskingShares
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.partner import Partner
from tests.hostile.transcript_search import Determined, Exchange, Sums, Transcript, spans
from tests.shared.secure_aggregation.federation import Federation

SIX = Parameters.choose(6, 1, 1)
GONE, COLLUDING, VICTIM = "p005", "p001", "p002"
STEPS = ("advertise", "share_keys", "mask", "sign_survivors", "unmask")


@dataclass
class Recorded:
    """A round of six, all that its coordinator sent and received, and what partners know.

    Attributes:
        seed: of vectors and secrets.
        gone: who leaves before the masked input.
        ends: whether the round comes to its sum.
        secrets: cipher key, mask key and seed by name.
        shares: by name, the key share and the seed share of each partner.
    """

    seed: int = 0
    gone: Collection[str] = (GONE,)
    ends: bool = True
    exchanges: list[Exchange] = field(default_factory=list)
    secrets: dict[str, tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    shares: dict[str, Mapping[int, tuple[int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.federation = Federation(SIX, length=3, seed=self.seed)
        if self.seed:  # else two rounds would be one session
            number = replace(self.federation.aggregation, round=100 + self.seed)
            self.federation = with_aggregation(self.federation, number)
        for name, partner in self.federation.partners.items():
            for step, method in enumerate(STEPS, start=1):
                setattr(partner, method, self._recorded(step, getattr(partner, method)))
            kept = partner._live_secrets()
            self.secrets[name] = kept.cipher_key, kept.mask_key, kept.seed
        self.staying = [name for name in self.federation.names if name not in self.gone]
        self.federation.advertise().share().mask(self.staying)
        if self.ends:
            self.federation.sign()
            for name in self.staying:
                partner = self.federation.partners[name]
                self.shares[name] = partner._held_shares(partner._delivery)
            self.federation.unmask()

    def _recorded(self, step: int, method: Callable[..., Any]) -> Callable[..., Any]:
        def answer(sent: Any, *rest: Any) -> Any:  # noqa: ANN401 a message of each step
            reply = method(sent, *rest)
            self.add(step, sent.to_bytes(), reply.to_bytes())
            return reply

        return answer

    def add(self, step: int, sent: bytes, received: bytes) -> None:
        self.exchanges.append(Exchange(step=step, sent=sent, received=received))

    def search(
        self,
        *,
        colluding: Collection[str] = (),
        others: Iterable[Exchange] = (),
        in_bytes: bool = False,
    ) -> Found:
        transcript = Transcript([*self.exchanges, *others])
        (attempt, *_) = transcript.attempts.values()
        for name in colluding:
            attempt.collude(attempt.invitation.index(name), *self.secrets[name])
        if in_bytes:
            transcript.search_bytes()
        return Found(transcript.determined())

    def vector(self, *names: str) -> Sums:
        return self.federation.sum_of(names)


def with_aggregation(federation: Federation, aggregation: Any) -> Federation:  # noqa: ANN401
    """Another round of the same partners."""
    invitation = replace(federation.invitation, aggregation=aggregation)
    federation.aggregation, federation.invitation = aggregation, invitation
    federation.coordinator = type(federation.coordinator)(invitation)
    federation.partners = {
        name: Partner(partner._identity, partner._roster, aggregation, partner._random)
        for name, partner in federation.partners.items()
    }
    return federation


@dataclass
class Found:
    """What the search says that a coordinator can compute."""

    determined: list[Determined]

    @property
    def labels(self) -> list[tuple[int, str, int]]:
        return sorted({label for one in self.determined for label in one.factors})

    def tells(self, *names: str) -> bool:
        """Whether the sum of the vectors of these organisations can be computed."""
        labels = self.labels
        if not set(names) <= {name for _, name, _ in labels}:
            return False
        rows = [[one.factors.get(label, 0) for label in labels] for one in self.determined]
        return spans(rows, [int(name in names) for _, name, _ in labels])

    @property
    def told(self) -> set[frozenset[str]]:
        """All sets of organisations whose sum can be computed."""
        names = sorted({name for _, name, _ in self.labels})
        sets = (c for size in range(1, len(names) + 1) for c in itertools.combinations(names, size))
        return {frozenset(chosen) for chosen in sets if self.tells(*chosen)}


def test_the_sum_is_found_and_no_other() -> None:
    round_ = Recorded()
    found = round_.search(in_bytes=True)
    assert found.told == {frozenset(round_.staying)}
    (one,) = found.determined
    assert set(one.factors.values()) == {1}
    np.testing.assert_array_equal(one.value, round_.vector(*round_.staying))


def test_without_an_end_nothing_is_found() -> None:
    assert Recorded(ends=False).search().determined == []


def test_with_a_colluding_partner_the_sum_of_the_others_is_found_and_no_other() -> None:
    round_ = Recorded()
    honest = frozenset(round_.staying) - {COLLUDING}
    found = round_.search(colluding=[COLLUDING])
    assert found.told == {honest, frozenset(round_.staying), frozenset([COLLUDING])}


def test_two_rounds_tell_two_sums() -> None:
    first, second = Recorded(), Recorded(seed=1, gone=["p003"])
    found = first.search(others=second.exchanges)
    assert len(found.determined) == 2
    assert {frozenset(name for _, name, _ in one.factors) for one in found.determined} == {
        frozenset(first.staying),
        frozenset(second.staying),
    }


# --- planted faults: each is found ----------------------------------------------------------------


def test_a_survivor_both_of_whose_secrets_are_revealed_is_found() -> None:
    round_ = Recorded()
    victim = round_.federation.names.index(VICTIM)
    for exchange in [one for one in round_.exchanges if one.step == 5]:
        answer = UnmaskingShares.from_bytes(exchange.received)
        name = round_.federation.names[answer.sender]
        share, _ = round_.shares[name][victim]
        seeds = {owner: seed for owner, seed in answer.seed_shares.items() if owner != victim}
        both = replace(answer, seed_shares=seeds, key_shares={**answer.key_shares, victim: share})
        round_.add(5, exchange.sent, both.to_bytes())
    found = round_.search()
    rest = frozenset(round_.staying) - {VICTIM}
    assert found.told == {frozenset([VICTIM]), rest, frozenset(round_.staying)}
    (own,) = [one for one in found.determined if len(one.factors) == 1]
    np.testing.assert_array_equal(own.value, round_.vector(VICTIM))


def test_one_share_fewer_reveals_nothing() -> None:
    round_ = Recorded()
    victim = round_.federation.names.index(VICTIM)
    last = [one for one in round_.exchanges if one.step == 5]
    for exchange in last[: SIX.threshold - 1]:
        answer = UnmaskingShares.from_bytes(exchange.received)
        share, _ = round_.shares[round_.federation.names[answer.sender]][victim]
        seeds = {owner: seed for owner, seed in answer.seed_shares.items() if owner != victim}
        both = replace(answer, seed_shares=seeds, key_shares={**answer.key_shares, victim: share})
        round_.add(5, exchange.sent, both.to_bytes())
    assert round_.search().told == {frozenset(round_.staying)}


def test_masks_that_are_used_twice_are_found() -> None:
    """The difference of the two vectors, though neither of them."""
    round_ = Recorded(ends=False)
    (exchange,) = [one for one in round_.exchanges if one.step == 3][2:3]
    partner = round_.federation.partners[VICTIM]
    other = round_.federation.vectors[VICTIM] + 7
    again = partner._masked(round_.federation.coordinator.delivery(VICTIM), other)
    round_.add(3, exchange.sent, again.to_bytes())
    (one,) = round_.search().determined
    assert {name for _, name, _ in one.factors} == {VICTIM}
    assert {int(number) for number in one.value} in ({7}, {2**64 - 7})


def test_a_secret_that_stands_in_a_message_is_found() -> None:
    """A mask key in place of a ciphertext: with the seed, which comes at the end, it is enough."""
    round_ = Recorded()
    at, exchange = next((at, one) for at, one in enumerate(round_.exchanges) if one.step == 2)
    leaked = bytearray(exchange.received)
    leaked[-40:-8] = round_.secrets[VICTIM][1]
    round_.exchanges[at] = replace(exchange, received=bytes(leaked))
    assert frozenset([VICTIM]) in round_.search(in_bytes=True).told
