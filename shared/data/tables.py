"""Any table file -> columns of text.

Every value is converted to text first. A number without a fractional part becomes "1" and never
"1.0", also in a float column. Text is not changed.

| what the file holds                             | what happens                              |
|-------------------------------------------------|-------------------------------------------|
| a path that is missing, or not a file           | refused                                   |
| a suffix other than .csv, .csv.gz and .parquet  | refused                                   |
| not what its suffix says, damaged, not UTF-8    | refused                                   |
| no bytes, or no rows                            | refused                                   |
| a row with more or fewer fields than the header | refused, with the row; one extra comma at |
|                                                 |   the end of a row is accepted            |
| blank lines                                     | skipped, and not counted as rows          |
| a required column that is missing or repeated   | refused, with the columns of the file     |
| a column of bytes or of nested values           | refused, except lists of texts (genres)   |

CSV means comma-separated, double-quoted, with a header; nothing is guessed from the contents.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol, TextIO

import duckdb
import pyarrow as pa

from shared.errors import DataError

__all__ = [
    "SUFFIXES",
    "FileTable",
    "MemoryTable",
    "Table",
    "as_text",
    "column_names",
    "connect",
    "read_text",
    "require_column",
]

SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""Suffixes of readable files, in lower or upper case."""
_BATCH = 122_880
"""Rows per batch: one row group of DuckDB."""


class Table(Protocol):
    """Rows of text from any source."""

    @property
    def source(self) -> str:
        """Name of the table in errors."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, in order."""

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the named columns as text in batches of rows; null is a missing value."""


class FileTable:
    """A .csv, .csv.gz or .parquet file.

    Args:
        path: the file.
        source: name of the table in errors; the path by default.
    """

    def __init__(self, path: Path, source: str | None = None) -> None:
        self.path, self.source = path, source or str(path)
        self._is_csv = path.name.lower().endswith((".csv", ".csv.gz"))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order.

        Raises:
            DataError: there is no such file, or it is not what its suffix says.
        """
        return tuple(name for name, _ in self._typed)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the named columns as text in batches of rows, in file order.

        Args:
            names: some of `columns`.

        Raises:
            DataError: the file is damaged.
        """
        numbers = [self.columns.index(name) for name in names]
        if self._is_csv:
            fields = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(self._typed)))
            # With auto_detect off, DuckDB guesses neither the delimiter nor a type nor the header.
            scan = (
                "read_csv(?, auto_detect=false, header=true, delim=',', quote='\"', escape='\"', "
                f"hive_partitioning=false, columns={{{fields}}})"
            )
            expressions = [f"c{number}" for number in numbers]
        else:
            scan = "read_parquet(?, hive_partitioning=false)"
            expressions = [_text_of(*self._typed[number], self.source) for number in numbers]
        with self._duckdb() as connection:
            query = f"SELECT {', '.join(expressions)} FROM {scan}"  # noqa: S608 - names are quoted
            rows = connection.sql(query, params=[_literally(self.path)])
            for batch in rows.to_arrow_reader(_BATCH):
                yield batch.rename_columns(list(names))

    @cached_property
    def _typed(self) -> list[tuple[str, str]]:
        """Name and DuckDB type of each column."""
        self._check_kind()
        if self._is_csv:
            try:
                with self._lines() as lines:
                    return [(name, "VARCHAR") for name in next(csv.reader(lines, strict=True), [])]
            except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error):
                raise self._damaged() from None
        with self._duckdb() as connection:
            query = "DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning=false)"
            described = connection.execute(query, [_literally(self.path)]).fetchall()
            return [(row[0], row[1]) for row in described]

    def _check_kind(self) -> None:
        remedy = "Give a comma-separated .csv or .csv.gz file with a header, or a .parquet file."
        path, source = self.path, self.source
        if not path.exists():
            raise DataError("the file does not exist", file=source, remedy="Check the path.")
        if not path.is_file():
            raise DataError("this is not a file", file=source, remedy=remedy)
        if not path.name.lower().endswith(SUFFIXES):
            problem = "its name ends in neither .csv, .csv.gz nor .parquet"
            raise DataError(problem, file=source, remedy=remedy)
        try:
            with path.open("rb") as file:
                start = file.read(4)
        except OSError as fault:
            problem = f"the file cannot be read ({fault.strerror})"
            raise DataError(problem, file=source, remedy="Check its permissions.") from None
        if not start:
            raise DataError("the file is empty", file=source, remedy="Export the data again.")
        gzipped = path.name.lower().endswith(".gz")
        if (start == b"PAR1") is self._is_csv or start.startswith(b"\x1f\x8b") is not gzipped:
            raise DataError("the file is not what its name says", file=source, remedy=remedy)

    def _lines(self) -> TextIO:
        if self.path.name.lower().endswith(".gz"):
            return gzip.open(self.path, "rt", encoding="utf-8-sig", newline="")
        return self.path.open(encoding="utf-8-sig", newline="")

    @contextmanager
    def _duckdb(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with connect() as connection:
            try:
                yield connection
            except (duckdb.Error, pa.ArrowException, OSError, UnicodeDecodeError):
                raise self._damaged() from None

    def _damaged(self) -> DataError:
        """Return the error for an unreadable file; for a CSV file it names the row."""
        source = self.source
        if not self._is_csv:
            problem, remedy = "the file is damaged or not Parquet", "Export the data again."
            return DataError(problem, file=source, remedy=remedy)
        remedy = "Export it as UTF-8, comma-separated, with one kind of line ending."
        try:
            with self._lines() as lines:
                rows = (row for row in csv.reader(lines, strict=True) if row)
                width = len(next(rows, []))
                ragged = ((n, len(row)) for n, row in enumerate(rows, start=1) if len(row) != width)
                number, length = next(ragged, (None, 0))
        except UnicodeDecodeError:
            return DataError("the file is not UTF-8 text", file=source, remedy=remedy)
        except (OSError, EOFError, zlib.error):
            return DataError("the file is damaged", file=source, remedy="Export the data again.")
        except csv.Error:
            number = None
        if number is None:
            return DataError("the file is not well-formed CSV", file=source, remedy=remedy)
        problem = f"the row has {length} fields where the header has {width}"
        return DataError(problem, file=source, row=number, remedy="Quote fields that hold a comma.")


class MemoryTable:
    """A table of text that is already in memory.

    Args:
        rows: text columns; null is a missing value.
        source: name of the table in errors.
    """

    def __init__(self, rows: pa.Table, source: str) -> None:
        self._rows, self.source = rows, source

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, in order."""
        return list(self._rows.column_names)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the named columns in batches of rows."""
        yield from self._rows.select(list(names)).to_batches(_BATCH)


def column_names(path: Path) -> tuple[str, ...]:
    """Return the names of a file's columns, in order.

    Raises:
        DataError: there is no such file, or it is not what its suffix says.
    """
    return FileTable(path).columns


def require_column(name: str, columns: Sequence[str], source: Path | str, mapping: str) -> None:
    """Refuse a file that does not have column `name` exactly once.

    Args:
        name: the required column.
        columns: all columns of the file.
        source: the file.
        mapping: how a caller sets the column's name, such as `Columns(user='...')`.

    Raises:
        DataError: the column is missing or occurs more than once.
    """
    if columns.count(name) == 1:
        return
    problem = "occurs more than once" if name in columns else "is missing"
    raise DataError(
        f"the column {problem}; the columns found are {', '.join(columns) or 'none'}",
        file=source,
        field=name,
        remedy=f"Rename a column, or say which one to read with {mapping}.",
    )


def read_text(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a file as text, all of it at once.

    Args:
        path: the file.
        columns: some of `column_names(path)`.

    Returns:
        A table with one text column per name; null is a missing value.

    Raises:
        DataError: the file is damaged, or has no rows.
    """
    batches = [batch for batch in FileTable(path).batches(columns) if batch.num_rows]
    if not batches:
        raise DataError("the file has no rows", file=path, remedy="Export the data again.")
    return pa.Table.from_batches(batches)


def as_text(
    connection: duckdb.DuckDBPyConnection, name: str, values: pa.Array, source: str
) -> pa.Array:
    """Convert a column to the text that reading it from a Parquet file would give.

    Args:
        connection: from `connect`.
        name: the column's name.
        values: its values.
        source: name of the table in errors.

    Raises:
        DataError: the values are bytes or nested.
    """
    column = connection.from_arrow(pa.table({name: values}))
    text = column.project(_text_of(name, str(column.types[0]), source)).to_arrow_table().column(0)
    return text.combine_chunks()


def _text_of(name: str, kind: str, source: str) -> str:
    """Return a SQL expression that converts a column to text."""
    column = '"' + name.replace('"', '""') + '"'
    if kind.startswith(("FLOAT", "DOUBLE", "DECIMAL")) and not kind.endswith("]"):
        # Not a comparison with 'nan': Parquet's statistics omit it, so DuckDB folds that to false.
        whole = f"regexp_replace({column}::VARCHAR, '\\.0+$', '')"
        return f"CASE WHEN NOT isnan({column}::DOUBLE) THEN {whole} END"
    if kind == "VARCHAR[]":
        return f"array_to_string({column}, '|')"
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION", "BLOB", "VARIANT")):
        raise DataError(
            f"the column holds {kind}, not plain values",
            file=source,
            field=name,
            remedy="Export it as numbers, text, dates or times.",
        )
    return f"{column}::VARCHAR"


def connect() -> duckdb.DuckDBPyConnection:
    """Open an empty in-memory DuckDB that reads times without an offset as UTC."""
    # Extensions are never downloaded: reading a private file must not open a connection.
    connection = duckdb.connect(config={"autoinstall_known_extensions": False})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _literally(path: Path) -> str:
    """Escape `path`, so that DuckDB does not read it as a pattern for several files."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
