"""How often, and how high, users who did not attack are shown an item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer, rank_users

__all__ = ["Shown", "how_shown"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What users are shown of one item.

    Attributes:
        users: who could be shown it: it is not in their histories.
        share: of them whose first k hold it, in [0, 1].
        rank: its mean rank among the items that each has not seen, from 1.
    """

    users: int
    share: float
    rank: float


def how_shown(
    scorer: Scorer, inputs: Histories, target: int, *, items: int, window: int, k: int = 10
) -> Shown:
    """Rank one item for all users who have not seen it.

    Args:
        scorer: the model.
        inputs: histories of users who did not attack.
        target: internal id.
        items: V, the size of the catalogue.
        window: events that the scorer reads.
        k: length of a list.

    Raises:
        ValueError: all users have seen it.
    """
    unseen = inputs.select(_without(inputs, target))
    if not len(unseen):
        raise ValueError(f"item {target}: every user has seen it")
    targets = np.full(len(unseen), target, np.int64)
    ranks = rank_users(scorer, unseen, targets, items=items, window=window, k=k).ranks
    return Shown(len(unseen), float((ranks <= k).double().mean()), float(ranks.double().mean()))


def _without(histories: Histories, item: int) -> NDArray[np.int64]:
    """Return the users who do not have an item."""
    user = histories.rows
    return np.setdiff1d(np.arange(len(histories)), user[histories.items == item])
