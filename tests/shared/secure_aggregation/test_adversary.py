"""An adversary that chooses everything: who is told what, in which order, with colluding partners.

It holds the keys of `colluding` partners, who sign whatever it likes and give it both shares of
everybody. It may show each honest partner any set of share senders, any list of survivors, and any
signatures that it has. Whatever it does, it must not hold a threshold of both secrets of one honest
partner, and no honest partner may give it a share of both.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import replace

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shared.errors import SecureAggregationError
from shared.secure_aggregation.messages import KeyList, ShareDelivery, SurvivorList, SurvivorProof
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.partner import Partner, Step
from shared.secure_aggregation.transcript import keys_digest, survivors_content
from tests.shared.secure_aggregation.federation import (
    Federation,
    Values,
    identity,
    name,
    roster,
    seeded,
)

SEVEN = Parameters.choose(7, 2, 2)
HONEST, COLLUDING = range(5), range(5, 7)
Members = frozenset[int]
Shown = tuple[Members, Members]
"""Who sent shares and who survived, as one partner was told."""


@functools.cache
def shared_keys() -> tuple[dict[int, bytes], KeyList, dict[int, ShareDelivery], dict[int, Values]]:
    """Partners that have shared their keys, as bytes, and what each of them is to hold."""
    federation = Federation(SEVEN).advertise().share()
    coordinator = federation.coordinator
    states = {i: federation.partners[name(i)].to_bytes() for i in HONEST}
    deliveries = {i: coordinator.delivery(name(i)) for i in HONEST}
    vectors = {i: federation.vectors[name(i)] for i in HONEST}
    return states, coordinator.key_list(), deliveries, vectors


@functools.cache
def colluding_signature(signer: int, shown: Shown) -> bytes:
    digest = keys_digest(shared_keys()[1])
    return identity(name(signer)).sign(survivors_content(digest, signer, *shown))


honest = st.sampled_from(HONEST)
# Of all seven, or with some left out: at most two may be missing.
large_sets, sets = (
    st.sets(st.sampled_from(range(7)), max_size=most).map(lambda gone: frozenset(range(7)) - gone)
    for most in (2, 3)
)


class Adversary(RuleBasedStateMachine):
    """See the module."""

    @initialize()
    def start(self) -> None:
        states, key_list, self.deliveries, self.vectors = shared_keys()
        self.session = key_list.session
        members = [name(i) for i in range(7)]
        self.partners = {
            i: Partner.from_bytes(
                state, identity(name(i)), roster(name(i), members, SEVEN.colluding), seeded(i)
            )
            for i, state in states.items()
        }
        self.holders: dict[int, Members] = {}
        self.shown: dict[int, Shown] = {}
        self.signatures: dict[int, bytes] = {}
        self.seed_shares: dict[int, set[int]] = defaultdict(set)
        self.key_shares: dict[int, set[int]] = defaultdict(set)

    @rule(partner=honest, holders=sets)
    def deliver(self, partner: int, holders: Members) -> None:
        whole = self.deliveries[partner]
        some = {i: c for i, c in whole.ciphertexts.items() if i in holders}
        try:
            self.partners[partner].mask(replace(whole, ciphertexts=some), self.vectors[partner])
        except SecureAggregationError:
            return
        self.holders[partner] = frozenset(some) | {partner}

    @rule(partner=honest, survivors=sets)
    def list_survivors(self, partner: int, survivors: Members) -> None:
        message = SurvivorList(session=self.session, survivors=survivors)
        try:
            reply = self.partners[partner].sign_survivors(message)
        except SecureAggregationError:
            return
        shown = self.holders[partner], survivors
        self.shown[partner] = shown
        self.signatures[partner] = reply.signature

    @rule(one=large_sets, other=large_sets, shown_one=st.sets(honest))
    def split(self, one: Members, other: Members, shown_one: set[int]) -> None:
        """Show one list to some partners and another to the rest, and then what was signed."""
        for partner in HONEST:
            self.deliver(partner, frozenset(range(7)))
            self.list_survivors(partner, one if partner in shown_one else other)
        for partner in HONEST:
            self.prove(partner, set())
            self.prove_honestly(partner)

    @rule(partner=honest, left_out=st.sets(st.sampled_from(range(7)), max_size=3))
    def prove(self, partner: int, left_out: set[int]) -> None:
        """Show every signature there is, of whatever list; the colluding sign this partner's."""
        shown = self.shown.get(partner)
        if shown is None:
            return
        given = {i: self.signatures[i] for i in self.signatures if i in shown[1]}
        given |= {i: colluding_signature(i, shown) for i in COLLUDING if i in shown[1]}
        signatures = {i: signature for i, signature in given.items() if i not in left_out}
        self.release(partner, SurvivorProof(session=self.session, signatures=signatures))

    @rule(partner=honest)
    def prove_honestly(self, partner: int) -> None:
        """Show those signatures alone that are of this partner's list."""
        shown = self.shown.get(partner)
        self.prove(partner, {i for i in HONEST if self.shown.get(i) != shown})

    def release(self, partner: int, proof: SurvivorProof) -> None:
        before = self.partners[partner].step
        try:
            reply = self.partners[partner].unmask(proof)
        except SecureAggregationError:
            assert self.partners[partner].step == before
            return
        for owner in reply.seed_shares:
            self.seed_shares[owner].add(partner)
        for owner in reply.key_shares:
            self.key_shares[owner].add(partner)

    @rule(partner=honest)
    def restart(self, partner: int) -> None:
        members = [name(i) for i in range(7)]
        self.partners[partner] = Partner.from_bytes(
            self.partners[partner].to_bytes(),
            identity(name(partner)),
            roster(name(partner), members, SEVEN.colluding),
            seeded(partner),
        )

    @invariant()
    def nobody_gives_both_shares_of_one_partner(self) -> None:
        for owner in range(7):
            assert not self.seed_shares[owner] & self.key_shares[owner]

    @invariant()
    def both_secrets_of_an_honest_partner_are_never_known(self) -> None:
        for owner in HONEST:
            counts = [
                len(shares[owner]) + len(COLLUDING)
                for shares in (self.seed_shares, self.key_shares)
            ]
            assert min(counts) < SEVEN.threshold

    @invariant()
    def all_that_unmask_were_shown_the_same(self) -> None:
        finished = {self.shown[i] for i, p in self.partners.items() if p.step is Step.FINISHED}
        assert len(finished) <= 1


TestAdversary = Adversary.TestCase
TestAdversary.settings = hypothesis.settings(max_examples=40, stateful_step_count=8, deadline=None)


def test_the_adversary_gets_as_far_as_shares() -> None:
    """The rules can reach a release, or the invariants would hold of nothing."""
    machine = Adversary()
    machine.start()
    machine.split(frozenset(range(6)), frozenset(), set(HONEST))
    for partner in HONEST:
        machine.prove_honestly(partner)
    assert all(machine.partners[i].step is Step.FINISHED for i in HONEST)
    assert machine.key_shares[6] == machine.seed_shares[5] == set(HONEST)
    machine.nobody_gives_both_shares_of_one_partner()
    machine.both_secrets_of_an_honest_partner_are_never_known()
