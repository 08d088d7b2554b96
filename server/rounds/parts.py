"""What each organisation counts with where only the sum of all is known: an equal part of it.

A sum's numbers are in steps of the grid, C / 2^30 (`shared.privacy.distributed_noise`). A sum that
honest organisations cannot add up to is refused: whose fault it is, nobody can tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.rounds.participants import Partner
from server.rounds.replies import (
    Floats,
    Sums,
    check_change,
    check_statistic,
    check_sums,
)
from shared.messages import EvaluateRequest, StatisticsRequest, TrainRequest, Weights
from shared.models.moments import STATISTIC_CLIP_NORM
from shared.privacy.distributed_noise import GRID_BITS

__all__ = ["Points", "part_of_change", "part_of_statistic", "part_of_sums"]

Points = NDArray[np.int64]
"""A sum over organisations in steps of the grid, [m]."""


def part_of_change(
    points: Points, request: TrainRequest, partners: Sequence[Partner], max_norm: float
) -> Weights:
    """Return the change of one step by the mean gradient over all partners' users.

    Each partner sends its noised sum of clipped gradients. One step of SGD moves the weights w by
    -(learning rate) × (sum / (sample rate × users) + weight decay × w), with the declared users of
    all partners in the sum; the mean of equal changes is that change.

    Args:
        points: of all weights, one after the other by name.
        request: that the partners answered.
        partners: in the sum.
        max_norm: largest accepted L2 norm.

    Raises:
        ReplyError: the change is longer than `max_norm`.
    """
    users = sum(partner.population for partner in partners)
    gradient = _from_grid(points, request.clip_norm) / (request.sample_rate * users)
    change, start = Weights(), 0
    for name in sorted(request.weights):
        before = request.weights[name]
        part = gradient[start : start + before.size].reshape(before.shape)
        step = part + request.weight_decay * before.astype(np.float64)
        change[name] = (-request.learning_rate * step).astype(np.float32)
        start += before.size
    check_change(change, like=request.weights, max_norm=max_norm)
    return change


def part_of_statistic(
    points: Points, request: StatisticsRequest, partners: Sequence[Partner], shape: tuple[int, ...]
) -> Floats:
    """Return an equal part of a statistic of this shape, float64.

    Raises:
        ReplyError: the sum is beyond what so many users and the noise reach.
    """
    total = _from_grid(points, STATISTIC_CLIP_NORM).reshape(shape)
    users = sum(partner.population for partner in partners)
    noise = request.noise_multiplier * math.sqrt(len(partners))
    check_statistic(total, noise, shape=shape, population=users)
    return total / len(partners)


def part_of_sums(points: Points, request: EvaluateRequest, partners: Sequence[Partner]) -> Sums:
    """Return an equal part of an evaluation's sums, float32 [m].

    Raises:
        ReplyError: a sum is beyond what so many users and the noise reach.
    """
    sums = _from_grid(points, request.clip_norm).astype(np.float32)
    users = sum(partner.population for partner in partners)
    noise = request.noise_multiplier * request.clip_norm * math.sqrt(len(partners))
    check_sums(sums, noise, users)
    return sums / np.float32(len(partners))


def _from_grid(points: Points, clip_norm: float) -> Floats:
    return points.astype(np.float64) * (clip_norm / 2.0**GRID_BITS)
