"""Dropout whose masks may be given, user by user."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BITS", "Dropout", "Masks"]

BITS = 16
"""Of a random number that decides about one value: rates are multiples of 2^-16."""


class Masks:
    """The masks of one pass over a batch, from random numbers that each user has of its own.

    Args:
        numbers: in 0..65535, int32 [B, N]; enough for all masks of the pass.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._numbers, self._used = numbers, 0

    def uniform(self, count: int) -> Tensor:
        """Return the next numbers, in [0, 1): float32 [B, count]."""
        start, self._used = self._used, self._used + count
        return self._numbers[:, start : self._used] * 2.0**-BITS

    def take(self, like: Tensor, rate: float) -> Tensor:
        """Return the next mask for values [B, ...]: 0 at `rate`, 1 / (1 - rate) elsewhere."""
        start, size = self._used, like[0].numel()
        self._used += size
        numbers = self._numbers[:, start : start + size].view(like.shape)
        dropped = min(round(rate * 2**BITS), 2**BITS - 1)
        kept: Tensor = (numbers >= dropped).to(like.dtype)
        return kept.mul_(2**BITS / (2**BITS - dropped))


class Dropout(nn.Module):
    """Dropout by given masks, or by torch's generator where none are given.

    Masks of torch's generator depend on a user's row and on the size of the batch.

    Attributes:
        masks: of the passes to come; None for torch's.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.masks: Masks | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop values in training: [B, ...] -> [B, ...]."""
        if not self.training or self.rate == 0:
            return x
        if self.masks is None:
            return F.dropout(x, self.rate)
        return x * self.masks.take(x, self.rate)

    def uniform(self, users: int, count: int, device: torch.device) -> Tensor:
        """Return numbers in [0, 1) of the same source, float32 [B, count]."""
        if self.masks is None:
            return torch.rand(users, count, device=device)
        return self.masks.uniform(count)

    @staticmethod
    def give(model: nn.Module, numbers: Tensor | None) -> None:
        """Give every dropout of a model its masks for one pass; None takes them away."""
        masks = None if numbers is None else Masks(numbers)
        for module in model.modules():
            if isinstance(module, Dropout):
                module.masks = masks
