"""Exact sums of users' contributions: numbers on a grid, added up as integers.

Floating-point sums depend on the order of their terms, so that one user more could move what all
others add. A sum of integers does not: the sum with a user is the sum without, plus what that user
adds, in every bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GridSum", "grid_bits"]

_BITS = {torch.float32: 24, torch.float64: 40}
"""Binary places of the grid below the clip norm: what a gradient's precision can hold."""
_IN_INT32 = 127
"""Users whose float32 points, each at most 2^24, add up within an int32."""


def grid_bits(dtype: torch.dtype) -> int:
    """Return b, where contributions in `dtype` are multiples of clip norm / 2^b.

    >>> grid_bits(torch.float32)
    24
    """
    return _BITS[dtype]


class GridSum:
    """The sum over users of clipped gradients, in multiples of the grid's step.

    Exact in any order, for up to 2^39 users in float32 and 2^23 in float64.

    Args:
        shape: of the sum.
        like: a weight; gives device and precision.
    """

    def __init__(self, shape: torch.Size, like: Tensor) -> None:
        self._total = torch.zeros(shape, dtype=torch.int64, device=like.device)
        # Cache and memory take half as long over 32 bits; a few users' points fit.
        short = like.dtype == torch.float32
        self._part = torch.zeros_like(self._total, dtype=torch.int32) if short else None
        self._users = 0

    def add(self, points: Tensor, counted: Tensor) -> None:
        """Add users' points.

        Args:
            points: whole numbers of at most 2^`grid_bits`, [B, *shape]; those of users that do not
                count may be anything.
            counted: who counts, bool [B].
        """
        counted = counted.view(-1, *[1] * self._total.dim())
        if self._part is None:
            self._total += (points.long() * counted).sum(0)
            return
        for part, counts in zip(
            points.split(_IN_INT32), counted.int().split(_IN_INT32), strict=True
        ):
            if self._users + len(part) > _IN_INT32:
                self._carry(self._part)
            self._users += len(part)
            if len(part) == 1:
                self._part.add_(part[0].int(), alpha=int(counts))
            else:
                self._part += part.int().mul_(counts).sum(0, dtype=torch.int32)

    def add_rows(self, ids: Tensor, points: Tensor, counted: Tensor) -> None:
        """Add points [B, S, D] of users that count to the rows `ids` [B, S]."""
        points = points.long() * counted[:, None, None]
        self._total.index_add_(0, ids.flatten(), points.flatten(0, 1))

    def total(self) -> Tensor:
        """Return the sum, int64; it goes on being this object's."""
        if self._part is not None and self._users:
            self._carry(self._part)
        return self._total

    def _carry(self, part: Tensor) -> None:
        self._total += part
        part.zero_()
        self._users = 0
