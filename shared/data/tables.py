"""Any table file -> columns of text.

Every value is converted to text first. A number without a fractional part becomes "1" and never
"1.0", also in a float column. A float that may have lost digits is marked as such. Text is not
changed.

| what the file holds                             | what happens                              |
|-------------------------------------------------|-------------------------------------------|
| a path that is missing, or not a file           | refused                                   |
| a suffix other than `SUFFIXES`                  | refused                                   |
| not what its suffix says, damaged               | refused                                   |
| text in UTF-16, Windows-1252 or broken UTF-8    | refused, each by name, with the row       |
| gzip with zeros behind it, or several members   | read                                      |
| gzip whose checksum is wrong                    | refused as damaged                        |
| no bytes, or no rows                            | refused                                   |
| a row with more or fewer fields than the header | refused, with the row; one extra comma at |
|                                                 |   the end of a row is accepted            |
| a quote that is never closed, or escaped by a   | refused, with the row where it opens      |
|   backslash                                     |                                           |
| a row of more than 16 MiB                       | refused, with the row                     |
| blank lines behind the header                   | skipped, and not counted as rows          |
| a first line that is blank, a comment, JSON,    | refused, each by name                     |
|   HTML, or for Excel (`sep=`)                   |                                           |
| a folder of Delta Lake, Iceberg or Hudi         | refused: it holds deleted rows, too       |
| empty files in a folder with `_SUCCESS`         | passed over                               |
| a required column that is missing or repeated   | refused, with the columns of the file     |
| a column of bytes or of nested values           | refused, except lists of texts (genres)   |

`shared.data.csv_files` says how a CSV file's separator is found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from shared.data.csv_files import CsvFile
from shared.data.ids import EXACT_FLOATS, INEXACT
from shared.errors import DataError

__all__ = [
    "SUFFIXES",
    "FileTable",
    "MemoryTable",
    "Table",
    "as_text",
    "connect",
    "file_tables",
    "read_table",
    "read_text",
    "refuse_table_formats",
]

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""Suffixes of readable files, in lower or upper case."""
_BATCH = 122_880
"""Rows per batch: one row group of DuckDB."""
_EXACT_FLOATS_32 = 2**24
"""Below it, a float32 holds every whole number."""
_EXACT_FLOATS_16 = 2**11
_WORKBOOK = b"PK\x03\x04"
_TABLE_FORMATS = {
    r"(^|/)_delta_log/": "Delta Lake",
    r"(^|/)metadata/[^/]*\.metadata\.json$": "Apache Iceberg",
    r"(^|/)\.hoodie/": "Apache Hudi",
}
"""Files by which a table format is known."""


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
    """A .csv, .tsv or .parquet file; text may be compressed by gzip.

    Args:
        path: the file.
        source: name of the table in errors; the path by default.
        text: how to read a file of text whose suffix does not say so.
    """

    def __init__(self, path: Path, source: str | None = None, text: CsvFile | None = None) -> None:
        self.path, self.source, self._text = path, source or str(path), text
        if text is None and not path.name.lower().endswith(".parquet"):
            self._text = CsvFile(path, self.source, "\t" if _is_tsv(path) else "")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order.

        Raises:
            DataError: there is no such file, or it is not what its suffix says.
        """
        return tuple(name for name, _ in self._typed)

    def batches(
        self, names: Sequence[str], lists: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        """Yield the named columns as text in batches of rows, in file order.

        Args:
            names: some of `columns`.
            lists: columns that may hold lists of texts, which are joined by "|".

        Raises:
            DataError: the file is damaged, or a column holds no plain values.
        """
        numbers = [self.columns.index(name) for name in names]
        if self._text is not None:
            scan = self._text.scan()
            expressions = [f"c{number}" for number in numbers]
            readable: AbstractContextManager[Path] = self._text.readable()
        else:
            scan, readable = "read_parquet(?, hive_partitioning=false)", nullcontext(self.path)
            expressions = [
                _text_of(*self._typed[number], self.source, lists=lists) for number in numbers
            ]
        with readable as path, self._duckdb() as connection:
            query = f"SELECT {', '.join(expressions)} FROM {scan}"  # noqa: S608 - names are quoted
            rows = connection.sql(query, params=[_literally(path)])
            for batch in rows.to_arrow_reader(_BATCH):
                yield batch.rename_columns(list(names))

    def plain_columns(self) -> tuple[str, ...]:
        """Return the names of the columns that hold neither bytes nor nested values."""
        return tuple(name for name, kind in self._typed if not _nested(kind))

    @cached_property
    def _typed(self) -> list[tuple[str, str]]:
        """Name and DuckDB type of each column."""
        self._check_kind()
        if self._text is not None:
            return [(name, "VARCHAR") for name in self._text.columns]
        with self._duckdb() as connection:
            query = "DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning=false)"
            described = connection.execute(query, [_literally(self.path)]).fetchall()
            if not any(row[1] == "FLOAT" for row in described):
                return [(row[0], row[1]) for row in described]
            # DuckDB reads floats of 16 bits as ones of 32, and does not say so.
            halves = [pa.types.is_float16(kind) for kind in pq.read_schema(self.path).types]
            return [
                (row[0], "HALF" if half else row[1])
                for row, half in zip(described, halves, strict=True)
            ]

    def _check_kind(self) -> None:
        remedy = (
            "Give a .csv, .tsv or .parquet file with a header; .csv.gz and .tsv.gz work too. Any "
            "text with a separator may be called .csv."
        )
        path, source = self.path, self.source
        if not path.exists():
            raise DataError("the file does not exist", file=source, remedy="Check the path.")
        if not path.is_file():
            raise DataError("this is not a file", file=source, remedy=remedy)
        name = path.name.lower()
        if not name.endswith(SUFFIXES) and (self._text is None or not self._text.separator):
            problem = f"its name ends in neither {', '.join(SUFFIXES[:-1])} nor {SUFFIXES[-1]}"
            raise DataError(problem, file=source, remedy=remedy)
        try:
            with path.open("rb") as file:
                start = file.read(4)
        except OSError as fault:
            problem = f"the file cannot be read ({fault.strerror})"
            raise DataError(problem, file=source, remedy="Check its permissions.") from None
        if not start:
            raise DataError("the file is empty", file=source, remedy="Export the data again.")
        if start.startswith(_WORKBOOK):
            problem = "the file is an Excel workbook or a zip archive, not what its name says"
            raise DataError(problem, file=source, remedy=f"Save it as CSV (UTF-8). {remedy}")
        text, gzipped = self._text is not None, name.endswith(".gz")
        if start.startswith(b"\x1f\x8b") and text and not gzipped:
            problem, remedy = "the file is compressed by gzip", "Let its name end in .gz."
            raise DataError(problem, file=source, remedy=remedy)
        if (start == b"PAR1") is text or start.startswith(b"\x1f\x8b") is not gzipped:
            raise DataError("the file is not what its name says", file=source, remedy=remedy)

    @contextmanager
    def _duckdb(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with connect() as connection:
            try:
                yield connection
            except (duckdb.Error, pa.ArrowException, OSError, UnicodeDecodeError):
                if self._text is not None:
                    raise self._text.find_fault() from None
                problem, remedy = "the file is damaged or not Parquet", "Export the data again."
                raise DataError(problem, file=self.source, remedy=remedy) from None


def file_tables(path: Path) -> list[FileTable]:
    """Return the table of a file, or those of all files below a folder, in order of name.

    Names that begin with `_` or `.` are passed over, such as Spark's `_SUCCESS`, and so are other
    kinds of files.

    Raises:
        DataError: it is a folder without tables.
    """
    if not path.is_dir():
        return [FileTable(path)]
    parts = sorted(path.rglob("*"))
    refuse_table_formats([str(part.relative_to(path)) for part in parts], str(path))
    # Spark and Hadoop write an empty file for an empty part, and this mark when all are there.
    whole = (path / "_SUCCESS").exists()
    tables = [
        part
        for part in parts
        if part.name.lower().endswith(SUFFIXES)
        and not any(name.startswith(("_", ".")) for name in part.relative_to(path).parts)
        and part.is_file()
        and not (whole and part.stat().st_size == 0)
    ]
    if not tables:
        problem = "this is not a file, and a folder without any table in it"
        raise DataError(
            problem, file=path, remedy=f"Give a file or folder of {', '.join(SUFFIXES)}."
        )
    return [FileTable(part) for part in tables]


def refuse_table_formats(names: Iterable[str], source: str) -> None:
    """Refuse a folder in which a table format keeps old versions beside the current one.

    Args:
        names: paths of all files, relative to the folder.
        source: the folder's name in errors.

    Raises:
        DataError: it is a table of Delta Lake, Apache Iceberg or Apache Hudi.
    """
    for name in names:
        for mark, table_format in _TABLE_FORMATS.items():
            if re.search(mark, name):
                raise DataError(
                    f"the folder is a table of {table_format}: its files hold deleted and replaced "
                    "rows, too",
                    file=source,
                    remedy="Export the current version, as Parquet or CSV, to another folder.",
                )


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


def read_text(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a file as text, all of it at once.

    Args:
        path: the file.
        columns: some of its columns.

    Returns:
        A table with one text column per name; null is a missing value.

    Raises:
        DataError: the file is damaged, or has no rows.
    """
    return read_table(FileTable(path), columns)


def read_table(table: FileTable, columns: Sequence[str], lists: Collection[str] = ()) -> pa.Table:
    """Read some columns of a table of a file, all of it at once; see `FileTable.batches`.

    Raises:
        DataError: the file is damaged, or has no rows.
    """
    batches = [batch for batch in table.batches(columns, lists) if batch.num_rows]
    if not batches:
        problem = "the file has no rows"
        raise DataError(problem, file=table.source, remedy="Export the data again.")
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


def _text_of(name: str, kind: str, source: str, lists: Collection[str] = ()) -> str:
    """Return a SQL expression that converts a column to text."""
    column = '"' + name.replace('"', '""') + '"'
    if kind in _EXACT:
        # Beyond the largest exact whole number, different values may have become the same.
        largest = _EXACT[kind]
        whole = f"regexp_replace({column}::VARCHAR, '\\.0+$', '')"
        # Not a comparison with 'nan': Parquet's statistics omit it, so DuckDB folds that to false.
        return (
            f"CASE WHEN isnan({column}) THEN NULL WHEN abs({column}) < {largest} THEN {whole} "
            f"ELSE {column}::VARCHAR || '{INEXACT}' END"
        )
    if kind.startswith("DECIMAL") and not kind.endswith("]"):
        return f"regexp_replace({column}::VARCHAR, '\\.0+$', '')"
    if kind == "VARCHAR[]" and name in lists:
        return f"array_to_string({column}, '|')"
    if _nested(kind):
        raise DataError(
            f"the column holds {kind}, not plain values",
            file=source,
            field=name,
            remedy="Export it as numbers, text, dates or times.",
        )
    return f"{column}::VARCHAR"


_EXACT = {"DOUBLE": EXACT_FLOATS, "FLOAT": _EXACT_FLOATS_32, "HALF": _EXACT_FLOATS_16}
"""By type of float: below it, every whole number is one."""


def _nested(kind: str) -> bool:
    """Return whether values of a DuckDB type have no plain text."""
    return kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION", "BLOB", "VARIANT"))


def _is_tsv(path: Path) -> bool:
    return path.name.lower().endswith((".tsv", ".tsv.gz"))


_databases: dict[int, duckdb.DuckDBPyConnection] = {}
"""By process: a database's threads are not in a fork, which therefore cannot close it either."""


def connect() -> duckdb.DuckDBPyConnection:
    """Open a connection to an empty in-memory DuckDB that reads times without an offset as UTC.

    A database takes 40 ms to make, so all connections of a process share one; none sees what
    another registers.
    """
    process = os.getpid()
    if process in _databases:
        with suppress(duckdb.Error):  # after an internal error, a database is useless for ever
            return _connection_to(_databases[process])
    _databases[process] = duckdb.connect(
        config={
            # Reading a private file must not open a connection to download an extension.
            "autoinstall_known_extensions": False,
            # Nor is a file's content to stay in memory: another may have its name next time.
            "enable_external_file_cache": False,
        }
    )
    return _connection_to(_databases[process])


def _connection_to(database: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    connection = database.cursor()
    # A slow query would draw a bar on stdout, where a command's JSON goes.
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return connection


def _literally(path: Path) -> str:
    """Escape `path`, so that DuckDB does not read it as a pattern for several files."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
