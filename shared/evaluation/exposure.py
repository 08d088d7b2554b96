"""Popularity bias: how much of the exposure in top-k lists goes to popular items.

The figures compare top-k lists with training data. Lists are int64 [N, k] of item ids in 1..V, or
0 for an empty place, as `shared.evaluation.ranking.top_items` returns them. Training data is int64
[V], the number of training events of each item. Empty places are not counted.

Raises:
    ValueError: an id outside 0..V, or counts that are not [V] or below 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DECILES", "arp", "exposure", "gini", "popularity_deciles"]

DECILES = 10

Ints = NDArray[np.int64]


def arp(top: Tensor, counts: Ints, users: int) -> float:
    """Return the average recommendation popularity: the mean over users of their lists' mean φ(i).

    Yin, Cui, Li, Yao & Chen, "Challenging the Long Tail Recommendation", PVLDB 5(9), 2012; in
    this form Abdollahpouri, Burke & Mobasher, "Managing Popularity Bias in Recommender Systems
    with Personalized Re-ranking", FLAIRS 2019. φ(i) is the number of training events
    with i. Here it is divided by the number of users, so that data of different sizes compare: if
    no user chooses an item twice, .2 means that on average a fifth of the users chose a shown item.
    Users with an empty list are left out.

    Args:
        top: each user's list, [N, k].
        counts: φ, [V].
        users: number of users whose events are counted; >= 1.

    Example:
        >>> import torch
        >>> arp(torch.tensor([[1, 2], [1, 0]]), np.array([6, 4, 0]), users=8)
        0.6875
    """
    _check(top, counts)
    popularity = np.concatenate([[0.0], counts / users])[top.numpy()]  # [N, k]
    places = (top > 0).sum(1).numpy()  # [N]
    some = places > 0
    return float((popularity.sum(1)[some] / places[some]).mean()) if some.any() else 0.0


def gini(top: Tensor, items: int) -> float:
    """Return the Gini index of item exposure: 0 if all items are shown equally, 1 if only one is.

    Shani & Gunawardana, "Evaluating Recommendation Systems", in Recommender Systems Handbook,
    2011, "item space coverage": Σ_j (2j - V - 1) p(i_j) / (V - 1), items in ascending order of the
    share p of filled places. It is 0 for a catalogue of one item, and if no place is filled.

    Example:
        >>> import torch
        >>> gini(torch.tensor([[1, 2], [3, 4]]), items=4), gini(torch.tensor([[3], [3]]), items=4)
        (0.0, 1.0)
    """
    shown = np.sort(_shown(top, items))
    total = shown.sum()
    if items == 1 or total == 0:
        return 0.0
    weights = 2 * np.arange(1, items + 1) - items - 1
    return float((weights * shown).sum() / (total * (items - 1)))


def popularity_deciles(counts: Ints | NDArray[np.floating]) -> Ints:
    """Return each item's popularity decile in 0..9, 0 for the most popular; ties by item id.

    The sizes of the deciles differ by at most one item.

    Example:
        >>> popularity_deciles(np.array([1, 9, 5, 5, 0])).tolist()
        [6, 0, 2, 4, 8]
    """
    order = np.argsort(-counts, kind="stable")
    deciles = np.empty(len(counts), np.int64)
    deciles[order] = DECILES * np.arange(len(counts)) // len(counts)
    return deciles


def exposure(top: Tensor, counts: Ints) -> list[float]:
    """Return the share of all filled places that goes to each popularity decile, [10].

    The first is the most popular decile. One minus the sum over the head deciles is the share of
    the long tail (APLT in Abdollahpouri, Burke & Mobasher 2019), with equal weight for each place.

    Example:
        >>> import torch
        >>> exposure(torch.tensor([[1, 2], [1, 0]]), np.arange(10, 0, -1))[:3]
        [0.6666666666666666, 0.3333333333333333, 0.0]
    """
    _check(top, counts)
    shown = _shown(top, len(counts))
    per_decile = np.bincount(popularity_deciles(counts), weights=shown, minlength=DECILES)
    return [float(share) for share in per_decile / max(1, shown.sum())]


def _shown(top: Tensor, items: int) -> Ints:
    """Count how often each item is shown, [V]."""
    if items < 1 or (top.numel() and not 0 <= int(top.min()) <= int(top.max()) <= items):
        raise ValueError(f"top holds ids outside 0..{items}")
    return top.flatten().bincount(minlength=items + 1)[1:].numpy()


def _check(top: Tensor, counts: Ints) -> None:
    if counts.ndim != 1 or (counts < 0).any():
        raise ValueError(f"counts {counts.shape}: expected [V], each at least 0")
    _shown(top, len(counts))
