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
from shared.data.histories import Histories, offsets_of

__all__ = ["FriendsBeside", "friends_beside"]


@dataclass(frozen=True, slots=True, eq=False)
class FriendsBeside:
    """What the kind "social" reads beside histories; see `client.compute.batches.Beside`.

    Attributes:
        histories: the site's.
        most: K, friends of a user that a batch has.
        offsets: int64 [N + 1]; user i has `friends[offsets[i]:offsets[i + 1]]`.
        friends: rows of each user's friends, K at most, int64 [E]. There is no place for friends
            who are not there: what reading takes does not grow with a request's K.
        weights: of these friendships, float32 [E].
        owned: ascending numbers of all pairs of a friend and one of its items, int64 [P].
        distinct: items of each user, int64 [N].
    """

    histories: Histories
    most: int
    offsets: NDArray[np.int64]
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
        read: list[tuple[int, list[tuple[bytes, int, float]]]] = []
        for number, name in enumerate(table.users):
            if (row := row_of.get(name)) is None:
                continue
            own = [
                (pair_hash(name, friend), row_of[friend], float(table.weights[edge]))
                for edge in range(*table.offsets[number : number + 2].tolist())
                if (friend := table.users[table.friends[edge]]) in row_of
            ]
            read.append((row, sorted(own)[:most]))
        read.sort()
        counts = np.zeros(len(histories), np.int64)
        counts[[row for row, _ in read]] = [len(own) for _, own in read]
        edges = [edge for _, own in read for edge in own]
        friends = np.array([friend for _, friend, _ in edges], np.int64)
        weights = np.array([weight for _, _, weight in edges], np.float32)
        rows = np.repeat(np.arange(len(histories)), histories.lengths)
        stride = _stride(histories)
        owned = np.unique(rows * stride + histories.items)
        distinct = np.bincount(owned // stride, minlength=len(histories))
        offsets = offsets_of(counts)
        return cls(histories, most, offsets, friends, weights, owned, distinct.astype(np.int64))

    def read(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return rows and weights of users' friends, [U, K]; -1 and 0 where there is none."""
        starts, places = self.offsets[users], np.arange(self.most)
        present = places < (self.offsets[users + 1] - starts)[:, None]
        edges = (starts[:, None] + places)[present]
        friends, weights = np.full(present.shape, -1, np.int64), np.zeros(present.shape, np.float32)
        friends[present], weights[present] = self.friends[edges], self.weights[edges]
        return friends, weights

    def of(
        self, users: NDArray[np.int64], shape: Shape, key: bytes, step: int
    ) -> tuple[Tensor, ...]:
        """Return friends' histories [R, K, T], weights [R, K], shares of next items [R, T, K]."""
        most, length = self.most, shape.length
        friends, of_pairs = self.read(users)  # (U, K)
        present = friends >= 0
        histories = np.zeros((shape.rows, most, length), np.int64)
        histories[: len(users)][present] = self.histories.padded(friends[present], length).numpy()
        weights = np.zeros((shape.rows, most), np.float32)
        weights[: len(users)] = of_pairs
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
