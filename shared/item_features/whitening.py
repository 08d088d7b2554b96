"""Whitening: scale item vectors so that noise has the same effect in every direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "fixed_rotation",
    "signs",
    "unit_rows",
    "whitened",
    "whitened_where_described",
    "whitening_map",
]

_MIN_STRENGTH = 1e-6
"""Relative singular value below which a direction is treated as rounding error."""
_EQUAL = 1e-9
"""Difference of two singular values, relative to the largest, below which they are equal."""


def whitened(
    vectors: NDArray[np.float64], size: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Return the `size` strongest principal components, each scaled to variance 1.

    The vectors are centred first, so that no component holds what all items share. The first k
    columns do not depend on `size`.

    Args:
        vectors: [V, D].
        size: number of features F, >= 1.
        weights: weight of each item in means and variances, > 0, [V]; None for equal weights.

    Returns:
        float32 [V, F]; columns are uncorrelated, with (weighted) mean 0 and variance 1, or 0
        beyond the rank. Signs and rounding are fixed, since a catalogue's fingerprint covers the
        exact bits.
    """
    centred, scaled = whitening_map(vectors, weights)
    components = (centred @ scaled)[:, :size]
    features = np.zeros((len(vectors), size), dtype=np.float32)
    features[:, : components.shape[1]] = components.round(6) + 0.0  # turns -0 into 0
    return features


def whitening_map(
    vectors: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centred vectors [V, D], and the map [D, R] that takes them to all components.

    Args:
        vectors: [V, D].
        weights: as of `whitened`.
    """
    share = np.ones(len(vectors)) if weights is None else weights
    share = share / share.sum()
    centred = vectors - share @ vectors
    _, strength, right = np.linalg.svd(np.sqrt(share)[:, None] * centred, full_matrices=False)
    informative = strength > _MIN_STRENGTH * np.linalg.norm(strength)
    if (rotation := fixed_rotation(right, strength)) is not None:
        right = rotation @ right
    scale = np.divide(signs(right), strength, out=np.zeros_like(strength), where=informative)
    return centred, right.T * scale


def whitened_where_described(
    vectors: NDArray[np.float64], size: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Whiten the vectors of the items that have one; those of zeros stay zeros.

    Args:
        vectors: [V, D].
        size: as of `whitened`, as are the weights.
        weights: of all items.
    """
    described = vectors.any(1)
    features = np.zeros((len(vectors), size), dtype=np.float32)
    if described.any():
        given = None if weights is None else weights[described]
        features[described] = whitened(vectors[described], size, given)
    return features


def fixed_rotation(
    directions: NDArray[np.float64], strength: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the rotation that fixes the basis among directions of equal strength.

    Equal singular values leave any basis of their subspace possible, and libraries return
    different ones. The basis taken here depends on the subspace alone: its first direction is the
    projection of the axis that lies nearest to it, its second that of the axis nearest to what is
    left, and so on. Of axes that are equally near, the first is taken.

    Args:
        directions: orthonormal rows [R, D].
        strength: singular values in ascending or descending order, [R].

    Returns:
        Orthogonal [R, R]; the fixed basis is `rotation @ directions`. None where all strengths
        differ, or are too small to matter: then nothing is to be changed.
    """
    largest = strength.max(initial=0)
    equal = (np.abs(np.diff(strength)) <= _EQUAL * largest) & (
        strength[1:] > _MIN_STRENGTH * largest
    )
    if not equal.any():
        return None
    rotation = np.eye(len(strength))
    ends = np.flatnonzero(~np.append(equal, False))
    for start, end in zip(np.append(0, ends[:-1] + 1), ends + 1, strict=True):
        rest = directions[start:end].copy()  # (m, D): what is left of each axis in the subspace
        for row in range(start, end if end - start > 1 else start):
            norms = (rest**2).sum(0)
            axis = int((norms > (1 - 1e-6) * norms.max()).argmax())
            coordinates = rest[:, axis] / np.sqrt(norms[axis])
            rest -= np.outer(coordinates, coordinates @ rest)
            rotation[row, start:end] = coordinates
    return rotation


def signs(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sign of each row's first largest entry, +1 or -1: [R, D] -> [R].

    Entries that differ by rounding only count as equally large.
    """
    size = np.abs(directions)
    first = (size > (1 - 1e-6) * size.max(1, keepdims=True)).argmax(1)
    return np.asarray(np.sign(directions[np.arange(len(directions)), first]))


def unit_rows(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each row to length 1; a row that is (almost) zero becomes zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9)
    return np.asarray(unit)
