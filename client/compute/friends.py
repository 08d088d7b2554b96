"""Friends of users as a training step of the kind "social" reads them; see `shared.models.social`.

It is the one way on which a graph of users enters an answer to a coordinator, and what comes of it
is clipped so that a user who is removed with all edges moves a sum by no more than the clip norm
(`shared.privacy.clipping`). That needs two bounds:

| bound by K                     | how                                                            |
|--------------------------------|----------------------------------------------------------------|
| others whose friend a user is  | the table has it itself: one that does not is refused. No rule |
|                                | that picks K of these edges by looking at all of them bounds   |
|                                | anything: remove somebody whom all name, and others move up    |
| a user's own friends           | K of them are read, in the order of a hash of the pair. Who    |
|                                | moves up where one is removed changes that one sample, which   |
|                                | changes anyhow                                                 |

What a user's row holds depends on its own history, those of its friends, and public constants.
A table that is refused, or is not there, fails as interactions that cannot be read do: before
anything is charged, with one code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.compute.batches import Shape
from shared.data.friends import FriendTable, pair_hash, read_friends, refuse_unbounded
from shared.data.histories import Histories

__all__ = ["FriendsBeside", "friends_beside"]


@dataclass(frozen=True, slots=True, eq=False)
class FriendsBeside:
    """What the kind "social" reads beside histories; see `client.compute.batches.Beside`.

    Attributes:
        histories: the site's.
        friends: row of each friend of each user, -1 where there is none, int64 [N, K].
        weights: of these friendships, 0 where there is none, float32 [N, K].
        owned: ascending numbers of all pairs of a friend and one of its items, int64 [P].
        distinct: items of each user, int64 [N].
    """

    histories: Histories
    friends: NDArray[np.int64]
    weights: NDArray[np.float32]
    owned: NDArray[np.int64]
    distinct: NDArray[np.int64]

    @classmethod
    def of_table(cls, histories: Histories, table: FriendTable, most: int) -> FriendsBeside:
        """Collect what is read of friends.

        Args:
            histories: the site's; edges of a user who has none are left out.
            table: bounded.
            most: K, friends of a user that are read.
        """
        row_of = {user: row for row, user in enumerate(histories.users)}
        friends = np.full((len(histories), most), -1, np.int64)
        weights = np.zeros((len(histories), most), np.float32)
        for number, name in enumerate(table.users):
            if (row := row_of.get(name)) is None:
                continue
            own = [
                (pair_hash(name, friend), row_of[friend], table.weights[edge])
                for edge in range(*table.offsets[number : number + 2].tolist())
                if (friend := table.users[table.friends[edge]]) in row_of
            ]
            for place, (_, friend_row, weight) in enumerate(sorted(own)[:most]):
                friends[row, place], weights[row, place] = friend_row, weight
        rows = np.repeat(np.arange(len(histories)), histories.lengths)
        stride = _stride(histories)
        owned = np.unique(rows * stride + histories.items)
        distinct = np.bincount(owned // stride, minlength=len(histories))
        return cls(histories, friends, weights, owned, distinct.astype(np.int64))

    def of(
        self, users: NDArray[np.int64], shape: Shape, key: bytes, step: int
    ) -> tuple[Tensor, ...]:
        """Return friends' histories [R, K, T], weights [R, K], shares of next items [R, T, K]."""
        most, length = self.friends.shape[1], shape.length
        friends = self.friends[users]  # (U, K)
        present = friends >= 0
        histories = np.zeros((shape.rows, most, length), np.int64)
        histories[: len(users)][present] = self.histories.padded(friends[present], length).numpy()
        weights = np.zeros((shape.rows, most), np.float32)
        weights[: len(users)] = self.weights[users]
        chosen = np.zeros((shape.rows, length, most), np.float32)
        targets = self.histories.padded(users, length + 1).numpy()[:, 1:, None]  # (U, T, 1)
        chosen[: len(users)] = self._shares(friends[:, None], targets)
        return tuple(torch.from_numpy(part) for part in (histories, weights, chosen))

    def _shares(
        self, friends: NDArray[np.int64], targets: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return 1 / (distinct items of a friend) where it has a target, else 0, [U, T, K]."""
        asked = friends * _stride(self.histories) + targets
        places = np.searchsorted(self.owned, asked).clip(max=max(0, len(self.owned) - 1))
        has = (friends >= 0) & (targets > 0)
        if len(self.owned):
            has &= self.owned[places] == asked
        return np.asarray(has / self.distinct[friends].clip(min=1), np.float32)


def friends_beside(file: Path, histories: Histories, *, bound: int, most: int) -> FriendsBeside:
    """Read the bounded table of friends, for a step of the kind "social".

    Args:
        file: the table; rows that cannot be read are left out.
        histories: the site's.
        bound: how many others' friend a user is at most, as the partner states it.
        most: K of the request, >= `bound`.

    Raises:
        SiteError: the table is not there.
        DataError: it is no such table, or somebody is the friend of more others.
    """
    status = file.stat() if file.is_file() else None
    if status is None:
        table = read_friends(file, frozenset(histories.users), strict=False)
    else:
        table = _read(file, (status.st_mtime_ns, status.st_size), histories.users)
    refuse_unbounded(table, bound, file)
    return FriendsBeside.of_table(histories, table, most)


@lru_cache(maxsize=8)
def _read(file: Path, _: tuple[int, int], users: tuple[str, ...]) -> FriendTable:
    return read_friends(file, frozenset(users), strict=False)


def _stride(histories: Histories) -> int:
    """Return the least number above all items."""
    return int(histories.items.max(initial=0)) + 1
