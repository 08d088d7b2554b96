"""Interactions -> one history per user.

A history is the items of one user in time order, ties broken by the order of the rows. Users come
in the order in which they first appear. Reading follows this table, from top to bottom:

| what the file holds                                 | what happens                               |
|-----------------------------------------------------|--------------------------------------------|
| not a readable .csv or .parquet file, or no rows    | refused, see `shared.data.tables` |
| no user, item or time column                        | refused, with the columns there are        |
| a user or an item that is empty or null             | refused, with the row                      |
| a `timestamp` that is no finite number of seconds,  | refused, with the row                      |
|   no ISO 8601 date or date and time                 |                                            |
| numbers and ISO 8601 texts in one `timestamp`       | refused, with a row of the rarer kind      |
| a `position` that is no whole number                | refused, with the row                      |
| one (user, item, time) several times                | later copies dropped, counted `duplicate`  |
| an item outside the catalogue                       | dropped, counted `unknown_item`;           |
|                                                     |   refused if nothing is left               |
| a user with fewer than `min_events` events left     | dropped, counted once in `short_history`;  |
|                                                     |   refused if no user is left               |
| a user with more than `max_length` events left      | only the last are kept                     |

A time without an offset is in UTC; times are told apart to the microsecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shared.data.catalogue import Catalogue
from shared.data.interactions import Batch, collect
from shared.data.tables import FileTable, Table, replacing, require_column
from shared.errors import ConfigError, DataError

__all__ = [
    "Columns",
    "Histories",
    "LeaveOneOut",
    "histories_from_tables",
    "leave_one_out",
    "read_histories",
    "write_interactions",
]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the columns of an interactions file are called.

    Attributes:
        user: the column of user ids.
        item: the column of public item ids.
        time: what orders a user's events; None means `timestamp` where there is such a column,
            else `position`. A column called `position` holds whole numbers, any other holds
            numbers (seconds, as a rule) or ISO 8601 texts.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """Every user's items in time order, end to end in one array.

    Attributes:
        users: one public id per user; length N.
        items: int64 [events], internal item ids in 1..V, user after user.
        offsets: int64 [N + 1]; user i has `items[offsets[i]:offsets[i + 1]]`, perhaps none.
        dropped: why reading left something out -> how often; empty for anything derived.

    Raises:
        ValueError: the offsets do not cut the items into one piece per user, or an item is < 1.
    """

    users: tuple[str, ...]
    items: Ints
    offsets: Ints
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = self.offsets
        if len(ends) != len(self.users) + 1 or ends[0] != 0 or ends[-1] != len(self.items):
            raise ValueError("offsets must start at 0, end at the number of events, and number N+1")
        if (np.diff(ends) < 0).any():
            raise ValueError("offsets must not decrease")
        if len(self.items) and self.items.min() < 1:
            raise ValueError("internal item ids start at 1; 0 is padding")

    @classmethod
    def from_lists(
        cls, lists: Sequence[Sequence[int]], users: Sequence[str] | None = None
    ) -> Histories:
        """Histories with the given internal item ids; users are called "0", "1", ... by default.

        >>> Histories.from_lists([[3, 1], [2]])[0]
        array([3, 1])
        """
        names = tuple(map(str, range(len(lists)))) if users is None else tuple(users)
        items = np.array([item for history in lists for item in history], np.int64)
        return cls(names, items, _offsets(np.array([len(history) for history in lists], np.int64)))

    @classmethod
    def joined(cls, parts: Sequence[Histories]) -> Histories:
        """The users of all parts, one part after the other.

        >>> Histories.joined([Histories.from_lists([[3]]), Histories.from_lists([[1, 2]])])[1]
        array([1, 2])
        """
        users = tuple(user for part in parts for user in part.users)
        items = np.concatenate([np.empty(0, np.int64), *(part.items for part in parts)])
        return cls(users, items, _offsets(np.concatenate([part.lengths for part in parts])))

    def __len__(self) -> int:
        """The number of users, N."""
        return len(self.users)

    def __getitem__(self, row: int) -> Ints:
        """The items of user number `row` in 0..N-1, oldest first; a view, [T]."""
        if not 0 <= row < len(self):
            raise IndexError(f"user {row} of {len(self)}")
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[Ints]:
        """Every user's items, in the order of `users`."""
        return (self[row] for row in range(len(self)))

    @property
    def events(self) -> int:
        """The number of interactions of all users together."""
        return len(self.items)

    @property
    def lengths(self) -> Ints:
        """How many events each user has, [N]."""
        return np.diff(self.offsets)

    def select(self, rows: npt.ArrayLike) -> Histories:
        """The users with these row numbers, in this order."""
        rows = np.asarray(rows, np.int64).reshape(-1)
        users = tuple(self.users[row] for row in rows)
        return self._cut(users, self.offsets[:-1][rows], self.offsets[1:][rows])

    def last(self, n: int) -> Histories:
        """Each user's last `n` >= 0 events, or all of them if there are fewer."""
        starts, ends = self.offsets[:-1], self.offsets[1:]
        return self._cut(self.users, np.maximum(starts, ends - n), ends)

    def without_last(self, n: int) -> Histories:
        """Each user's events but the last `n` >= 0; a user with no more than `n` has none left."""
        starts, ends = self.offsets[:-1], self.offsets[1:]
        return self._cut(self.users, starts, np.maximum(starts, ends - n))

    def padded(self, rows: npt.ArrayLike, length: int) -> torch.Tensor:
        """The last `length` events of each of `rows`, oldest first, zeros at the right.

        Returns:
            int64 [B, T] with B = len(rows) and T = length.

        >>> Histories.from_lists([[3, 1, 2], [4]]).padded([0, 1], 2)
        tensor([[1, 2],
                [4, 0]])
        """
        rows = np.asarray(rows, np.int64).reshape(-1)
        ends = self.offsets[1:][rows]
        counts = np.minimum(self.lengths[rows], length)
        steps = np.arange(length)
        filled = steps < counts[:, None]  # (B, T)
        padded = np.zeros(filled.shape, np.int64)
        padded[filled] = self.items[((ends - counts)[:, None] + steps)[filled]]
        return torch.from_numpy(padded)

    def _cut(self, users: tuple[str, ...], starts: Ints, ends: Ints) -> Histories:
        offsets = _offsets(ends - starts)
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
        return Histories(users, self.items[places], offsets)


def _offsets(lengths: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


@dataclass(frozen=True, slots=True, eq=False)
class LeaveOneOut:
    """The leave-one-out split: M users are asked for one item twice.

    Attributes:
        train: every user's training events; N users, in the order of the histories.
        validation_inputs: the events before the validation item; M users.
        validation_targets: int64 [M], each user's last item but one.
        test_inputs: the events before the test item, the validation item among them; M users.
        test_targets: int64 [M], each user's last item.
    """

    train: Histories
    validation_inputs: Histories
    validation_targets: Ints
    test_inputs: Histories
    test_targets: Ints

    def on_validation(self) -> LeaveOneOut:
        """The same split, in which the validation items are what is asked for.

        For choosing parameters: what the test items say must not decide anything.
        """
        return replace(
            self, test_inputs=self.validation_inputs, test_targets=self.validation_targets
        )


def leave_one_out(histories: Histories) -> LeaveOneOut:
    """Hold out each user's last event for the test and the one before it for validation.

    A user with fewer than 3 events keeps all of them in `train` and is asked for nothing.
    """
    asked = histories.lengths >= 3
    starts, ends = histories.offsets[:-1], histories.offsets[1:]
    cases = histories.select(np.flatnonzero(asked))
    return LeaveOneOut(
        train=histories._cut(histories.users, starts, ends - 2 * asked),
        validation_inputs=cases.without_last(2),
        validation_targets=histories.items[ends[asked] - 2],
        test_inputs=cases.without_last(1),
        test_targets=histories.items[ends[asked] - 1],
    )


_COLUMNS = Columns()


def read_histories(
    path: Path | str,
    catalogue: Catalogue,
    columns: Columns = _COLUMNS,
    *,
    max_length: int | None = None,
    min_events: int = 2,
) -> Histories:
    """Read the interactions in a .csv, .csv.gz or .parquet file.

    Args:
        path: one row per interaction.
        catalogue: the items that count.
        columns: what the columns are called.
        max_length: keep only each user's last events, this many; >= 1.
        min_events: drop users with fewer events; >= 1.

    Raises:
        DataError: see the table on top of this module.
        ConfigError: `max_length` or `min_events` is out of range.
    """
    return histories_from_tables(
        [FileTable(Path(path))],
        catalogue,
        columns,
        source=str(path),
        max_length=max_length,
        min_events=min_events,
    )


def histories_from_tables(
    tables: Iterable[Table],
    catalogue: Catalogue,
    columns: Columns = _COLUMNS,
    *,
    source: str,
    max_length: int | None = None,
    min_events: int = 2,
) -> Histories:
    """As `read_histories`, of tables that follow one another.

    Args:
        tables: each has the columns; read one after the other, a few rows at a time.
        catalogue: the items that count.
        columns: what the columns are called; a time of None is settled by the first table.
        source: all of it, as errors call it.
        max_length: keep only each user's last events, this many; >= 1.
        min_events: drop users with fewer events; >= 1.

    Raises:
        DataError: see the table on top of this module.
        ConfigError: `max_length` or `min_events` is out of range.
    """
    _at_least_one(max_length=max_length, min_events=min_events)
    found = collect(_batches(tables, columns))
    if not len(found.user):
        raise DataError("there are no rows", file=source, remedy="Export the data again.")
    number = np.array([catalogue.index.get(name, 0) for name in found.items], np.int64)[found.item]
    order = found.order()
    repeated = found.repeated(order)
    rows = order[(~repeated & (number > 0))[order]]
    if not len(rows):
        problem = "no item is in the catalogue"
        remedy = "Check that both use the same item ids, and that this is the right catalogue."
        raise DataError(problem, file=source, field=columns.item, remedy=remedy)
    counts = np.bincount(found.user[rows], minlength=len(found.users))
    long = np.flatnonzero(counts >= min_events)
    if not len(long):
        problem = f"no user has {min_events} events with items of the catalogue"
        raise DataError(problem, file=source, remedy="Bring more data, or ask for fewer events.")
    kept = Histories(found.users, number[rows], _offsets(counts)).select(long)
    dropped = {
        "duplicate": int(repeated.sum()),
        "unknown_item": int((~repeated & (number == 0)).sum()),
        "short_history": len(found.users) - len(long),
    }
    return replace(kept if max_length is None else kept.last(max_length), dropped=dropped)


def _batches(tables: Iterable[Table], columns: Columns) -> Iterator[Batch]:
    """The columns that count, of all tables; the first table settles which holds the time."""
    for table in tables:
        names, first = table.columns, 1
        if columns.time is None:
            times = (name for name in ("timestamp", "position") if name in names)
            columns = replace(columns, time=next(times, "timestamp"))
        wanted = {"user": columns.user, "item": columns.item, "time": str(columns.time)}
        for role, name in wanted.items():
            require_column(name, names, table.source, f"{role} = '...'")
        for rows in table.batches(list(wanted.values())):
            yield Batch(rows, table.source, first)
            first += rows.num_rows


def _at_least_one(**limits: int | None) -> None:
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} is {limit}. It must be 1 or more.")


def write_interactions(histories: Histories, catalogue: Catalogue, path: Path | str) -> None:
    """Write a Parquet file that `read_histories` reads back, with min_events=1, as it was.

    Its columns are user_id, item_id and position, which counts a user's events from 0. Users
    without events leave no trace.
    """
    lengths = histories.lengths
    positions = np.arange(histories.events) - np.repeat(histories.offsets[:-1], lengths)
    ids, users = pa.array(catalogue.item_ids, pa.string()), pa.array(histories.users, pa.string())
    rows = np.repeat(np.arange(len(histories)), lengths)
    columns = {
        "user_id": users.take(pa.array(rows)),
        "item_id": ids.take(pa.array(histories.items - 1)),
        "position": pa.array(positions, pa.int64()),
    }
    with replacing(Path(path)) as temporary:
        pq.write_table(pa.table(columns), temporary)
