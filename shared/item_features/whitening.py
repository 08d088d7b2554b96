"""Vectors that tell items apart -> features on which noise costs the same in every direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["signs", "unit_rows", "whitened"]

_LEAST = 1e-6
"""Strength, relative to all of the vectors', below which a direction is only rounding."""


def whitened(
    vectors: NDArray[np.float64], size: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Principal components, each scaled to variance 1: the strongest `size` of them.

    Centred, so that none tells what all items share. The first k columns are what a smaller size
    would have given.

    Args:
        vectors: [V, D].
        size: wanted directions F, >= 1.
        weights: what each item counts for in means and variances, > 0, [V]; None: the same.

    Returns:
        float32 [V, F]; columns have (weighted) mean 0, are uncorrelated, and have variance 1, or 0
        beyond the directions that there are. Signs and rounding are fixed: the same vectors give
        the same bits, which a catalogue's fingerprint is made of.
    """
    share = np.ones(len(vectors)) if weights is None else weights
    share = share / share.sum()
    centred = vectors - share @ vectors
    _, strength, right = np.linalg.svd(np.sqrt(share)[:, None] * centred, full_matrices=False)
    informative = strength > _LEAST * np.linalg.norm(strength)
    scale = np.divide(signs(right), strength, out=np.zeros_like(strength), where=informative)
    found = (centred @ (right.T * scale))[:, :size]
    features = np.zeros((len(vectors), size), dtype=np.float32)
    features[:, : found.shape[1]] = found.round(6) + 0.0  # without -0
    return features


def signs(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """+1 or -1 a row, which makes the first of its largest entries positive; [R, D] -> [R].

    Entries that differ by rounding count as equally large.
    """
    size = np.abs(directions)
    first = (size > (1 - 1e-6) * size.max(1, keepdims=True)).argmax(1)
    return np.asarray(np.sign(directions[np.arange(len(directions)), first]))


def unit_rows(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1, or of zeros where there were (almost) zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9)
    return np.asarray(unit)
