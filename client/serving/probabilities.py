"""Scores of histories as probabilities: of the published model, or blended with a home model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.home.home_model import HomeModel
from shared.errors import DataError
from shared.evaluation.ranking import Scorer

__all__ = ["MOST_ROWS", "Probabilities", "batches"]

_NUMBERS = 2**24
"""Scores that are held at once."""
MOST_ROWS = 256
"""Users whose scores are held at once, at most."""


def batches(users: int, items: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of users whose scores of so many items are held at once."""
    size = max(1, min(MOST_ROWS, _NUMBERS // items))
    for start in range(0, users, size):
        yield np.arange(start, min(start + size, users))


@dataclass(frozen=True, slots=True, eq=False)
class Probabilities:
    """How likely each item is next, s(j | h).

    Attributes:
        federated: logits of the published model, [B, T] -> [B, V].
        home: the site's own model, which is blended with it; None for the published model alone.
    """

    federated: Scorer
    home: HomeModel | None

    def raw(self, rows: Tensor) -> Tensor:
        """Score int64 [B, T] as float32 [B, V], in the order of the probabilities."""
        scores = (self.federated if self.home is None else self.home)(rows)
        return scores.float()

    def of(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return s(j | h) of K items after B histories, float64 [B, K]."""
        raw = self.raw(rows)
        some, totals = raw[:, columns.to(raw.device)].double(), self.totals(raw)
        return ((some - totals).exp() if self.home is None else some / totals).cpu()

    def totals(self, raw: Tensor) -> Tensor:
        """Return by what the probabilities of [B, V] are normalised, float64 [B, 1].

        Raises:
            DataError: a score is not a number.
        """
        totals = (
            raw.logsumexp(1, keepdim=True).double()
            if self.home is None
            else raw.sum(1, keepdim=True, dtype=torch.float64)
        )
        if not totals.isfinite().all():
            raise DataError(
                "its scores of a history are not finite",
                file="the model",
                remedy="Ask the coordinator for a sound model.",
            )
        return totals
