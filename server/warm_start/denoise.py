"""Noised statistics -> the recommender's first weights. Post-processing: it costs no privacy.

Letters: V items, F directions that describe an item, n organisations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, ItemScores
from shared.models.moments import layer_norm, moment_sum, popularity_sum

__all__ = ["Known", "Prior", "moment", "popularity", "set_weights"]

LOGIT_SPREAD = 0.5
"""Root mean square of what the moment adds to a score; the rest is popularity."""
HEARD = 0.1
"""Part of the moment that must be known for it to speak as loudly as that."""
_LEAST_POPULARITY = 0.05
"""Of the mean: nobody knows that an item is less popular than that."""
_TINY = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prior:
    """What public interactions say before anybody private is asked.

    Attributes:
        histories: of public users; None where there are none.
    """

    histories: Histories | None

    def popularity(self, items: int, fade: float) -> Floats:
        """Shape of the popularity, [V]; without public users all items are alike."""
        if self.histories is None:
            return np.ones(items)
        return popularity_sum(self.histories, items, fade) + _LEAST_POPULARITY

    def moment(self, table: NDArray[np.float32], recency: float) -> Floats:
        """Shape of the moment, [F, F]; zeros without public users."""
        if self.histories is None:
            return np.zeros((table.shape[1],) * 2)
        return moment_sum(self.histories, table, recency)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a sum.

    Attributes:
        mean: the posterior mean.
        part: its squared length over that of the true sum, both expected: 1 without noise, towards
            0 where noise and nothing else was heard.
        trust: part of what was heard beside the expected that is no noise, in [0, 1].
    """

    mean: Floats
    part: float = 1.0
    trust: float = 1.0


def popularity(noised: Floats | None, spread: float, prior: Floats) -> Floats:
    """What is known of each item's popularity, > 0, [V]; see `moment`."""
    found = prior if noised is None else _posterior(noised, spread, prior).mean
    return np.maximum(found, _LEAST_POPULARITY * max(float(found.mean()), _TINY))


def moment(noised: Floats | None, spread: float, prior: Floats) -> Known:
    """What is known of the moment, [F, F].

    The sum of the sites' moments is a · prior + a deviation, whose numbers are taken to be
    independent N(0, τ²), plus noise N(0, spread²). a is the least-squares fit, τ² what the noise
    leaves of the residual's variance; the result is the posterior mean, Wiener's filter (Efron &
    Morris 1973, doi:10.1080/01621459.1973.10481350).

    Args:
        noised: the sum of what the sites answered; None where nobody was asked.
        spread: standard deviation of the noise in it.
        prior: what the public users' sum is.
    """
    return Known(prior) if noised is None else _posterior(noised, spread, prior)


def _posterior(noised: Floats, spread: float, prior: Floats) -> Known:
    length = float((prior**2).sum())
    expected = prior * (float((noised * prior).sum()) / length if length else 0.0)
    rest = noised - expected
    signal = max(float((rest**2).mean()) - spread**2, 0.0)
    trust = signal / (signal + spread**2) if signal else 0.0
    before = float((expected**2).mean())
    part = (before + trust * signal) / (before + signal) if before + signal else 0.0
    return Known(np.asarray(expected + trust * rest), part, trust)


def set_weights(model: AttentionRecommender, known: Known, popular: Floats) -> None:
    """Makes the untrained recommender score by a bilinear form of state and item, and popularity.

    Args:
        model: of features, untrained.
        known: the moment, [F, F]; what is heard in noise speaks more softly.
        popular: popularity, > 0, [V].
    """
    table = model.features.table.detach().cpu().numpy().astype(np.float64)  # [V, F]
    normed, weight = layer_norm(table), popular / popular.sum()
    past = (normed * weight[:, None]).T @ normed  # [F, F]: a state's second moment, about
    spread = float(np.sum((known.mean.T @ past @ known.mean) * (table.T @ table)) / len(table))
    loudness = LOGIT_SPREAD * min(1.0, known.part / HEARD)
    scale = loudness / math.sqrt(spread) if spread > 0 else 0.0
    with torch.no_grad():
        model.feature_out.weight.copy_(torch.from_numpy(scale * known.mean.T))
        if model.item_scores.offset is not None:
            logs = np.log(weight) - np.log(weight).mean()
            model.item_scores.offset.copy_(
                torch.from_numpy(logs / ItemScores.OFFSET_SCALE)[:, None]
            )
