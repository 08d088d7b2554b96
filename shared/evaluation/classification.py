"""How well a risk tells two groups of users apart, and whether it means what it says.

AUROC: the chance that a user of the first group has the higher risk than one of the second, ties
half (Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747). Precision, recall and F1 are of
the users from a threshold on. The calibration error is the mean over users of the distance between
mean risk and share of the first group in the user's bin, with bins of equally many users (Guo et
al. 2017, arXiv:1706.04599, with bins as in Nguyen & O'Connor 2015, arXiv:1508.05154).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Classification", "auroc", "classify", "expected_error", "reliability"]

BINS = 10

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """Figures of one risk on some users; NaN where the users do not define it.

    Attributes:
        users: how many.
        positives: how many are of the first group.
        auroc: in [0, 1]; NaN where one of the groups is empty.
        precision: share of the first group from the threshold on; NaN where nobody is.
        recall: share of the first group that is from the threshold on; NaN where it is empty.
        f1: harmonic mean of both, 2 TP / (2 TP + FP + FN); NaN where that is 0 / 0.
        false_positive_rate: share of the second group from the threshold on.
        calibration_error: in [0, 1].
        mean_risk: mean of the risk.
    """

    users: int
    positives: int
    auroc: float
    precision: float
    recall: float
    f1: float
    false_positive_rate: float
    calibration_error: float
    mean_risk: float


def auroc(scores: Floats, labels: Marks) -> float:
    """Return the area under the ROC curve; NaN where all labels are equal.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]) > 0)
    0.75
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    first = np.bincount(place, labels.astype(np.float64), minlength=len(counts))
    second = counts - first
    pairs = float(first.sum() * second.sum())
    if not pairs:
        return math.nan
    below = np.cumsum(second) - second
    return float((first * (below + second / 2)).sum()) / pairs


def reliability(risk: Floats, labels: Marks, bins: int = BINS) -> list[tuple[int, float, float]]:
    """Return each bin's users, mean risk and share of the first group, by ascending risk.

    Args:
        risk: in [0, 1], [users].
        labels: who is of the first group.
        bins: how many, of equally many users; fewer where there are fewer users.

    >>> reliability(np.array([0.1, 0.3, 0.6, 0.8]), np.array([0, 1, 1, 1]) > 0, bins=2)
    [(2, 0.2, 0.5), (2, 0.7, 1.0)]
    """
    order = np.argsort(risk, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [(len(p), float(risk[p].mean()), float(labels[p].mean())) for p in parts]


def expected_error(risk: Floats, labels: Marks, bins: int = BINS) -> float:
    """Return the calibration error; NaN without users.

    >>> round(expected_error(np.array([0.1, 0.3, 0.6, 0.8]), np.array([0, 1, 1, 1]) > 0, 2), 3)
    0.3
    """
    if not len(risk):
        return math.nan
    parts = reliability(risk, labels, bins)
    return sum(n * abs(mean - share) for n, mean, share in parts) / len(risk)


def classify(risk: Floats, labels: Marks, threshold: float) -> Classification:
    """Return all figures of a risk in [0, 1] on some users.

    >>> one = classify(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]) > 0, 0.35)
    >>> round(one.precision, 3), one.recall, one.f1, one.false_positive_rate
    (0.667, 1.0, 0.8, 0.5)
    """
    said = risk >= threshold
    positives, hits = int(labels.sum()), int((said & labels).sum())
    false = int((said & ~labels).sum())
    return Classification(
        users=len(labels),
        positives=positives,
        auroc=auroc(risk, labels),
        precision=_share(hits, hits + false),
        recall=_share(hits, positives),
        f1=_share(2 * hits, hits + false + positives),
        false_positive_rate=_share(false, len(labels) - positives),
        calibration_error=expected_error(risk, labels),
        mean_risk=float(risk.mean()) if len(risk) else math.nan,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
