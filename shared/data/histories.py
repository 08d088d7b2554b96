"""Every user's history: its items in time order.

Users are in the order in which they first appear in the data. `shared.data.reading` makes
histories from files, and `shared.data.splits` holds events out of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shared.data.summary import Summary

if TYPE_CHECKING:
    import torch

__all__ = ["Histories", "offsets_of"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """Every user's items in time order, concatenated in one array.

    Attributes:
        users: one public id per user; length N.
        items: int64 [events], internal item ids in 1..V, user after user.
        offsets: int64 [N + 1]; user i has `items[offsets[i]:offsets[i + 1]]`, which may be empty.
        times: int64 [events], microseconds since 1970 in UTC, no user's decreasing; None where the
            data have positions instead, and in histories that were not read from files.
        summary: what reading found; empty for histories derived from others.

    Raises:
        ValueError: the offsets do not cut the items into one piece per user, an item is < 1, or
            the times are not one an event.
    """

    users: tuple[str, ...]
    items: Ints
    offsets: Ints
    times: Ints | None = None
    summary: Summary = field(default_factory=Summary)

    def __post_init__(self) -> None:
        ends = self.offsets
        if len(ends) != len(self.users) + 1 or ends[0] != 0 or ends[-1] != len(self.items):
            raise ValueError("offsets must start at 0, end at the number of events, and number N+1")
        if (np.diff(ends) < 0).any():
            raise ValueError("offsets must not decrease")
        if len(self.items) and self.items.min() < 1:
            raise ValueError("internal item ids start at 1; 0 is padding")
        if self.times is not None and self.times.shape != self.items.shape:
            raise ValueError(f"{self.times.shape} times of {len(self.items)} events: one for each")

    @classmethod
    def from_lists(
        cls,
        lists: Sequence[Sequence[int]],
        users: Sequence[str] | None = None,
        times: Sequence[Sequence[int]] | None = None,
    ) -> Histories:
        """Build histories from internal item ids; users are named "0", "1", ... by default.

        >>> Histories.from_lists([[3, 1], [2]])[0]
        array([3, 1])
        """
        names = tuple(map(str, range(len(lists)))) if users is None else tuple(users)
        items = np.array([item for history in lists for item in history], np.int64)
        moments = None if times is None else np.array([t for own in times for t in own], np.int64)
        lengths = np.array([len(history) for history in lists], np.int64)
        return cls(names, items, offsets_of(lengths), moments)

    @classmethod
    def joined(cls, parts: Sequence[Histories]) -> Histories:
        """Concatenate the users of all parts.

        >>> Histories.joined([Histories.from_lists([[3]]), Histories.from_lists([[1, 2]])])[1]
        array([1, 2])
        """
        users = tuple(user for part in parts for user in part.users)
        offsets = offsets_of(np.concatenate([part.lengths for part in parts]))
        items = np.concatenate([np.empty(0, np.int64), *(part.items for part in parts)])
        times = [part.times for part in parts if part.times is not None]
        if len(times) < len(parts):
            return cls(users, items, offsets)
        return cls(users, items, offsets, np.concatenate([np.empty(0, np.int64), *times]))

    @property
    def dropped(self) -> Mapping[str, int]:
        """Reason -> number of rows or users that reading left out."""
        return self.summary.dropped

    def __len__(self) -> int:
        """Return the number of users, N."""
        return len(self.users)

    def __getitem__(self, row: int) -> Ints:
        """Return the items of user number `row` in 0..N-1, oldest first, as a view [T]."""
        if not 0 <= row < len(self):
            raise IndexError(f"user {row} of {len(self)}")
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[Ints]:
        """Iterate over every user's items, in the order of `users`."""
        return (self[row] for row in range(len(self)))

    @property
    def events(self) -> int:
        """Number of interactions of all users together."""
        return len(self.items)

    @property
    def lengths(self) -> Ints:
        """Number of events of each user, [N]."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> Ints:
        """Number of each event's user, in 0..N-1, [events].

        >>> Histories.from_lists([[3, 1], [], [2]]).rows
        array([0, 0, 2])
        """
        return np.repeat(np.arange(len(self)), self.lengths)

    def select(self, rows: npt.ArrayLike) -> Histories:
        """Return the users with these row numbers, in this order."""
        rows = np.asarray(rows, np.int64).reshape(-1)
        users = tuple(self.users[row] for row in rows)
        return self._cut(users, self.offsets[:-1][rows], self.offsets[1:][rows])

    def first(self, counts: Ints) -> Histories:
        """Keep each user's first events.

        Args:
            counts: how many of each user, [N], at most the user's number of events.
        """
        return self._cut(self.users, self.offsets[:-1], self.offsets[:-1] + counts)

    def keep(self, events: npt.NDArray[np.bool_]) -> Histories:
        """Keep the marked events, [events], and all users.

        >>> list(Histories.from_lists([[3, 1], [2]]).keep(np.array([False, True, False])))
        [array([1]), array([], dtype=int64)]
        """
        offsets = offsets_of(events.astype(np.int64))[self.offsets]
        times = None if self.times is None else self.times[events]
        return Histories(self.users, self.items[events], offsets, times)

    def count_before(self, time: int) -> Ints:
        """Return how many events of each user are before a time, [N].

        Args:
            time: microseconds since 1970.

        Raises:
            ValueError: these histories have no times.
        """
        if self.times is None:
            raise ValueError("these histories have no times")
        return np.diff(offsets_of((self.times < time).astype(np.int64))[self.offsets])

    def last(self, n: int) -> Histories:
        """Keep each user's last `n` >= 0 events, or all of them if there are fewer."""
        starts, ends = self.offsets[:-1], self.offsets[1:]
        return self._cut(self.users, np.maximum(starts, ends - n), ends)

    def without_last(self, n: int) -> Histories:
        """Drop each user's last `n` >= 0 events; a user with at most `n` events has none left."""
        starts, ends = self.offsets[:-1], self.offsets[1:]
        return self._cut(self.users, starts, np.maximum(starts, ends - n))

    def padded(self, rows: npt.ArrayLike, length: int) -> torch.Tensor:
        """Return the last `length` events of some users, oldest first, right-padded with 0.

        Args:
            rows: row numbers of B users.
            length: T.

        Returns:
            int64 [B, T] with B = len(rows) and T = length.

        >>> Histories.from_lists([[3, 1, 2], [4]]).padded([0, 1], 2)
        tensor([[1, 2],
                [4, 0]])
        """
        import torch  # noqa: PLC0415 takes seconds, and who reads data may not train on them

        rows = np.asarray(rows, np.int64).reshape(-1)
        ends = self.offsets[1:][rows]
        counts = np.minimum(self.lengths[rows], length)
        positions = np.arange(length)
        filled = positions < counts[:, None]  # (B, T)
        padded = np.zeros(filled.shape, np.int64)
        padded[filled] = self.items[((ends - counts)[:, None] + positions)[filled]]
        return torch.from_numpy(padded)

    def _cut(self, users: tuple[str, ...], starts: Ints, ends: Ints) -> Histories:
        offsets = offsets_of(ends - starts)
        indices = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
        times = None if self.times is None else self.times[indices]
        return Histories(users, self.items[indices], offsets, times)


def offsets_of(lengths: Ints) -> Ints:
    """Return where each user's items start, and where the last ones end: [N] -> [N + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
