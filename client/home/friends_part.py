"""Who a user's friends are, and what they chose: a part of a home model.

`client.home.friends` has the formula, and makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.data.friends import FriendTable
from shared.data.histories import Histories

__all__ = ["FriendsPart", "add_friends"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FriendsPart:
    """Who a user's friends are, how much each counts, and what they chose.

    Attributes:
        table: the friends.
        attention: b, float32 [E], in the order of the table's `friends`.
        items: distinct items of each user of the table, in the order of its `users`.
        alpha: weight of the score without friends, in (0, 1).
        beta: with which b was computed.
    """

    table: FriendTable
    attention: NDArray[np.float32]
    items: Histories
    alpha: float
    beta: float
    _rows: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = {user: row for row, user in enumerate(self.table.users)}
        object.__setattr__(self, "_rows", rows)

    def shares(self, user: str) -> tuple[NDArray[np.int64], Floats] | None:
        """Return what the friends of a user chose, columns and shares that add up to 1 at most.

        Args:
            user: canonical id; "" for nobody.

        Returns:
            Ascending columns int64 [C] and float64 [C]; None where there is no friend.
        """
        row = self._rows.get(user)
        if row is None:
            return None
        edges = slice(*self.table.offsets[row : row + 2])
        if edges.start == edges.stop:
            return None
        columns, values = [], []
        for friend, weight in zip(self.table.friends[edges], self.attention[edges], strict=True):
            own = self.items[friend]
            columns.append(own - 1)
            values.append(np.full(len(own), float(weight) / max(1, len(own))))
        chosen, place = np.unique(np.concatenate(columns), return_inverse=True)
        shares = np.bincount(place, np.concatenate(values), len(chosen))
        return chosen.astype(np.int64), np.asarray(shares, np.float64)


def add_friends(scores: Tensor, users: Sequence[str], friends: FriendsPart) -> Tensor:
    """Return the scores of users with their friends' part.

    Args:
        scores: probabilities without friends, float32 [B, V].
        users: canonical ids, B.
        friends: whose part is added.
    """
    blended = scores.clone()
    for row, user in enumerate(users):
        if (found := friends.shares(user)) is not None:
            columns, values = torch.from_numpy(found[0]), torch.from_numpy(found[1])
            blended[row] *= friends.alpha
            blended[row, columns] += ((1 - friends.alpha) * values).float()
    return blended
