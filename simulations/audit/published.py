"""What the published model gives away of whom it was trained on.

A history counts as known where the model expects each next item more after the user's own past than
after other users' pasts: what everybody chooses is no sign of anybody. It calibrates the loss
attack (Yeom et al. 2018, arXiv:1709.01604) by difficulty (Watson et al. 2022, arXiv:2111.08440),
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
from simulations.audit.evidence import binomial_interval

__all__ = ["Attack", "familiarity", "roc_of"]

Floats = NDArray[np.float64]

OTHERS = 8
"""Pasts of others that each next item is compared after."""
_USERS = 64
"""In a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Attack:
    """How well scores tell members from others.

    Attributes:
        false_positives: rates, ascending from 0 to 1.
        true_positives: rates at the same thresholds.
        members: how many there were.
        others: likewise.
        area: under the curve; .5 tells nothing.
        area_interval: where it lies, with the confidence asked for.
    """

    false_positives: Floats
    true_positives: Floats
    members: int
    others: int
    area: float
    area_interval: tuple[float, float]

    def at(self, false_positive_rate: float, confidence: float) -> tuple[float, float, float]:
        """The true positive rate at a false positive rate at most that, and its interval.

        The threshold leaves no more than that share of the non-members above it; the interval is
        for that threshold (Carlini et al. 2022, arXiv:2112.03570, say why small rates count).
        """
        place = int(np.searchsorted(self.false_positives, false_positive_rate, side="right")) - 1
        rate = float(self.true_positives[place])
        return rate, *binomial_interval(round(rate * self.members), self.members, confidence)


@torch.no_grad()
def familiarity(model: AttentionRecommender, histories: Histories, seed: int) -> Floats:
    """How much likelier each user's next items are after its own past, in nats an event, [N].

    Args:
        model: the published one.
        histories: of whom membership is asked; a user with fewer than two events gets 0.
        seed: of the other pasts.
    """
    model.train(mode=False)
    rng = np.random.default_rng([seed, 0xFA1])
    order = rng.permutation(len(histories))
    found = np.zeros(len(histories))
    for start in range(0, len(order), _USERS):
        rows = order[start : start + _USERS]
        longest = min(int(histories.lengths[rows].max(initial=2)), model.config.max_length + 1)
        inputs, targets = next_item_pairs(histories.padded(rows, longest))
        real = targets != 0
        states = model.states(inputs.to(model.device))[real.to(model.device)]
        chances = torch.log_softmax(model.score(states).float().cpu(), dim=1)  # (events, V)
        wanted, users = targets[real] - 1, real.nonzero()[:, 0].numpy()
        gains = chances.gather(1, wanted[:, None])[:, 0].double().numpy()
        for _ in range(OTHERS):
            others = torch.from_numpy(rng.permutation(len(wanted)))
            gains -= chances[others, wanted].double().numpy() / OTHERS
        sums = np.bincount(users, gains, minlength=len(rows))
        found[rows] = sums / np.maximum(np.bincount(users, minlength=len(rows)), 1)
    return found


def roc_of(members: Floats, others: Floats, confidence: float) -> Attack:
    """The curve over all thresholds, and its area.

    The area is Mann & Whitney's statistic, its interval Hanley & McNeil's 1982
    (doi:10.1148/radiology.143.1.7063747).

    Args:
        members: scores of those in the data; higher is likelier to be in.
        others: scores of those who are not.
        confidence: of the area's interval, in (0, 1).
    """
    n1, n0 = len(members), len(others)
    scores = np.concatenate([members, others])
    inside = np.repeat([1, 0], [n1, n0])
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores pass a threshold together
    hits, misses = np.cumsum(inside[order])[last], np.cumsum(1 - inside[order])[last]
    area = float((rankdata(scores)[:n1].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
    return Attack(
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
