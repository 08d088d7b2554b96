"""Times, read exactly or refused: all numbers of one unit, or all ISO 8601.

| as exported                                                | what happens                        |
|------------------------------------------------------------|-------------------------------------|
| whole numbers, `1700000000.25`, `1.7E9`                    | read exactly, to 18 decimals        |
| seconds, milliseconds, microseconds or nanoseconds         | read; by magnitude, never two units |
|                                                            |   in one source                     |
| a float of 2**53 or more; `1.7E+12`, as Excel rounds       | refused: it lost digits             |
| `2023-11-14`, `2023-11-14T22:13:20.5Z`, ` UTC`, ` -0300`,  | read, to the nanosecond; without an |
|   ` +0000 UTC`, `+01:00[Europe/Paris]`, a decimal comma,   |   offset it is in UTC               |
|   `2023/11/14 9:13`, `20231114T221320Z`                    |                                     |
| `11/14/2023 22:13`, `14.11.2023`, a time zone's name       | refused: it could mean two times    |
| the month as a word, a clock of 12 hours, no date          | refused, each by name               |
| numbers and ISO 8601 in one source                         | refused, with a row of the rarer    |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shared.data.ids import INEXACT, MISSING, Batch
from shared.errors import DataError

__all__ = ["UNREADABLE", "Forms", "TimeColumn"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Forms = npt.NDArray[np.int8]

_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_BOUNDS = (10**11, 10**14, 10**17)
"""Smallest size of a time in each unit but the first: 1973 in that unit, 5138 in the last."""
UNREADABLE, _INSTANT_FORM = -1, len(_UNITS)
"""Forms of a time: neither a number nor ISO 8601; ISO 8601. A number's form is that of its unit."""

# SQL that reads a text `t` as a time: a whole number and a fraction that sort as the times do; null
# where it cannot. Whole numbers are tried first, and alone: nearly all columns hold nothing else.
_WHOLE = "CASE WHEN regexp_full_match(t, '[+-]?[0-9]+') THEN try_cast(t AS BIGINT) END"
_WHOLE_ONLY = f"SELECT {_WHOLE} AS whole FROM texts"  # noqa: S608 - constants
_POSITION = """
    SELECT CASE WHEN regexp_full_match(t, '[+-]?[0-9]+([.]0*)?')
        THEN try_cast(regexp_replace(t, '[.]0*$', '') AS BIGINT) END AS whole FROM texts"""
# As a spreadsheet shows numbers: with fewer decimals than the exponent asks for. R and Python write
# a small e, and all digits.
_ROUNDED = """regexp_full_match(t, '.*E[+].*') AND length(regexp_extract(t, '[.]([0-9]*)', 1))
    < try_cast(regexp_extract(t, 'E[+]([0-9]+)', 1) AS INTEGER)"""
_DECIMAL = f"""
    CASE WHEN regexp_full_match(t, '[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?')
        AND NOT ({_ROUNDED}) AND abs(try_cast(t AS DOUBLE)) < 9007199254740992
    THEN try_cast(t AS DECIMAL(38, 18)) END"""
_NUMBER = f"""
    SELECT coalesce({_WHOLE}, try_cast(floor(d) AS BIGINT)) AS whole,
        coalesce(try_cast(substr((d - floor(d))::VARCHAR, 3) AS BIGINT), 0) AS fraction
    FROM (SELECT t, {_DECIMAL} AS d FROM texts)"""  # noqa: S608 - constants
_INSTANT = """
    SELECT CASE WHEN regexp_full_match(t, '[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}'
            || '([T ][0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?'
            || '(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?')
        THEN epoch_us(try_cast(t AS TIMESTAMPTZ)) END AS whole,
        coalesce(try_cast(rpad(regexp_extract(t, '[.][0-9]{6}([0-9]{1,3})', 1), 3, '0') AS BIGINT),
            0) AS fraction
    FROM (SELECT regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
            replace(upper(t), chr(8722), '-'),
            '^([0-9]{4})/([0-9]{1,2})/([0-9]{1,2})', '\\1-\\2-\\3'),
            '^([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})',
                '\\1-\\2-\\3T\\4:\\5:\\6'),
            '(:[0-9]{2}),', '\\1.'),
        ' ?(UTC|GMT|Z)([[][^]]*[]])?$', 'Z'),
        ' ?([+-][0-9]{2}(:?[0-9]{2})?)(Z|[[][^]]*[]])?$', '\\1') AS t FROM texts)"""


@dataclass(slots=True)
class _Rows:
    """The rows of one kind: their number, and the first of them."""

    count: int = 0
    source: str = ""
    row: int = 0
    value: str | None = None

    def add(self, rows: Mask, batch: Batch) -> None:
        if not self.count and rows.any():
            row = int(rows.argmax())
            value = batch.rows.column(2)[row].as_py()
            self.source, self.row, self.value = batch.source, batch.row(row), value
        self.count += int(rows.sum())


class TimeColumn:
    """A column of times, see the table at the top of this module.

    A column named `position` holds whole numbers of any size.

    Args:
        connection: an empty DuckDB, in UTC.
        strict: whether `values` refuses a column with times that cannot be read, or of several
            forms. Otherwise `forms` tells them apart.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, strict: bool = True) -> None:
        self._connection, self._strict, self._name = connection, strict, ""
        self._whole: list[Ints] = [np.zeros(0, np.int64)]
        self._fraction: list[Ints] = [np.zeros(0, np.int64)]
        self._forms: list[Forms] = [np.zeros(0, np.int8)]
        self._not_number, self._not_instant = _Rows(), _Rows()
        self._units = [_Rows() for _ in _UNITS]

    @property
    def _positions(self) -> bool:
        return self._name == "position"

    def add(self, batch: Batch) -> None:
        """Read one batch; rows that do not fit are counted."""
        self._name = batch.rows.schema.names[2]
        whole, fraction, forms = self._read_each(batch.rows.column(2))
        self._not_number.add((forms == UNREADABLE) | (forms == _INSTANT_FORM), batch)
        self._not_instant.add(forms != _INSTANT_FORM, batch)
        for unit in range(len(_UNITS)) if not self._positions else ():
            self._units[unit].add(forms == unit, batch)
        self._whole.append(whole)
        self._fraction.append(fraction)
        if not self._strict:
            self._forms.append(forms)

    def _read_each(self, column: pa.Array) -> tuple[Ints, Ints, Forms]:
        """Return each time as a whole number and a fraction, and its form; each by itself."""
        # Usually the first attempt reads all rows: a whole number is a number, and never ISO 8601.
        whole = self._read(_WHOLE_ONLY, column, "t")[0]
        if whole.null_count:
            whole = self._read(_POSITION if self._positions else _WHOLE_ONLY, column)[0]
        fraction = np.zeros(len(column), np.int64)
        exact = not whole.null_count
        if not exact and not self._positions:
            whole, parts = self._read(_NUMBER, column)
            fraction = _filled(parts)
        number, values = _mask(whole.is_valid()), _filled(whole)
        forms = np.full(len(column), UNREADABLE, np.int8)
        unit = np.searchsorted(np.array(_BOUNDS), np.abs(values), side="right")
        forms[number] = 0 if self._positions else unit[number]
        if not number.all() and not self._positions:
            whole, parts = self._read(_INSTANT, column)
            instant = _mask(whole.is_valid())
            values, fraction = values.copy(), fraction.copy()
            values[instant], fraction[instant] = _filled(whole)[instant], _filled(parts)[instant]
            forms[instant] = _INSTANT_FORM
        return values, fraction, forms

    def _read(
        self, query: str, column: pa.Array, text: str = "trim(t, ' \t\r\n' || chr(160))"
    ) -> Sequence[pa.Array]:
        self._connection.register("given", pa.table({"t": column}))
        texts = f"WITH texts AS (SELECT {text} AS t FROM given)"  # noqa: S608 - constants
        table = self._connection.sql(f"{texts} {query}").to_arrow_table()
        return [values.combine_chunks() for values in table.columns]

    def values(self) -> tuple[Ints, Ints | None]:
        """Return the times as whole numbers [E] and fractions [E]; None without any fraction.

        Raises:
            DataError: a time cannot be read, or two forms or units are mixed; only if strict.
        """
        if self._strict:
            self._check()
        fraction = np.concatenate(self._fraction)
        return np.concatenate(self._whole), fraction if fraction.any() else None

    def forms(self) -> Forms:
        """Return the form and unit of each time, [E]: `UNREADABLE`, or >= 0; not if strict."""
        return np.concatenate(self._forms)

    def _check(self) -> None:
        kinds = [self._not_number] if self._positions else [self._not_number, self._not_instant]
        # The kind that fits more rows is taken as the column's, and the other rows as faults.
        fault = min(kinds, key=lambda kind: kind.count)
        if fault.count:
            raise self._error(fault, *self._explain(fault))
        units = [(rows.count, unit) for unit, rows in enumerate(self._units) if rows.count]
        if len(units) > 1:
            rarest, most = min(units)[1], max(units)[1]
            problem = (
                f"the time has the size of {_UNITS[rarest]}, where most rows have that of "
                f"{_UNITS[most]}"
            )
            remedy = (
                "Write every time in the same unit; numbers that are no times belong in a column "
                "that is called position."
            )
            raise self._error(self._units[rarest], problem, remedy)

    @property
    def per_second(self) -> int:
        """Units in a second of the times that `values` returns if strict; 0 for positions."""
        if self._positions:
            return 0
        if self._not_number.count:
            return 10**6
        return int(10 ** (3 * next((n for n, rows in enumerate(self._units) if rows.count), 0)))

    def _explain(self, fault: _Rows) -> tuple[str, str]:
        """Return what is wrong with a time, and the remedy."""
        text = (fault.value or "").strip()
        if text == self._name:
            return "the row repeats the header", "Delete the row."
        if self._positions:
            remedy = "Write every time the same way: whole numbers of at most 18 digits."
            return "the position is not a whole number", remedy
        same = "Write every time the same way: numbers, or ISO 8601 such as 2024-05-01T12:00:00Z."
        if not text or text.casefold() in _MISSING:
            return "the time is missing or not a time", f"Leave the row out. {same}"
        for form, problem, advice in _OTHER_FORMS:
            if form.search(text):
                return f"the time is not a time{problem}", advice + same
        numbers = fault is self._not_number
        if text.endswith(INEXACT) or (numbers and _NUMERIC.fullmatch(text)):
            problem = "the time is not a time that can be read exactly: it is a rounded number"
            return problem, "Export it as a whole number."
        return "the time is missing or not a time", same

    def _error(self, rows: _Rows, problem: str, remedy: str) -> DataError:
        return DataError(
            problem,
            file=rows.source,
            row=rows.row,
            field=self._name,
            value=rows.value,
            remedy=remedy,
        )


_NUMERIC = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?")
_MISSING = {spelling.casefold() for spelling in MISSING} | {"0000-00-00", "0000-00-00 00:00:00"}
"""With MySQL's zero date; PostgreSQL's `infinity` is among the others."""
_MONTHS = r"(?i)\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b"
_OTHER_FORMS = tuple(
    (re.compile(form), f" of ISO 8601: {problem}", advice)
    for form, problem, advice in (
        (_MONTHS, "its month is a word", ""),
        (r"(?i)[0-9] ?[ap]\.?m\.?$", "its clock has 12 hours", ""),
        (r"^[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?$", "it has no date", ""),
        (
            r"^[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2,4}",
            "its day and month could be exchanged",
            "Export dates with the year first. ",
        ),
        (
            r"[0-9] ?[A-Za-z]{3,}(/[A-Za-z_]+)?$",
            "it names a time zone, not an offset",
            "Export times in UTC. ",
        ),
    )
)
"""How times are written that are refused, what is wrong with it, and what to do first."""


def _mask(flags: Any) -> Mask:  # noqa: ANN401 an Arrow array of booleans
    return np.asarray(flags.to_numpy(zero_copy_only=False), np.bool_)


def _filled(values: pa.Array) -> Ints:
    return values.fill_null(0).to_numpy()  # type: ignore[no-any-return]  # untyped
