"""Membership inference on the published model.

The score of a user is the gain in log-likelihood of each next item after the user's own past over
the mean after other users' pasts, so that popular items do not count. This is the loss attack (Yeom
et al. 2018, arXiv:1709.01604), calibrated by difficulty (Watson et al. 2022, arXiv:2111.08440)
without a second model.

Letters: B users, T positions, V items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender
from shared.models.losses import next_item_pairs
from simulations.audit.epsilon_bounds import binomial_interval

__all__ = ["RocCurve", "familiarity", "roc_of"]

Floats = NDArray[np.float64]

OTHERS = 8
"""Other users' pasts with which each next item is compared."""
_USERS = 64
"""Users in a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class RocCurve:
    """How well scores separate members from others.

    Attributes:
        false_positives: rates, ascending from 0 to 1.
        true_positives: rates at the same thresholds.
        members: how many there were.
        others: how many non-members there were.
        area: under the curve; .5 is guessing.
        area_interval: of `area`, at the requested confidence.
    """

    false_positives: Floats
    true_positives: Floats
    members: int
    others: int
    area: float
    area_interval: tuple[float, float]

    def at(self, false_positive_rate: float, confidence: float) -> tuple[float, float, float]:
        """Return the true positive rate at a false positive rate, and its interval.

        The threshold is the lowest with at most that share of non-members above it (Carlini et al.
        2022, arXiv:2112.03570, explain why small rates matter).
        """
        place = int(np.searchsorted(self.false_positives, false_positive_rate, side="right")) - 1
        rate = float(self.true_positives[place])
        return rate, *binomial_interval(round(rate * self.members), self.members, confidence)


@torch.no_grad()
def familiarity(model: AttentionRecommender, histories: Histories, seed: int) -> Floats:
    """Return the gain in log-likelihood of each user's next items, in nats an event, [N].

    Args:
        model: the published one; set to evaluation mode.
        histories: of the users to score; one with fewer than two events gets 0.
        seed: of the other users' pasts.
    """
    model.train(mode=False)
    rng = np.random.default_rng([seed, 0xFA1])
    order = rng.permutation(len(histories))
    scores = np.zeros(len(histories))
    for start in range(0, len(order), _USERS):
        rows = order[start : start + _USERS]
        longest = min(int(histories.lengths[rows].max(initial=2)), model.config.max_length + 1)
        inputs, targets = next_item_pairs(histories.padded(rows, longest))
        real = targets != 0
        states = model.states(inputs.to(model.device))[real.to(model.device)]
        chances = torch.log_softmax(model.score(states).float().cpu(), dim=1)  # (events, V)
        next_items, users = targets[real] - 1, real.nonzero()[:, 0].numpy()
        gains = chances.gather(1, next_items[:, None])[:, 0].double().numpy()
        for _ in range(OTHERS):
            others = torch.from_numpy(rng.permutation(len(next_items)))
            gains -= chances[others, next_items].double().numpy() / OTHERS
        sums = np.bincount(users, gains, minlength=len(rows))
        scores[rows] = sums / np.maximum(np.bincount(users, minlength=len(rows)), 1)
    return scores


def roc_of(members: Floats, others: Floats, confidence: float) -> RocCurve:
    """Return the curve over all thresholds, and its area.

    The area is Mann & Whitney's statistic, its interval Hanley & McNeil's 1982
    (doi:10.1148/radiology.143.1.7063747).

    Args:
        members: scores of users in the data; higher is likelier to be in.
        others: scores of users who are not.
        confidence: of the area's interval, in (0, 1).
    """
    n1, n0 = len(members), len(others)
    scores = np.concatenate([members, others])
    inside = np.repeat([1, 0], [n1, n0])
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores pass a threshold together
    hits, misses = np.cumsum(inside[order])[last], np.cumsum(1 - inside[order])[last]
    area = float((rankdata(scores)[:n1].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
    return RocCurve(
        false_positives=np.append(0.0, misses / n0),
        true_positives=np.append(0.0, hits / n1),
        members=n1,
        others=n0,
        area=area,
        area_interval=_area_interval(area, n1, n0, confidence),
    )


def _area_interval(area: float, n1: int, n0: int, confidence: float) -> tuple[float, float]:
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (n1 - 1) * (first - area**2) + (n0 - 1) * (second - area**2)
    reach = float(norm.isf((1 - confidence) / 2)) * np.sqrt(max(variance, 0.0) / (n1 * n0))
    return max(0.0, area - reach), min(1.0, area + reach)
