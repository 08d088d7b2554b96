"""Counts over the last three events: a Markov chain that looks further back than one event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from torch import Tensor

from shared.data.histories import Histories
from shared.models.counts import add_sparse, item_counts
from shared.models.influence import NO_CAPS, InfluenceCaps, influence_factors

__all__ = ["WEIGHTS", "RecentCounts", "count_transitions"]

WEIGHTS = (1.0, 0.5, 0.25)
"""Weight of an event by how far back it is: the last one, the one before, the third."""
BACKOFF = 1e-3
"""Weight of popularity against one observed pair; below the least weight of a pair, 1 / 16."""


def count_transitions(
    histories: Histories, items: int, weights: Sequence[float], caps: InfluenceCaps = NO_CAPS
) -> Any:  # noqa: ANN401 scipy has no types
    """Count how often each item came after each other one, weighted by the distance.

    Args:
        histories: any number of users, with events in 1..V.
        items: V, the size of the catalogue.
        weights: w_1, w_2, ...: of a pair that is one event apart, two events, and so on.
        caps: on what one user adds; see `shared.models.influence`.

    Returns:
        scipy CSR [V + 1, V], float64: in row i, column j - 1, the sum over d of w_d times the
        number of times that j came d events after i. Row 0 is empty. Memory: O(events * weights).
    """
    user = histories.rows  # (events,)
    counted, before, after, whose = list[Any](), list[Any](), list[Any](), list[Any]()
    for distance, weight in enumerate(weights, start=1):
        same_user = user[distance:] == user[:-distance]
        before.append(histories.items[:-distance][same_user])
        after.append(histories.items[distance:][same_user] - 1)
        counted.append(np.full(len(before[-1]), weight))
        whose.append(user[distance:][same_user])
    places, counts = (np.concatenate(before), np.concatenate(after)), np.concatenate(counted)
    if caps != NO_CAPS:
        counts *= influence_factors(
            histories, np.concatenate(whose), *places, counts, weights, caps
        )
    return coo_array((counts, places), (items + 1, items)).tocsr()


@dataclass(frozen=True, slots=True, eq=False)
class RecentCounts:
    """Recommend the items that most often followed the user's last three events.

    With w = (1, 1/2, 1/4) and #_d(i, j) the number of times that j came d events after i,

        C(i, j) = sum over d = 1..3 of w_d #_d(i, j)
        score(j) = sum over k = 1..3 of w_k C(x_k, j) + s share(j)

    where x_1 is the user's last event, x_2 the one before, and the popularity shares break ties.
    C is the "sequential rules" of Ludewig & Jannach, "Evaluation of Session-based Recommendation
    Algorithms", 2018 (arXiv:1803.09587), which weigh a distance d by 1 / d.

    Attributes:
        counts: scipy CSR [V + 1, V], float64, C; row 0, after nothing, is empty.
        backoff: float64 [V], s times the popularity share of each item.
    """

    counts: Any
    backoff: Tensor

    @classmethod
    def from_histories(cls, histories: Histories, items: int) -> RecentCounts:
        """Count the pairs of the training histories, in memory O(events + V).

        Args:
            histories: at least one event.
            items: V, the size of the catalogue.

        Raises:
            ValueError: no events, or an event outside 1..V.
        """
        popularity = item_counts(histories, items)
        if not popularity.any():
            raise ValueError("no events: there is nothing to count")
        counts = count_transitions(histories, items, WEIGHTS)
        return cls(counts, BACKOFF * popularity / popularity.sum())

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Score int64 [B, T], right-padded with 0, as float64 [B, V].

        >>> model = RecentCounts.from_histories(Histories.from_lists([[1, 2, 3]]), 3)
        >>> (model(torch.tensor([[1, 2]])).round(decimals=2)).tolist()
        [[0.0, 0.5, 1.25]]
        """
        users, width = len(histories), len(WEIGHTS)
        places = (histories > 0).sum(1, keepdim=True) - torch.arange(
            1, width + 1, device=histories.device
        )  # [B, 3]
        last = histories.gather(1, places.clamp(min=0)).where(places >= 0, 0).cpu().numpy()
        mixture = coo_array(
            (np.tile(WEIGHTS, users), (np.repeat(np.arange(users), width), last.ravel())),
            (users, self.counts.shape[0]),
        )
        # Weights and counts are multiples of 1 / 16: their sums are exact in any order.
        scores = self.backoff.repeat(users, 1)  # [B, V]
        return add_sparse(scores, mixture.tocsr() @ self.counts).to(histories.device)
