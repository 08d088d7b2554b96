"""What the coordinator sees says nothing of one vector: statistics of masked inputs.

All that is random is seeded, so that a test passes always or never. What is seen of shares is in
`test_shamir.py`, and which of them are released in `test_adversary.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from shared.secure_aggregation.masks import subtract_mask
from shared.secure_aggregation.messages import UnmaskingShares
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.shamir import recover
from shared.secure_aggregation.transcript import keys_digest, own_mask_key
from tests.shared.secure_aggregation.federation import Federation, Values

FIVE = Parameters.choose(5, 1, 1)
LENGTH = 60_000
SMALLEST_P = 1e-8
"""Masks are drawn anew each time: of hundreds of p-values none is to be so small by chance."""
Sums = NDArray[np.uint64]


def p_uniform(values: Sums) -> float:
    """The smallest p-value of: every byte is uniform, and every number is, as a share of 2^64."""
    octets = values.view(np.uint8).reshape(-1, 8)
    counts = [np.bincount(octets[:, place], minlength=256) for place in range(8)]
    p_bytes = [stats.chisquare(count).pvalue for count in counts]
    return float(min(*p_bytes, stats.kstest(values / 2.0**64, "uniform").pvalue))


def masked_inputs(federation: Federation) -> dict[str, Sums]:
    """What each partner sends, after a round up to there."""
    federation.advertise().share()
    coordinator = federation.coordinator
    sent = {}
    for name, partner in federation.partners.items():
        message = partner.mask(coordinator.delivery(name), federation.vectors[name])
        coordinator.receive_masked(name, message)
        sent[name] = message.values
    return sent


def without_own_masks(federation: Federation, sent: dict[str, Sums]) -> dict[str, Sums]:
    """What is left when the coordinator has recovered every seed, as it does to get the sum."""
    federation.sign()
    proof = federation.coordinator.proof()
    shares = {
        index: federation.partners[name].unmask(proof)
        for index, name in enumerate(federation.names)
    }
    digest = keys_digest(federation.coordinator.key_list())
    return {
        name: opened(values, shares, digest, owner)
        for owner, (name, values) in enumerate(sent.items())
    }


def opened(values: Sums, shares: dict[int, UnmaskingShares], digest: bytes, owner: int) -> Sums:
    seed = recover({i: reply.seed_shares[owner] for i, reply in shares.items()}, FIVE.threshold)
    left = values.copy()
    subtract_mask(left, own_mask_key(seed, digest, owner))
    return left


def proper_subsets(names: Iterable[str]) -> list[tuple[str, ...]]:
    listed = [*names]
    return [
        chosen for size in range(1, len(listed)) for chosen in itertools.combinations(listed, size)
    ]


def total(values: dict[str, Sums], chosen: Iterable[str]) -> Sums:
    return np.sum([values[name] for name in chosen], axis=0, dtype=np.uint64)


def with_vectors(vectors: dict[str, Values]) -> Federation:
    federation = Federation(FIVE, length=LENGTH)
    federation.vectors = vectors
    return federation


NAMES = Federation(FIVE).names
SMALL_NUMBERS = {
    name: np.random.default_rng(index).integers(-9, 10, LENGTH) for index, name in enumerate(NAMES)
}
SAME_SUM = {
    **SMALL_NUMBERS,
    "p000": SMALL_NUMBERS["p000"] + 2**50,
    "p001": SMALL_NUMBERS["p001"] - 2**50,
}


def test_the_statistic_sees_a_vector_without_masks_and_masks_that_are_used_twice() -> None:
    assert p_uniform(SMALL_NUMBERS["p000"].view(np.uint64)) < SMALLEST_P
    federation = with_vectors(SMALL_NUMBERS)
    sent = masked_inputs(federation)["p000"]
    delivery = federation.coordinator.delivery("p000")
    # The machine refuses to answer this: `mask` keeps the digest of what it sent.
    again = federation.partners["p000"]._masked(delivery, SAME_SUM["p000"]).values
    assert p_uniform(again) > SMALLEST_P
    assert p_uniform(again - sent) < SMALLEST_P


@pytest.mark.parametrize("vectors", [SMALL_NUMBERS, SAME_SUM], ids=["small", "far apart"])
def test_a_masked_input_and_every_sum_of_some_is_uniform(vectors: dict[str, Values]) -> None:
    sent = masked_inputs(with_vectors(vectors))
    subsets = [*proper_subsets(NAMES), tuple(NAMES)]
    assert min(p_uniform(total(sent, chosen)) for chosen in subsets) > SMALLEST_P / len(subsets)


@pytest.mark.parametrize("vectors", [SMALL_NUMBERS, SAME_SUM], ids=["small", "far apart"])
def test_after_unmasking_the_sum_of_all_is_known_and_every_other_sum_is_uniform(
    vectors: dict[str, Values],
) -> None:
    """So vectors with the same sum look alike, whatever each of them is."""
    federation = with_vectors(vectors)
    left = without_own_masks(federation, masked_inputs(federation))
    np.testing.assert_array_equal(total(left, NAMES), federation.sum_of(NAMES))
    subsets = proper_subsets(NAMES)
    assert min(p_uniform(total(left, chosen)) for chosen in subsets) > SMALLEST_P / len(subsets)


def test_two_inputs_with_one_sum_give_transcripts_of_one_distribution() -> None:
    seen = []
    for seed, vectors in ((1, SMALL_NUMBERS), (2, SAME_SUM)):
        federation = Federation(FIVE, length=LENGTH, seed=seed)
        federation.vectors = vectors
        seen.append(without_own_masks(federation, masked_inputs(federation)))
    np.testing.assert_array_equal(total(seen[0], NAMES), total(seen[1], NAMES))
    p_values = [
        stats.ks_2samp(total(seen[0], chosen), total(seen[1], chosen)).pvalue
        for chosen in proper_subsets(NAMES)
    ]
    assert min(p_values) > SMALLEST_P / len(p_values)


def test_rounds_share_no_mask() -> None:
    """One vector in two rounds: what is sent differs by a uniform number."""
    sent = []
    for seed in (1, 2):
        federation = Federation(FIVE, length=LENGTH, seed=seed)
        federation.vectors = SMALL_NUMBERS
        sent.append(masked_inputs(federation))
    assert min(p_uniform(sent[1][name] - sent[0][name]) for name in NAMES) > SMALLEST_P
