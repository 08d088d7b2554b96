"""Noised statistics of one site's users, for a warm start; knows no message, file or ledger.

Every user adds a vector of length 1 or 0, whatever its history, or of a shorter one, where groups
of users count differently (`shared.groups`): the sum gets N(0, σ²) on each
number, a Gaussian release without subsampling, with the same unit and neighbours as a training
step.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.config import Trust
from shared.data.histories import Histories
from shared.messages import Statistic, StatisticsRequest
from shared.models.moments import STATISTIC_CLIP_NORM, moment_sum, popularity_sum
from shared.privacy.noise import RandomSource, noised
from shared.privacy.noise_share import noised_points, noised_share

__all__ = ["noised_statistic", "statistic_points"]


def noised_statistic(
    histories: Histories,
    table: NDArray[np.float32],
    request: StatisticsRequest,
    random: RandomSource,
    counts: NDArray[np.float64] | None = None,
) -> Tensor:
    """Return the requested statistic with noise, or with a share of one.

    Args:
        histories: the site's private histories.
        table: what describes each item, [V, F].
        request: public constants only.
        random: source of the noise.
        counts: the length of what each user adds, in [0, 1], [N]; None is 1 for all.

    Returns:
        float32 [V] or [F, F].
    """
    total = _sum(histories, table, request, counts)
    if request.trust is Trust.SECURE_AGGREGATION:
        total = noised_share(total, STATISTIC_CLIP_NORM, request.noise_multiplier, random)
    elif request.noise_multiplier > 0:
        total = noised(total, request.noise_multiplier * STATISTIC_CLIP_NORM, random)
    return total.float()


def statistic_points(
    histories: Histories,
    table: NDArray[np.float32],
    request: StatisticsRequest,
    random: RandomSource,
    counts: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Return the statistic with a share of the noise, in steps of the grid: int64 [V] or [F * F].

    Arguments are those of `noised_statistic`; so is the noise.
    """
    total = _sum(histories, table, request, counts)
    points = noised_points(total, STATISTIC_CLIP_NORM, request.noise_multiplier, random)
    return points.flatten().numpy()


def _sum(
    histories: Histories,
    table: NDArray[np.float32],
    request: StatisticsRequest,
    counts: NDArray[np.float64] | None,
) -> Tensor:
    if request.statistic is Statistic.POPULARITY:
        return torch.from_numpy(popularity_sum(histories, len(table), request.fade, counts))
    return torch.from_numpy(moment_sum(histories, table, request.model.recency, counts))
