"""Whitening: scale item vectors so that noise has the same effect in every direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["signs", "unit_rows", "whitened"]

_MIN_STRENGTH = 1e-6
"""Relative singular value below which a direction is treated as rounding error."""


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
    share = np.ones(len(vectors)) if weights is None else weights
    share = share / share.sum()
    centred = vectors - share @ vectors
    _, strength, right = np.linalg.svd(np.sqrt(share)[:, None] * centred, full_matrices=False)
    informative = strength > _MIN_STRENGTH * np.linalg.norm(strength)
    scale = np.divide(signs(right), strength, out=np.zeros_like(strength), where=informative)
    components = (centred @ (right.T * scale))[:, :size]
    features = np.zeros((len(vectors), size), dtype=np.float32)
    features[:, : components.shape[1]] = components.round(6) + 0.0  # turns -0 into 0
    return features


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
