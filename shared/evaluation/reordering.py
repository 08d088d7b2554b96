"""What another order of the first candidates does to the rank of a target.

A `Reorder` chooses a list of k from the candidates of a user's scores. The items that it chooses
come first, and all others behind them in the order of their scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.data.histories import Histories

__all__ = ["Reorder", "Reordered", "join_candidates", "ranks_after"]

Ints = NDArray[np.int64]


class Reorder(Protocol):
    """Chooses lists from candidates."""

    @property
    def candidates(self) -> int:
        """How many of the highest scores it chooses from."""
        ...

    @property
    def protected(self) -> NDArray[np.bool_] | None:
        """Items, [V], of which the best are candidates in any case; None for none."""
        ...

    def __call__(
        self, ids: Ints, scores: NDArray[np.floating], histories: Histories, k: int, /
    ) -> Ints:
        """Choose the places of k candidates of each user, best first.

        Args:
            ids: [B, C], best first; 0 for an empty place.
            scores: [B, C], log probabilities up to a constant of each user.
            histories: of the B users, all events.
            k: length of a list.

        Returns:
            int64 [B, k], columns of `ids`; -1 where no candidate is left.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Reordered:
    """A scorer whose candidates are put into another order; `rank_users_by` knows it.

    Attributes:
        scorer: scores int64 [B, T] as [B, V].
        reorder: chooses the lists.
        logits: whether the scores are log probabilities; they are probabilities otherwise.
    """

    scorer: Callable[[Tensor], Tensor]
    reorder: Reorder
    logits: bool

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Score as `scorer` does."""
        return self.scorer(histories)


def join_candidates(ids: Ints, more: Ints) -> Ints:
    """Append candidates with lower scores, [B, C] and [B, M] -> [B, C + M]; repeated ones as 0.

    >>> join_candidates(np.array([[5, 3]]), np.array([[3, 1]])).tolist()
    [[5, 3, 0, 1]]
    """
    repeated = (more[:, :, None] == ids[:, None, :]).any(2)
    return np.concatenate([ids, np.where(repeated, 0, more)], 1)


def ranks_after(ranks: Tensor, targets: Tensor, top: Tensor, scores: Tensor) -> Tensor:
    """Return the targets' ranks once chosen lists stand before all other items.

    Args:
        ranks: by score alone, int64 [B].
        targets: int64 [B].
        top: the lists, int64 [B, k]; 0 for an empty place.
        scores: [B, V]; with equal ones the target is behind.

    Example:
        >>> scores, target = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([2])
        >>> lists = torch.tensor([[1, 3]]), torch.tensor([[2, 1]]), torch.tensor([[4, 3]])
        >>> [int(ranks_after(torch.tensor([2]), target, top, scores)) for top in lists]
        [3, 1, 4]
    """
    own = scores.gather(1, targets[:, None] - 1)  # [B, 1]
    chosen = scores.gather(1, (top - 1).clamp(min=0)).masked_fill(top == 0, torch.inf)
    overtaken = ranks + (chosen < own).sum(1)
    is_target = top == targets[:, None]
    place = is_target.int().argmax(1) + 1
    return torch.where(is_target.any(1), place, overtaken)
