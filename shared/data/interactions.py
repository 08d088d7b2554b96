"""Rows of text -> checked interactions, as numbers.

Rows come a few at a time, so that only the numbers of all of them are ever held: 16 bytes a row,
and each distinct id once. What is refused stands in the table on top of `shared.data.histories`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shared.data.tables import connect
from shared.errors import DataError

__all__ = ["Batch", "Interactions", "collect"]

Codes = npt.NDArray[np.int32]
Times = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of one table.

    Attributes:
        rows: three text columns: user, item and time.
        source: the table, as errors call it.
        first: the number of the first row within the table, from 1.
    """

    rows: pa.RecordBatch
    source: str
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """E rows in the order they came.

    Attributes:
        users: the distinct user ids, as they first appear.
        items: the distinct item ids, as they first appear.
        user: int32 [E], places in `users`.
        item: int32 [E], places in `items`.
        time: int64 or float64 [E], sorts like the times.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    user: Codes
    item: Codes
    time: Times

    def order(self) -> npt.NDArray[np.int64]:
        """All rows by user, then by time; ties as they came, [E]."""
        return np.lexsort((self.time, self.user))

    def repeated(self, order: npt.NDArray[np.int64]) -> Mask:
        """Which rows say the same as an earlier row, [E].

        Args:
            order: what `order` returns.
        """
        user, time = self.user[order], self.time[order]
        tied = np.flatnonzero((user[1:] == user[:-1]) & (time[1:] == time[:-1]))
        # Few rows, as a rule, share user and time with another: only those are sorted by item.
        rows = order[np.union1d(tied, tied + 1)]
        keys = (self.item[rows], self.time[rows], self.user[rows])
        rows = rows[np.lexsort((rows, *keys))]  # the earliest copy comes first
        same = np.ones(max(len(rows) - 1, 0), np.bool_)
        for column in (self.user, self.item, self.time):
            same &= column[rows[1:]] == column[rows[:-1]]
        repeated = np.zeros(len(order), np.bool_)
        repeated[rows[1:][same]] = True
        return repeated


def collect(batches: Iterable[Batch]) -> Interactions:
    """Read all batches.

    Args:
        batches: the rows, in order. A time column called `position` holds whole numbers.

    Raises:
        DataError: an id is empty, a time is no time, or times are written in two ways.
    """
    users, items = _Ids(0), _Ids(1)
    with connect() as connection:
        times = _Times(connection)
        for batch in batches:
            if batch.rows.num_rows:
                users.add(batch)
                items.add(batch)
                times.add(batch)
    return Interactions(
        tuple(users.places), tuple(items.places), users.codes(), items.codes(), times.values()
    )


class _Ids:
    """A column of ids: the distinct texts as they first appear, and each row's place among them."""

    def __init__(self, column: int) -> None:
        self._column, self._parts = column, [np.zeros(0, np.int32)]
        self.places: dict[str, int] = {}

    def add(self, batch: Batch) -> None:
        column = batch.rows.column(self._column)
        encoded = column.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        codes = encoded.indices.fill_null(-1).to_numpy()
        blank = [code for code, text in enumerate(texts) if not text.strip()]
        if (bad := np.isin(codes, [-1, *blank])).any():
            row = int(bad.argmax())
            raise DataError(
                "the id is empty",
                file=batch.source,
                row=batch.first + row,
                field=batch.rows.schema.names[self._column],
                value=column[row].as_py(),
                remedy="Give every row a user and an item, or leave it out.",
            )
        places = self.places
        known = np.array([places.setdefault(text, len(places)) for text in texts], np.int32)
        self._parts.append(known[codes])

    def codes(self) -> Codes:
        return np.concatenate(self._parts)


# Each reading of a text `t` as a time is null where it fails. Whole numbers come first and stay
# integers: as floats, nanoseconds since 1970 would run together.
_WHOLE = "CASE WHEN regexp_full_match(t, '[+-]?[0-9]+') THEN try_cast(t AS BIGINT) END"
_NUMBER = """CASE WHEN regexp_full_match(t, '[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?')
    AND isfinite(try_cast(t AS DOUBLE)) THEN try_cast(t AS DOUBLE) END"""
_INSTANT = """CASE WHEN regexp_full_match(t, '[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}'
    || '(:[0-9]{2}([.][0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?')
    THEN epoch_us(try_cast(t AS TIMESTAMPTZ)) END"""


@dataclass(slots=True)
class _Fault:
    """The rows that are not of one kind: how many, and the first of them."""

    count: int = 0
    source: str = ""
    row: int = 0
    value: str | None = None

    def note(self, bad: Mask, batch: Batch) -> None:
        if not self.count and bad.any():
            place = int(bad.argmax())
            value = batch.rows.column(2)[place].as_py()
            self.source, self.row, self.value = batch.source, batch.first + place, value
        self.count += int(bad.sum())


class _Times:
    """A column of times: all of them numbers, or all of them ISO 8601."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection, self._name = connection, ""
        self._parts: list[npt.NDArray[Any]] = [np.zeros(0, np.int64)]
        self._number, self._instant = _Fault(), _Fault()

    @property
    def _whole(self) -> bool:
        return self._name == "position"

    def add(self, batch: Batch) -> None:
        self._name, column = batch.rows.schema.names[2], batch.rows.column(2)
        # A whole number is a number, and no number is ISO 8601: one reading is enough, as a rule.
        number = self._read(_WHOLE, column)
        if number.null_count and not self._whole:
            number = self._read(_NUMBER, column)
        instant = number.is_valid()
        if not number.null_count:
            values = number
        elif self._whole:
            values = pa.nulls(len(column), pa.int64())
        else:
            values = self._read(_INSTANT, column)
            instant = values.is_null()
        self._number.note(_mask(number.is_null()), batch)
        self._instant.note(_mask(instant), batch)
        if not values.null_count:
            self._parts.append(values.to_numpy())

    def _read(self, reading: str, column: pa.Array) -> pa.Array:
        self._connection.register("times", pa.table({"t": column}))
        query = f"SELECT {reading} AS value FROM (SELECT trim(t) AS t FROM times)"  # noqa: S608
        return self._connection.sql(query).to_arrow_table()["value"].combine_chunks()

    def values(self) -> Times:
        kinds = [self._number] if self._whole else [self._number, self._instant]
        fault = min(kinds, key=lambda kind: kind.count)
        if not fault.count:
            return np.concatenate(self._parts)
        written = (
            "whole numbers"
            if self._whole
            else "numbers of seconds, or ISO 8601 such as 2024-05-01T12:00:00Z"
        )
        problem = "the position is not a whole number"
        raise DataError(
            problem if self._whole else "the time is missing or not a time",
            file=fault.source,
            row=fault.row,
            field=self._name,
            value=fault.value,
            remedy=f"Write every time the same way: {written}.",
        )


def _mask(flags: Any) -> Mask:  # noqa: ANN401 an Arrow array of booleans
    return np.asarray(flags.to_numpy(zero_copy_only=False), np.bool_)
