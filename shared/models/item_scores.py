"""The layers that hold public features of items, and that score items.

Letters: B users, T positions, D size of a vector, F feature size, V items, K candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.models.offsets import OFFSET_SCALE
from shared.models.products import linear_by_user, product_by_user

__all__ = ["ItemScores", "PublicFeatures"]


class PublicFeatures(nn.Module):
    """The catalogue's frozen features, one row per item."""

    table: Tensor  # (V, F)

    def __init__(self, items: int, size: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(items, size))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the rows' features: [B, T], counted from 0 -> [B, T, F]."""
        return self.table[rows]


class ItemScores(nn.Module):
    """Item scores: state · item vector, plus the item's offset (its popularity).

    The layer owns the offsets and not the item vectors. These are passed to it: the input table, a
    separate output table, or the frozen features.

    Args:
        items: catalogue size V.
        offset: whether each item has a learned offset.
    """

    OFFSET_SCALE = OFFSET_SCALE
    """Constant factor of every offset.

    A user's gradient is clipped as a whole, over all weights. The gradient of the projections has
    the size of a state times a feature vector, about 64 here. That of an unscaled offset is below
    1, which is small against the noise that the joint clip norm requires.
    """

    def __init__(self, items: int, *, offset: bool) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(items, 1)) if offset else None

    def forward(self, states: Tensor, table: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Score all items, or each user's own candidates.

        Args:
            states: [B, T, D]; also [B, D] where all items are scored.
            table: one vector per item, [V, D].
            candidates: item ids in 1..V, int64 [B, K].

        Returns:
            [..., V], or [B, T, K].
        """
        return self.scores(states, table, self.offset, candidates)

    @classmethod
    def scores(
        cls, states: Tensor, table: Tensor, offset: Tensor | None, candidates: Tensor | None
    ) -> Tensor:
        """Score as `forward` does, with the given offsets [V, 1]; None for no offsets."""
        if candidates is None:
            scaled = None if offset is None else cls.OFFSET_SCALE * offset[:, 0]  # (V,)
            return linear_by_user(states, table, scaled)  # (..., D) -> (..., V)
        vectors = F.embedding(candidates - 1, table).mT  # (B, D, K)
        scores = product_by_user(states, vectors)  # (B, T, K)
        if offset is not None:
            scores = scores + cls.OFFSET_SCALE * offset[candidates - 1].mT
        return scores
