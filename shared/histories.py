"""Interactions -> one history per user.

A history is the items of one user in time order, ties broken by the order of the file. Users come
in the order of their first appearance in the file. Reading follows this table, from top to bottom:

| what the file holds                                 | what happens                               |
|-----------------------------------------------------|--------------------------------------------|
| not a readable .csv or .parquet file, or no rows    | refused, see `shared.tables`               |
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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from shared.catalogue import Catalogue
from shared.errors import ConfigError, DataError
from shared.tables import column_names, connect, read_text, replacing, require_column

__all__ = [
    "Columns",
    "Histories",
    "LeaveOneOut",
    "histories_from_table",
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
    """Read the interactions in a .csv or .parquet file.

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
    _at_least_one(max_length=max_length, min_events=min_events)
    path = Path(path)
    names = column_names(path)
    time = columns.time or next((name for name in ("timestamp", "position") if name in names), None)
    found = replace(columns, time=time or "timestamp")
    for role in ("user", "item", "time"):
        require_column(getattr(found, role), names, path, f"Columns({role}='...')")
    table = read_text(path, [found.user, found.item, str(found.time)])
    histories = histories_from_table(table, catalogue, found, path, min_events=min_events)
    if max_length is None:
        return histories
    return replace(histories.last(max_length), dropped=histories.dropped)


def histories_from_table(
    table: pa.Table, catalogue: Catalogue, columns: Columns, source: Path, *, min_events: int = 2
) -> Histories:
    """As `read_histories`, of a table of text columns that was read elsewhere.

    Args:
        table: one row per interaction; null stands for a missing value.
        catalogue: the items that count.
        columns: what the columns are called; `time` is not None.
        source: named in errors.
        min_events: drop users with fewer events; >= 1.

    Raises:
        DataError: see the table on top of this module.
        ConfigError: `min_events` is out of range.
    """
    _at_least_one(min_events=min_events)
    if not table.num_rows:
        raise DataError("there are no rows", file=source, remedy="Export the data again.")
    users, user = _codes(table, columns.user, source)
    items, item = _codes(table, columns.item, source)
    time = _times(table, columns.time or "timestamp", source)
    number = np.array([catalogue.index.get(name, 0) for name in items], np.int64)[item]

    repeated = _repeated(user, item, time)
    rows = np.flatnonzero(~repeated & (number > 0))
    if not len(rows):
        remedy = "Check that both use the same item ids, and that this is the right catalogue."
        raise DataError(
            "no item is in the catalogue", file=source, field=columns.item, remedy=remedy
        )
    rows = rows[np.lexsort((time[rows], user[rows]))]  # stable: ties stay in file order
    counts = np.bincount(user[rows], minlength=len(users))
    long = np.flatnonzero(counts >= min_events)
    if not len(long):
        problem = f"no user has {min_events} events with items of the catalogue"
        raise DataError(problem, file=source, remedy="Bring more data, or ask for fewer events.")
    kept = Histories(users, number[rows], _offsets(counts)).select(long)
    dropped = {
        "duplicate": int(repeated.sum()),
        "unknown_item": int((~repeated & (number == 0)).sum()),
        "short_history": len(users) - len(long),
    }
    return replace(kept, dropped=dropped)


def _at_least_one(**limits: int | None) -> None:
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} is {limit}. It must be 1 or more.")


def _codes(table: pa.Table, name: str, source: Path) -> tuple[tuple[str, ...], Ints]:
    """The distinct texts of a column as they first appear, and each row's number among them."""
    # large_string: one chunk may exceed 2 GiB.
    encoded = table[name].cast(pa.large_string()).combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    blank = [code for code, text in enumerate(texts) if not text.strip()]
    if (bad := np.isin(codes, [-1, *blank])).any():
        row = int(bad.argmax())
        raise DataError(
            "the id is empty",
            file=source,
            row=row + 1,
            field=name,
            value=table[name][row].as_py(),
            remedy="Give every row a user and an item, or leave it out.",
        )
    return tuple(texts), codes


# Each reading of a text `t` as a time is null where it fails. Whole numbers come first and stay
# integers: as floats, nanoseconds since 1970 would run together.
_WHOLE = "CASE WHEN regexp_full_match(t, '[+-]?[0-9]+') THEN try_cast(t AS BIGINT) END"
_NUMBER = """CASE WHEN regexp_full_match(t, '[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?')
    AND isfinite(try_cast(t AS DOUBLE)) THEN try_cast(t AS DOUBLE) END"""
_INSTANT = """CASE WHEN regexp_full_match(t, '[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}'
    || '(:[0-9]{2}([.][0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?')
    THEN epoch_us(try_cast(t AS TIMESTAMPTZ)) END"""


def _times(table: pa.Table, name: str, source: Path) -> npt.NDArray[np.int64 | np.float64]:
    """Each row's time as a number that sorts like it; all rows by the same reading."""
    whole = name == "position"
    best: Any = None
    with connect() as connection:
        connection.register("times", pa.table({"t": table[name]}))
        for reading in (_WHOLE,) if whole else (_WHOLE, _NUMBER, _INSTANT):
            query = f"SELECT {reading} AS value FROM (SELECT trim(t) AS t FROM times)"  # noqa: S608
            values = connection.sql(query).to_arrow_table()["value"]
            if not values.null_count:
                return np.asarray(values.to_numpy())
            if best is None or values.null_count < best.null_count:
                best = values
    row = int(best.is_null().to_numpy().argmax())
    kinds = (
        "whole numbers" if whole else "numbers of seconds, or ISO 8601 such as 2024-05-01T12:00:00Z"
    )
    raise DataError(
        "the position is not a whole number" if whole else "the time is missing or not a time",
        file=source,
        row=row + 1,
        field=name,
        value=table[name][row].as_py(),
        remedy=f"Write every time the same way: {kinds}.",
    )


def _repeated(
    user: Ints, item: Ints, time: npt.NDArray[np.int64 | np.float64]
) -> npt.NDArray[np.bool_]:
    """Which rows say the same as an earlier row."""
    order = np.lexsort((time, item, user))  # stable: the earliest copy comes first
    same = np.ones(len(order) - 1, np.bool_)
    for column in (user, item, time):
        same &= column[order[1:]] == column[order[:-1]]
    repeated = np.zeros(len(order), np.bool_)
    repeated[order[1:][same]] = True
    return repeated


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
