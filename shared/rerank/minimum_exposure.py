"""A share of each list's places for rare items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.evaluation.exposure import DECILES, popularity_deciles

__all__ = ["choose_protected", "places_for", "rare_items"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def rare_items(popularity: NDArray[np.floating], deciles: int) -> Mask:
    """Return which items are in the last so many popularity deciles, bool [V].

    >>> rare_items(np.arange(20.0), 1).nonzero()[0].tolist()
    [0, 1]
    """
    return popularity_deciles(popularity) >= DECILES - deciles


def places_for(histories: Histories, share: float, k: int) -> Ints:
    """Return how many of k places each user's rare items get at least, [N].

    The mean is share · k. What is left over a whole number goes to that part of the users: to whom
    follows from the history (Fibonacci hashing of the sum of its ids), so that a repeated request
    has the same list.

    >>> places_for(Histories.from_lists([[n] for n in range(1, 9)]), 0.05, 10).tolist()
    [1, 0, 1, 0, 0, 1, 0, 1]
    """
    sums = np.concatenate([[0], np.cumsum(histories.items)])[histories.offsets]
    with np.errstate(over="ignore"):
        hashed = np.diff(sums).astype(np.uint64) * _GOLDEN
    draw = (hashed >> np.uint64(11)).astype(np.float64) / 2**53  # in [0, 1)
    # Shares are written in decimals: .3 · 10 is to be 3.
    places: Ints = np.floor(np.round(share * k, 9) + draw).clip(max=k).astype(np.int64)
    return places


def choose_protected(present: Mask, protected: Mask, least: Ints, k: int) -> Ints:
    """Return the k best candidates of which at least so many are protected.

    That is the list of the largest Σ r among those that hold the constraint; the guarantee of
    Zehlike et al., "FA*IR: A Fair Top-k Ranking Algorithm", CIKM 2017, arXiv:1706.06368, for the
    whole list alone. Where there are fewer protected candidates, all of them are in it.

    Args:
        present: whether there is a candidate, [B, C], best first.
        protected: whether it is protected, [B, C].
        least: [B], in 0..k.
        k: length of a list.

    Returns:
        int64 [B, k], columns; -1 where no candidate is left.
    """
    rare, others = present & protected, present & ~protected
    in_top = rare & (present.cumsum(1) <= k)
    number = np.maximum(in_top.sum(1), least)
    number = np.maximum(number, k - others.sum(1))  # where there are too few of the others
    number = np.minimum(number, rare.sum(1))[:, None]
    chosen = (rare & (rare.cumsum(1) <= number)) | (others & (others.cumsum(1) <= k - number))
    places = np.full((len(present), k), -1, np.int64)
    rows, columns = chosen.nonzero()
    places[rows, chosen.cumsum(1)[rows, columns] - 1] = columns
    return places
