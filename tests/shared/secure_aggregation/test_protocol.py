"""Whole rounds: sums, dropouts at every step, restarts, and the size of what is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import SecureAggregationError, TooFewPartners
from shared.secure_aggregation.coordinator import Phase
from shared.secure_aggregation.parameters import Parameters
from tests.shared.secure_aggregation.federation import Federation

SMALL = Parameters.choose(5, 1, 1)


@st.composite
def parameters(draw: st.DrawFn) -> Parameters:
    n = draw(st.integers(4, 7))
    colluding = draw(st.integers(0, n - 3))
    dropouts = draw(st.integers(0, (n - colluding - 1) // 2))
    threshold = draw(st.integers((n + colluding) // 2 + 1, n - dropouts))
    return Parameters(organisations=n, colluding=colluding, dropouts=dropouts, threshold=threshold)


@settings(max_examples=60, deadline=None)
@given(parameters(), st.data())
def test_the_sum_is_exact_or_the_round_ends_for_any_dropouts_at_any_step(
    chosen: Parameters, data: st.DataObject
) -> None:
    federation = Federation(chosen, length=3, seed=1)
    steps = (
        federation.advertise,
        federation.share,
        federation.mask,
        federation.sign,
        federation.unmask,
    )
    present, summed = federation.names, []
    for phase, step in enumerate(steps):
        gone = data.draw(st.sets(st.sampled_from(present), max_size=2), label="drop out")
        present = [n for n in present if n not in gone]
        step(present)
        if phase == Phase.INPUTS:
            summed = present
        if data.draw(st.booleans(), label="restart all"):
            federation.resume()
        closing: dict[Phase, Callable[[], object]] = {
            Phase.KEYS: federation.coordinator.key_list,
            Phase.SHARES: partial(federation.coordinator.delivery, present[0]),
            Phase.INPUTS: federation.coordinator.survivors,
            Phase.SIGNATURES: federation.coordinator.proof,
            Phase.UNMASKING: federation.coordinator.total,
        }
        close = closing[Phase(phase)]
        least = chosen.threshold
        if phase <= Phase.INPUTS:
            least = max(least, chosen.fewest_survivors)
        if len(present) < least:
            with pytest.raises(TooFewPartners, match=f"{len(present)} of {chosen.organisations}"):
                close()
            assert federation.coordinator.phase == phase, "it can still wait for more"
            return
        close()
    np.testing.assert_array_equal(federation.coordinator.total(), federation.sum_of(summed))
    assert federation.coordinator.faulty == ()


def test_signed_sums_are_read_as_int64() -> None:
    federation = Federation(SMALL, length=2)
    for index, n in enumerate(federation.names):
        federation.vectors[n] = np.array([-index - 1, 2**40])
    federation.advertise().share().mask().sign().unmask()
    assert federation.coordinator.total().view(np.int64).tolist() == [-15, 5 * 2**40]


def test_a_partner_that_comes_late_still_counts_while_the_step_is_open() -> None:
    federation = Federation(SMALL).advertise(["p000", "p001", "p002"])
    with pytest.raises(TooFewPartners, match="Nothing is learned"):
        federation.coordinator.key_list()
    federation.advertise(["p003"]).share().mask().sign().unmask()
    np.testing.assert_array_equal(
        federation.coordinator.total(), federation.sum_of(["p000", "p001", "p002", "p003"])
    )


def test_sizes_follow_from_public_constants_alone() -> None:
    """And each message is as long as docs/secure-aggregation.md says."""
    sizes = []
    for seed in (1, 2):
        federation = Federation(SMALL, length=7, seed=seed)
        if seed == 2:
            federation.vectors = {n: np.zeros(7, np.int64) for n in federation.names}
        federation.advertise().share().mask(federation.names[1:]).sign().unmask()
        coordinator, partner = federation.coordinator, federation.partners["p001"]
        key_list, delivery = coordinator.key_list(), coordinator.delivery("p001")
        survivors, proof = coordinator.survivors(), coordinator.proof()
        head = 20 + 32
        sizes.append(
            [
                len(partner.advertise(federation.invitation).to_bytes()),
                len(key_list.to_bytes()),
                len(partner.share_keys(key_list).to_bytes()),
                len(delivery.to_bytes()),
                len(survivors.to_bytes()),
                len(partner.sign_survivors(survivors).to_bytes()),
                len(proof.to_bytes()),
                len(partner.unmask(proof).to_bytes()),
            ]
        )
        assert sizes[-1] == [
            head + 2 + 192,
            head + 2 + 5 * 194,
            head + 2 + 2 + 4 * 150,
            head + 2 + 2 + 4 * 150,
            head + 2 + 4 * 2,
            head + 2 + 96,
            head + 2 + 4 * 98,
            head + 2 + 2 + 2 + 5 * 68,
        ]
    federation = Federation(SMALL, length=7).advertise().share()
    masked = federation.partners["p000"].mask(
        federation.coordinator.delivery("p000"), federation.vectors["p000"]
    )
    assert len(masked.to_bytes()) == head + 2 + 7 * 8


def test_a_false_share_without_a_right_one_to_replace_it_ends_the_round() -> None:
    federation = Federation(SMALL).advertise().share().mask(["p001", "p002", "p003", "p004"])
    federation.sign()
    proof = federation.coordinator.proof()
    for n in ("p001", "p002", "p003", "p004"):
        reply = federation.partners[n].unmask(proof)
        if n == "p002":
            # Moved by a little, so that what it gives is still a number of 32 bytes.
            moved = {owner: share ^ 1 for owner, share in reply.key_shares.items()}
            reply = replace(reply, key_shares=moved)
        federation.coordinator.receive_unmasking(n, reply)
    with pytest.raises(SecureAggregationError, match="p000's secret do not give") as refused:
        federation.coordinator.total()
    assert refused.value.suspect == "p000"


def test_one_false_share_beside_a_threshold_of_right_ones_is_named() -> None:
    federation = Federation(Parameters.choose(6, 0, 1)).advertise().share()
    federation.mask(federation.names[1:]).sign()
    proof = federation.coordinator.proof()
    for n in federation.names[1:]:
        reply = federation.partners[n].unmask(proof)
        if n == "p001":
            moved = {owner: share ^ 1 for owner, share in reply.seed_shares.items()}
            reply = replace(reply, seed_shares=moved)
        federation.coordinator.receive_unmasking(n, reply)
    total = federation.coordinator.total()
    np.testing.assert_array_equal(total, federation.sum_of(federation.names[1:]))
    assert federation.coordinator.faulty == ("p001",)
