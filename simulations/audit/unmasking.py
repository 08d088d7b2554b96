"""Take off the masks that an adversary can compute, and test whether what is left tells anything.

The adversary is the coordinator with colluding partners. It has every message, the colluding
partners' secrets, and the shares that others gave: those that were opened, and those that were
encrypted for the colluding.

1. It recovers every secret that its shares determine, however many they are, and checks it against
   what its owner advertised.
2. From each masked input it takes off all masks whose keys it then knows. What hides the rest is
   known, too: the input's own mask, or those that it shares with others.
3. Masks of pairs cancel in a sum. So it adds the inputs that hide each other: `smallest_sum` is the
   smallest set with one partner whose sum comes out.

Without a fault that is the sum of all honest partners that stayed, and everything less is uniform
modulo 2^64. That is tested: a vector that is not masked is small numbers, and so is the difference
of two vectors under the same masks.

Letters: m numbers of an input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from shared.errors import SecureAggregationError
from shared.secure_aggregation.agreement import agree, derive, public_of, unseal
from shared.secure_aggregation.masks import add_mask, subtract_mask
from shared.secure_aggregation.messages import KeyList
from shared.secure_aggregation.shamir import SECRET_SIZE, SHARE_SIZE, interpolate
from shared.secure_aggregation.transcript import (
    commit,
    keys_digest,
    own_mask_key,
    pair_mask_key,
    sealing_context,
)
from simulations.audit.transcripts import Transcript

__all__ = ["SMALLEST_P", "Opened", "is_uniform", "p_uniform", "take_off"]

SMALLEST_P = 1e-12
"""Inputs are called not uniform below it: an audit of a million is wrong with chance 1e-6.

Of fewer than about 60 numbers it sees nothing: without a mask, 50 signed numbers gave p up to 4e-11
in 40 draws, and 55 gave p up to 8e-13.
"""
_WORD_BITS = 64

Words = NDArray[np.uint64]
SharesByOwner = Mapping[int, Mapping[int, int]]


@dataclass(frozen=True, slots=True)
class Opened:
    """The masked inputs of one round, by partner, as far as an adversary can unmask them.

    Attributes:
        left: what is left of each, uint64 [m].
        hidden_by: the partners whose mask with it is still on it; itself for its own mask.
    """

    left: Mapping[int, Words]
    hidden_by: Mapping[int, frozenset[int]]

    def smallest_sum(self, partner: int) -> frozenset[int] | None:
        """Return the fewest partners, with this one, whose sum comes out; None if none does."""
        members, waiting = {partner}, [partner]
        while waiting:
            one = waiting.pop()
            if one not in self.left or one in self.hidden_by[one]:
                return None
            waiting += self.hidden_by[one] - members
            members |= self.hidden_by[one]
        return frozenset(members)

    def total(self, members: Collection[int]) -> NDArray[np.int64]:
        """Return what is left of the sum of some inputs, as signed numbers, int64 [m]."""
        added = np.sum([self.left[one] for one in members], axis=0, dtype=np.uint64)
        return np.asarray(added, np.uint64).view(np.int64)


def take_off(heard: Transcript, colluding: Collection[int]) -> Opened:
    """Take every mask off the inputs of a round that a coordinator with these partners can.

    Args:
        heard: the round; secrets of others than the colluding are not read.
        colluding: partners that tell the coordinator all they know.
    """
    key_list = heard.key_list
    if key_list is None:
        return Opened({}, {})
    seed_shares, key_shares = _shares(heard, key_list, colluding)
    advertised, digest = key_list.advertisements, keys_digest(key_list)
    told = {one: heard.secrets[one] for one in colluding if one in heard.secrets}
    seeds = {one: own.seed for one, own in told.items()} | _recovered(
        seed_shares,
        lambda owner, secret: (
            commit(secret, key_list.session, owner) == advertised[owner].commitment
        ),
    )
    keys = {one: own.mask_key for one, own in told.items()} | _recovered(
        key_shares, lambda owner, secret: public_of(secret) == advertised[owner].mask_key
    )
    left, hidden_by = {}, {}
    for own, values in heard.inputs.items():
        rest, hidden = values.copy(), set()
        if own in seeds:
            subtract_mask(rest, own_mask_key(seeds[own], digest, own))
        else:
            hidden.add(own)
        for other in heard.deliveries[own].ciphertexts:
            knows, public = (own, other) if own in keys else (other, own)
            if knows not in keys:
                hidden.add(other)
                continue
            secret = agree(keys[knows], advertised[public].mask_key)
            # The partner with the lower index added the mask of a pair.
            remove = subtract_mask if own < other else add_mask
            remove(rest, pair_mask_key(secret, digest, own, other))
        left[own], hidden_by[own] = rest, frozenset(hidden)
    return Opened(left, hidden_by)


def p_uniform(values: Words) -> float:
    """Return the p-value of: all numbers are uniform, and so are those that begin at other bytes.

    Kolmogorov's test of each rotation by whole bytes, as a share of 2^64; the smallest p-value,
    times their number.
    """
    rotations = range(0, _WORD_BITS, 8)
    smallest = min(
        float(stats.kstest(_rotated(values, bits) / 2.0**_WORD_BITS, "uniform").pvalue)
        for bits in rotations
    )
    return min(1.0, len(rotations) * smallest)


def is_uniform(values: Words) -> bool:
    """Return whether nothing but chance is seen in the numbers."""
    return p_uniform(values) >= SMALLEST_P


def _rotated(values: Words, bits: int) -> Words:
    if not bits:
        return values
    return (values << np.uint64(bits)) | (values >> np.uint64(_WORD_BITS - bits))


def _shares(
    heard: Transcript, key_list: KeyList, colluding: Collection[int]
) -> tuple[SharesByOwner, SharesByOwner]:
    """Return the shares of seeds and of mask keys that the adversary holds, by owner and holder."""
    seeds: dict[int, dict[int, int]] = defaultdict(dict)
    keys: dict[int, dict[int, int]] = defaultdict(dict)
    for holder, message in heard.opened.items():
        for owner, share in message.seed_shares.items():
            seeds[owner][holder] = share
        for owner, share in message.key_shares.items():
            keys[owner][holder] = share
    digest = keys_digest(key_list)
    for holder in {*colluding} & {*heard.deliveries}:
        private = heard.secrets[holder].cipher_key
        for owner, ciphertext in heard.deliveries[holder].ciphertexts.items():
            context = sealing_context(digest, owner, holder)
            shared = agree(private, key_list.advertisements[owner].cipher_key)
            pair = unseal(derive(shared, digest, context), ciphertext, context)
            keys[owner][holder] = int.from_bytes(pair[:SHARE_SIZE], "big")
            seeds[owner][holder] = int.from_bytes(pair[SHARE_SIZE:], "big")
    return seeds, keys


def _recovered(shares: SharesByOwner, is_right: Callable[[int, bytes], bool]) -> dict[int, bytes]:
    """Return the secrets that the shares determine, by owner."""
    found = {}
    for owner, held in shares.items():
        secret = interpolate(held, -1)
        if secret >> 8 * SECRET_SIZE:
            continue
        candidate = secret.to_bytes(SECRET_SIZE, "big")
        try:
            if is_right(owner, candidate):
                found[owner] = candidate
        except SecureAggregationError:
            continue
    return found
