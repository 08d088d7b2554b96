"""Calibrated lists: the groups that the user chose, in their proportions, as in Steck 2018."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.calibration import SMOOTHING

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
        self._grouped = groups.sum(2) > 0  # [B, C]
        self._groups = np.ascontiguousarray(groups.mT)  # [B, G, C], since C is the larger
        self._target, self._weight = target, weight
        self._smooth = np.maximum(SMOOTHING * target, np.finfo(np.float64).tiny)
        self._sums, self._mass = np.zeros_like(target), np.zeros((len(target), 1))  # of the list
        self._rows, self._mixed = np.arange(len(target)), np.empty_like(self._groups)

    def __call__(self) -> Floats:
        """Return [B, C], up to what is the same for all candidates of a user.

        Of C_KL = Σ p log p - Σ p log q̃ the second part alone differs between candidates. With f =
        (1 - α) / (items of a group in the list), log q̃ = log f + log(sums + α p / f).
        """
        mixed, factor = self._mixed, (1 - SMOOTHING) / (self._mass + 1)  # [B, G, C], [B, 1]
        np.add(self._groups, (self._sums + self._smooth / factor)[..., None], out=mixed)
        np.log(mixed, out=mixed)
        fit = (self._target[:, None] @ mixed)[:, 0]  # [B, C]
        fit += self._target.sum(1, keepdims=True) * np.log(factor)
        if not self._grouped.all():
            shares = self._sums / np.maximum(self._mass, 1)  # stay as they are
            alone = np.log((1 - SMOOTHING) * shares + self._smooth)
            fit = np.where(self._grouped, fit, (self._target * alone).sum(1, keepdims=True))
        return self._linear + self._weight * fit

    def add(self, places: Ints) -> None:
        """Take one candidate of each user into the list, [B]."""
        self._sums += self._groups[self._rows, :, places]
        self._mass[:, 0] += self._grouped[self._rows, places]


def _scaled(relevance: Floats, factor: float) -> Floats:
    """Multiply; an empty place stays empty where the factor is 0."""
    return np.where(relevance > -np.inf, factor * relevance.clip(np.finfo(float).min), -np.inf)
