"""Rows of text -> checked interactions, as arrays of numbers.

Rows are read in batches. Only numbers are kept of all rows, 16 bytes a row, and each distinct id
once. The table at the top of `shared.data.reading` says which rows are refused.
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
        source: name of the table in errors.
        first: the number of the first row within the table, from 1.
    """

    rows: pa.RecordBatch
    source: str
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """E rows in the order in which they were read.

    Attributes:
        users: the distinct user ids, in order of first appearance.
        items: the distinct item ids, in order of first appearance.
        user: int32 [E], indices into `users`.
        item: int32 [E], indices into `items`.
        time: int64 or float64 [E], which sorts as the times do.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    user: Codes
    item: Codes
    time: Times

    def order(self) -> npt.NDArray[np.int64]:
        """Return all rows sorted by user, then by time, ties in their given order: [E]."""
        return np.lexsort((self.time, self.user))

    def repeated(self, order: npt.NDArray[np.int64]) -> Mask:
        """Mark the rows that repeat an earlier row's user, item and time: bool [E].

        Args:
            order: the result of `order`.
        """
        user, time = self.user[order], self.time[order]
        tied = np.flatnonzero((user[1:] == user[:-1]) & (time[1:] == time[:-1]))
        # Usually few rows share user and time with another, so only those are sorted by item.
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
    """Read and check all batches.

    Args:
        batches: the rows, in order. A time column named `position` holds whole numbers.

    Raises:
        DataError: an id is empty, a time cannot be read, or times are written in two ways.
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
        tuple(users.indices), tuple(items.indices), users.codes(), items.codes(), times.values()
    )


class _Ids:
    """A column of ids: the distinct ids by first appearance, and each row's index among them."""

    def __init__(self, column: int) -> None:
        self._column, self._parts = column, [np.zeros(0, np.int32)]
        self.indices: dict[str, int] = {}

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
        indices = self.indices
        index_of_code = np.array([indices.setdefault(t, len(indices)) for t in texts], np.int32)
        self._parts.append(index_of_code[codes])

    def codes(self) -> Codes:
        return np.concatenate(self._parts)


# SQL that reads a text `t` as a time; null where it cannot. Whole numbers are tried first and stay
# integers, since a float64 cannot tell apart neighbouring nanoseconds since 1970.
_WHOLE = "CASE WHEN regexp_full_match(t, '[+-]?[0-9]+') THEN try_cast(t AS BIGINT) END"
_NUMBER = """CASE WHEN regexp_full_match(t, '[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?')
    AND isfinite(try_cast(t AS DOUBLE)) THEN try_cast(t AS DOUBLE) END"""
_INSTANT = """CASE WHEN regexp_full_match(t, '[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}'
    || '(:[0-9]{2}([.][0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?')
    THEN epoch_us(try_cast(t AS TIMESTAMPTZ)) END"""


@dataclass(slots=True)
class _Fault:
    """The rows that one kind of time does not fit: their number, and the first of them."""

    count: int = 0
    source: str = ""
    row: int = 0
    value: str | None = None

    def add(self, bad: Mask, batch: Batch) -> None:
        if not self.count and bad.any():
            row = int(bad.argmax())
            value = batch.rows.column(2)[row].as_py()
            self.source, self.row, self.value = batch.source, batch.first + row, value
        self.count += int(bad.sum())


class _Times:
    """A column of times: all of them numbers, or all of them ISO 8601."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection, self._name = connection, ""
        self._parts: list[npt.NDArray[Any]] = [np.zeros(0, np.int64)]
        self._not_number, self._not_instant = _Fault(), _Fault()

    @property
    def _whole(self) -> bool:
        return self._name == "position"

    def add(self, batch: Batch) -> None:
        self._name, column = batch.rows.schema.names[2], batch.rows.column(2)
        # Usually the first attempt reads all rows: a whole number is a number, and never ISO 8601.
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
        self._not_number.add(_mask(number.is_null()), batch)
        self._not_instant.add(_mask(instant), batch)
        if not values.null_count:
            self._parts.append(values.to_numpy())

    def _read(self, reading: str, column: pa.Array) -> pa.Array:
        self._connection.register("times", pa.table({"t": column}))
        query = f"SELECT {reading} AS value FROM (SELECT trim(t) AS t FROM times)"  # noqa: S608
        return self._connection.sql(query).to_arrow_table()["value"].combine_chunks()

    def values(self) -> Times:
        kinds = [self._not_number] if self._whole else [self._not_number, self._not_instant]
        # The kind that fits more rows is taken as the column's, and the other rows as faults.
        fault = min(kinds, key=lambda kind: kind.count)
        if not fault.count:
            return np.concatenate(self._parts)
        expected = (
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
            remedy=f"Write every time the same way: {expected}.",
        )


def _mask(flags: Any) -> Mask:  # noqa: ANN401 an Arrow array of booleans
    return np.asarray(flags.to_numpy(zero_copy_only=False), np.bool_)
