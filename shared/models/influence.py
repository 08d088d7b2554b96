"""How much one user adds to exact counts: caps against spam and crafted histories.

Exact counts have no clip norm, so one history that repeats a pair of items a thousand times would
outweigh all others. With C_u(i, j) what user u adds for j after i, w_1 the weight of a pair one
event apart, and W = Σ_d w_d what one event adds at most,

    C_u(i, j) <= transition * w_1,   Σ_i C_u(i, j) <= item * W,   Σ_j C_u(i, j) <= item * W,

and a user counts at most `item` times for the popularity of an item. What is above is scaled down,
pair by pair. A history that holds no item twice is never above, whatever the caps: its counts are
the same in every bit. What one user adds depends on that user's history alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories

__all__ = ["CAPS", "NO_CAPS", "InfluenceCaps", "capped_item_counts", "influence_factors"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_ROUNDING = 1e-9
"""Relative: a sum of weights that equals its limit is not above it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluenceCaps:
    """The caps; see the top of this module.

    Attributes:
        item: how often one user counts for an item; 0 for no limit.
        transition: how often one user counts for an item after another one; 0 for no limit.
    """

    item: int = 1
    transition: int = 1


CAPS = InfluenceCaps()
"""What holds unless a partner states other caps: users count, and not their events."""
NO_CAPS = InfluenceCaps(item=0, transition=0)


def capped_item_counts(histories: Histories, items: int, caps: InfluenceCaps) -> Floats:
    """Count the events of each item, each user's at most `caps.item` times, float64 [V].

    >>> spam = Histories.from_lists([[2, 2, 2], [1, 2]])
    >>> capped_item_counts(spam, 2, CAPS), capped_item_counts(spam, 2, NO_CAPS)
    (array([1., 2.]), array([1., 4.]))
    """
    if not caps.item:
        return np.bincount(histories.items, minlength=items + 1)[1:].astype(np.float64)
    pairs, counts = np.unique(histories.rows * (items + 1) + histories.items, return_counts=True)
    capped = np.minimum(counts, caps.item)
    return np.bincount(pairs % (items + 1), capped, items + 1)[1:].astype(np.float64)


def influence_factors(
    histories: Histories,
    user: Ints,
    before: Ints,
    after: Ints,
    counted: Floats,
    weights: Sequence[float],
    caps: InfluenceCaps,
) -> Floats:
    """Return what each counted pair is multiplied with, in (0, 1], so that no user is above a cap.

    Args:
        histories: the users, with events in 1..V.
        user: row of each pair's user, [P].
        before: item of its first event, [P].
        after: item of its second event, [P].
        counted: its weight, [P].
        weights: w_1, w_2, ..., the largest first.
        caps: the caps.
    """
    factors = np.ones(len(user))
    repeating = _with_repeats(histories)
    rows = np.flatnonzero(repeating[user])
    if not len(rows):
        return factors
    user, before, after, counted = user[rows], before[rows], after[rows], counted[rows]
    size = int(histories.items.max()) + 1
    pair = np.unique(before * size + after, return_inverse=True)[1]
    of_item = caps.item * sum(weights)
    limits = (
        (user * (int(pair.max()) + 1) + pair, caps.transition * weights[0]),
        (user * size + after, of_item),
        (user * size + before, of_item),
    )
    least = np.ones(len(rows))
    for key, limit in limits:
        if limit:
            place = np.unique(key, return_inverse=True)[1]
            total = np.bincount(place, counted)
            above = total > limit * (1 + _ROUNDING)
            least = np.minimum(least, np.where(above, limit / total, 1.0)[place])
    factors[rows] = least
    return factors


def _with_repeats(histories: Histories) -> NDArray[np.bool_]:
    """Return which users have an item twice, [N]."""
    user = histories.rows
    size = int(histories.items.max(initial=0)) + 1
    pairs = np.sort(user * size + histories.items)
    repeats = pairs[1:][pairs[1:] == pairs[:-1]] // size
    marked = np.zeros(len(histories), np.bool_)
    marked[repeats] = True
    return marked
