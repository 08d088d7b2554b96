"""Diversity: how unlike the items of a list are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["intra_list_distance", "unit_vectors"]


def unit_vectors(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale the rows of [V, F] to length 1; a row of zeros stays.

    >>> unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]])).round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    units = np.divide(features, lengths, out=np.zeros(features.shape), where=lengths > 0)
    result: NDArray[np.float32] = units.astype(np.float32)
    return result


def intra_list_distance(top: NDArray[np.int64], vectors: NDArray[np.floating]) -> float:
    """Return the mean of 1 - cos over the pairs of a list's items, then over users.

    Ziegler, McNee, Konstan & Lausen, "Improving Recommendation Lists Through Topic
    Diversification", WWW 2005, doi:10.1145/1060745.1060754, as a distance. Lists of fewer than two
    items are left out.

    Args:
        top: each user's list, [N, k], ids in 1..V; 0 for an empty place.
        vectors: of length 1 or 0, [V, F].

    Returns:
        In [0, 2]; 0 where there is no list of two items.

    >>> intra_list_distance(np.array([[1, 2], [1, 1]]), np.eye(2))
    0.5
    """
    total, users = 0.0, 0
    for own in top:
        items = own[own > 0] - 1
        if len(items) < 2:
            continue
        shown = vectors[items].astype(np.float64)
        pairs = len(items) * (len(items) - 1)
        alike = (shown.sum(0) ** 2).sum() - (shown**2).sum()  # of ordered pairs
        total, users = total + 1 - alike / pairs, users + 1
    return float(total / users) if users else 0.0
