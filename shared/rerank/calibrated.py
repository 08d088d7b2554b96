"""Calibrated lists: the groups that the user chose, in their proportions, as in Steck 2018."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.calibration import divergence, group_shares

__all__ = ["CalibratedGain"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class CalibratedGain:
    """What each candidate would make of (1 - λ) Σ_i r(i) - λ C_KL(p, q(I)), for a growing list I.

    Steck, "Calibrated Recommendations", RecSys 2018, doi:10.1145/3240323.3240372: equation 8, with
    the smoothed divergence of `shared.evaluation.calibration`, and the greedy choice of its section
    4. r(i) is the log of an item's probability over that of the user's best one. The lists of a
    user without a distribution p keep the order of the scores.

    Args:
        relevance: r, [B, C], at most 0; -inf for an empty place.
        groups: p(g | i) of the candidates, [B, C, G].
        target: p(g) of the histories, [B, G]; all 0 where there is none.
        weight: λ in [0, 1].
    """

    def __init__(self, relevance: Floats, groups: Floats, target: Floats, weight: float) -> None:
        self._linear = relevance if weight == 0 else _scaled(relevance, 1 - weight)
        self._groups, self._target, self._weight = groups, target[:, None], weight
        self._sums = np.zeros_like(self._target)  # [B, 1, G]

    def __call__(self) -> Floats:
        """Return [B, C], up to what is the same for all candidates of a user."""
        shares = group_shares(self._sums + self._groups)
        return self._linear - self._weight * divergence(self._target, shares)

    def add(self, places: Ints) -> None:
        """Take one candidate of each user into the list, [B]."""
        self._sums += np.take_along_axis(self._groups, places[:, None, None], 1)


def _scaled(relevance: Floats, factor: float) -> Floats:
    """Multiply; an empty place stays empty where the factor is 0."""
    return np.where(relevance > -np.inf, factor * relevance.clip(np.finfo(float).min), -np.inf)
