"""Diverse lists: items unlike each other, by a determinantal point process.

A DPP is taken and not MMR (Carbonell & Goldstein, "The Use of MMR", SIGIR 1998): MMR compares a
candidate with its nearest neighbour in the list alone and has no objective for the list, while the
determinant looks at all pairs, can be compared with an exhaustive search, and costs as much: one
product of the candidates with the item that was chosen last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["OWN_PART", "DiverseGain"]

OWN_PART = 0.1
"""ρ: the part of an item's length that it shares with no other; keeps determinants above 0."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class DiverseGain:
    """What each candidate adds to (1 - λ) Σ_i r(i) + λ log det S_I, for a growing list I.

    S = (1 - ρ) cos(i, j) off the diagonal and 1 on it. This is the log-probability of a DPP whose
    kernel is q_i S_ij q_j with log q = r (1 - λ) / 2 λ, times λ (Chen, Zhang & Zhou, "Fast Greedy
    MAP Inference for Determinantal Point Process", NeurIPS 2018, arXiv:1709.05135, section 4.2).
    A candidate adds λ log d², where d² is what the list leaves of its length 1; by the incremental
    Cholesky factor of algorithm 1 there, O(C (F + k)) an item.

    Args:
        relevance: r, [B, C], at most 0; -inf for an empty place.
        vectors: of length 1, or 0 for an item of which nothing is known, float32 [B, C, F].
        weight: λ in [0, 1].
        k: items that are chosen.
    """

    def __init__(
        self, relevance: Floats, vectors: NDArray[np.float32], weight: float, k: int
    ) -> None:
        empty = relevance == -np.inf
        self._linear = np.where(empty, -np.inf, (1 - weight) * np.where(empty, 0.0, relevance))
        self._weight, self._vectors = weight, vectors
        self._left = np.ones(relevance.shape)  # d²
        self._factor = np.zeros((*relevance.shape, k))  # c
        self._chosen, self._rows = 0, np.arange(len(relevance))

    def __call__(self) -> Floats:
        """Return [B, C]."""
        return self._linear + self._weight * np.log(self._left)

    def add(self, places: Ints) -> None:
        """Take one candidate of each user into the list, [B]."""
        rows, before = self._rows, self._factor[..., : self._chosen]
        vector = self._vectors[rows, places][..., None]  # [B, F, 1]
        part = (self._vectors @ vector)[..., 0].astype(np.float64)  # [B, C]
        part *= 1 - OWN_PART
        part -= (before @ before[rows, places][..., None])[..., 0]
        part /= np.sqrt(self._left[rows, places])[:, None]
        self._factor[..., self._chosen] = part
        self._left = np.maximum(self._left - part**2, np.finfo(np.float64).tiny)
        self._chosen += 1
