"""Calibration: whether a list has the groups of items that a user chose, in their proportions.

Steck, "Calibrated Recommendations", RecSys 2018, doi:10.1145/3240323.3240372. Items belong to
groups, such as genres: p(g | i) >= 0, with the sum 1, or 0 for an item of no group. A user's
distribution p(g) is the mean of that over the history, and a list's q(g) the mean over the list.

The lists of Abdollahpouri, Mansoury, Burke, Mobasher & Malthouse, "User-centered Evaluation of
Popularity Bias in Recommender Systems", UMAP 2021, are the same with deciles of popularity as
groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.evaluation.exposure import DECILES, popularity_deciles

__all__ = [
    "SMOOTHING",
    "calibration_error",
    "divergence",
    "genre_groups",
    "group_shares",
    "history_shares",
    "popularity_groups",
]

SMOOTHING = 0.01
"""Steck's α: how much of p is in the list's smoothed distribution."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def genre_groups(genres: Sequence[tuple[str, ...]]) -> Floats:
    """Return p(g | i) with an equal part for each genre of an item, [V, G]; genres are sorted.

    >>> genre_groups([("Drama", "Crime"), (), ("Drama",)]).tolist()
    [[0.5, 0.5], [0.0, 0.0], [0.0, 1.0]]
    """
    names = {name: column for column, name in enumerate(sorted({g for own in genres for g in own}))}
    groups = np.zeros((len(genres), len(names)))
    for row, own in enumerate(genres):
        for genre in own:
            groups[row, names[genre]] = 1 / len(own)
    return groups


def popularity_groups(popularity: Ints | Floats) -> Floats:
    """Return the popularity decile of each item as its only group, [V, 10]."""
    return np.eye(DECILES)[popularity_deciles(popularity)]


def group_shares(sums: Floats) -> Floats:
    """Divide sums over items [..., G] by their total; they stay 0 where it is 0."""
    total = sums.sum(-1, keepdims=True)
    shares: Floats = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
    return shares


def history_shares(histories: Histories, groups: Floats) -> Floats:
    """Return p(g) of each user, [N, G]; 0 for a user without an event of any group.

    >>> history_shares(Histories.from_lists([[1, 1, 2], []]), np.eye(2)).round(2).tolist()
    [[0.67, 0.33], [0.0, 0.0]]
    """
    sums = np.zeros((len(histories), groups.shape[1]))
    for row, own in enumerate(histories):
        sums[row] = groups[own - 1].sum(0)
    return group_shares(sums)


def divergence(target: Floats, shares: Floats, smoothing: float = SMOOTHING) -> Floats:
    """Return C_KL = Σ_g p(g) log(p(g) / q̃(g)), in nats, with q̃ = (1 - α) q + α p.

    Steck 2018, equations 6 and 7. It is 0 where p is 0 everywhere, and at most -log α.

    Args:
        target: p, [..., G].
        shares: q, [..., G], of a shape that broadcasts with it.
        smoothing: α, in (0, 1].

    >>> half, one = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    >>> divergence(half, half).item(), round(divergence(half, one).item(), 3)
    (0.0, 1.959)
    """
    mixed = (1 - smoothing) * shares + smoothing * target
    present = np.broadcast_to(target > 0, mixed.shape)
    ratio = np.divide(target, mixed, out=np.ones_like(mixed), where=present)
    terms: Floats = target * np.log(ratio)
    total: Floats = terms.sum(-1)
    return total


def calibration_error(top: Ints, histories: Histories, groups: Floats) -> float:
    """Return the mean of C_KL over the users who have both a list and a history with groups.

    Args:
        top: each user's list, [N, k], ids in 1..V; 0 for an empty place.
        histories: of the same users.
        groups: p(g | i), [V, G].

    Returns:
        In nats; 0 where there is no such user.
    """
    padded = np.concatenate([np.zeros((1, groups.shape[1])), groups])
    target, shares = history_shares(histories, groups), group_shares(padded[top].sum(1))
    both = (target.sum(1) > 0) & (shares.sum(1) > 0)
    return float(divergence(target[both], shares[both]).mean()) if both.any() else 0.0
