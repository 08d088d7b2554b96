"""One organisation's sum on the grid of integers, with its share of one noise.

`shared.privacy.distributed_noise` says what the sum over organisations then reveals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shared.privacy.discrete_gaussian import discrete_gaussian
from shared.privacy.distributed_noise import (
    GRID_BITS,
    LARGEST_POINT,
    MOST_NUMBERS,
    share_deviation,
)
from shared.privacy.noise import RandomSource

__all__ = ["from_points", "noised_points", "noised_share"]


def noised_points(total: Tensor, clip_norm: float, share: float, random: RandomSource) -> Tensor:
    """Return `total` on the grid plus one organisation's share of the noise.

    A total that is not finite counts as 0, as in `shared.privacy.noise.noised`.

    Args:
        total: float64, the sum over an organisation's users, of any shape and device.
        clip_norm: bound C > 0 on what one user adds.
        share: noise over clip norm, see `share_deviation`.
        random: where the noise comes from.

    Returns:
        int64, of the same shape, on the CPU. Modulo 2^64 it is what is masked.

    Raises:
        ValueError: a value is out of range, or the total has more than `MOST_NUMBERS` numbers.
    """
    if not 0 < clip_norm < math.inf:
        raise ValueError(f"the clip norm must be a positive number, not {clip_norm}")
    if total.numel() > MOST_NUMBERS:
        raise ValueError(f"{total.numel()} numbers in one sum; at most {MOST_NUMBERS} are allowed")
    noise = discrete_gaussian(total.numel(), share_deviation(share), random)
    total = torch.where(total.isfinite().all(), total, 0).to("cpu", torch.float64)
    points = total.mul(math.ldexp(1.0, GRID_BITS) / clip_norm).round_()
    points.clamp_(-LARGEST_POINT, LARGEST_POINT)
    return points.long() + torch.from_numpy(noise).view(total.shape)


def from_points(points: Tensor, clip_norm: float) -> Tensor:
    """Return the sum that int64 points of the grid stand for, float64."""
    return points.double() * (clip_norm / math.ldexp(1.0, GRID_BITS))


def noised_share(total: Tensor, clip_norm: float, share: float, random: RandomSource) -> Tensor:
    """Return what `noised_points` stands for, float64, on the total's device."""
    points = noised_points(total, clip_norm, share, random)
    return from_points(points, clip_norm).to(total.device)
