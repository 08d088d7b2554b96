"""How any table file becomes columns of text.

Everything read here is text first: an integer column holds "1", a float column that holds whole
numbers holds "1" and never "1.0", and text is taken as it stands.

| what the file holds                             | what happens                              |
|-------------------------------------------------|-------------------------------------------|
| a path that is missing, or not a file           | refused                                   |
| a suffix other than .csv and .parquet           | refused                                   |
| not what its suffix says, damaged, not UTF-8    | refused                                   |
| no bytes, or no rows                            | refused                                   |
| a row with more or fewer fields than the header | refused, with the row; one comma too many |
|                                                 |   at the end of a row is let pass         |
| blank lines                                     | skipped, and not counted as rows          |
| a column that is missing or stands there twice  | refused, with the columns there are       |
| a column of bytes or of nested values           | refused, but for lists of texts (genres)  |

CSV means comma-separated, double-quoted, with a header; nothing is guessed from the contents.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from shared.errors import DataError

__all__ = ["column_names", "connect", "read_text", "replacing", "require_column"]


def column_names(path: Path) -> tuple[str, ...]:
    """The names of the columns of a .csv or .parquet file, in order.

    Raises:
        DataError: there is no such file, or it is not what its suffix says.
    """
    return tuple(name for name, _ in _columns(path))


def require_column(name: str, found: Sequence[str], source: Path, mapping: str) -> None:
    """Refuse a file that does not have column `name` exactly once.

    Args:
        name: the column that is wanted.
        found: the columns there are.
        source: the file.
        mapping: how a caller says what the column is called, such as `Columns(user='...')`.

    Raises:
        DataError: the column is missing or stands there twice.
    """
    if found.count(name) == 1:
        return
    problem = "stands there more than once" if name in found else "is missing"
    raise DataError(
        f"the column {problem}; the columns found are {', '.join(found) or 'none'}",
        file=source,
        field=name,
        remedy=f"Rename a column, or say which one to read with {mapping}.",
    )


def read_text(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a .csv or .parquet file as text, in file order.

    Args:
        path: the file.
        columns: names among `column_names(path)`.

    Returns:
        A table with one text column per name, where null stands for a missing value.

    Raises:
        DataError: the file is damaged, or has no rows.
    """
    there = _columns(path)
    places = [[name for name, _ in there].index(column) for column in columns]
    if _is_csv(path):
        fields = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(there)))
        # With auto_detect off, DuckDB guesses neither the delimiter nor a type nor the header.
        scan = (
            "read_csv(?, auto_detect=false, header=true, delim=',', quote='\"', escape='\"', "
            f"hive_partitioning=false, columns={{{fields}}})"
        )
        picked = [f"c{place}" for place in places]
    else:
        scan = "read_parquet(?, hive_partitioning=false)"
        picked = [_as_text(*there[place], path) for place in places]
    with _duckdb(path) as connection:
        query = f"SELECT {', '.join(picked)} FROM {scan}"  # noqa: S608 - names are quoted above
        table = connection.sql(query, params=[_literally(path)]).to_arrow_table()
    if not table.num_rows:
        raise DataError("the file has no rows", file=path, remedy="Export the data again.")
    return table.rename_columns(list(columns))


def _columns(path: Path) -> list[tuple[str, str]]:
    """Name and DuckDB type of each column."""
    _check_kind(path)
    if _is_csv(path):
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                return [(name, "VARCHAR") for name in next(csv.reader(lines, strict=True), [])]
        except (UnicodeDecodeError, csv.Error):
            raise _damaged(path) from None
    with _duckdb(path) as connection:
        query = "DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning=false)"
        return [
            (row[0], row[1]) for row in connection.execute(query, [_literally(path)]).fetchall()
        ]


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _check_kind(path: Path) -> None:
    remedy = "Give a comma-separated .csv file with a header, or a .parquet file."
    if not path.exists():
        raise DataError("the file does not exist", file=path, remedy="Check the path.")
    if not path.is_file():
        raise DataError("this is not a file", file=path, remedy=remedy)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise DataError("its name ends in neither .csv nor .parquet", file=path, remedy=remedy)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as fault:
        problem = f"the file cannot be read ({fault.strerror})"
        raise DataError(problem, file=path, remedy="Check its permissions.") from None
    if not start:
        raise DataError("the file is empty", file=path, remedy="Export the data again.")
    if (start == b"PAR1") is _is_csv(path):
        raise DataError("the file is not what its name says", file=path, remedy=remedy)


def _as_text(name: str, kind: str, path: Path) -> str:
    """A SQL expression for a Parquet column as text."""
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
            file=path,
            field=name,
            remedy="Export it as numbers, text, dates or times.",
        )
    return f"{column}::VARCHAR"


def connect() -> duckdb.DuckDBPyConnection:
    """An empty DuckDB in memory that takes times without an offset for UTC."""
    # No extension is ever fetched: reading a private file must not open a connection.
    connection = duckdb.connect(config={"autoinstall_known_extensions": False})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


@contextmanager
def _duckdb(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect() as connection:
        try:
            yield connection
        except (duckdb.Error, UnicodeDecodeError):
            raise _damaged(path) from None


def _damaged(path: Path) -> DataError:
    """The error for a file that its reader gave up on; of a CSV file, with the row at fault."""
    if not _is_csv(path):
        problem, remedy = "the file is damaged or not Parquet", "Export the data again."
        return DataError(problem, file=path, remedy=remedy)
    remedy = "Export it as UTF-8, comma-separated, with one kind of line ending."
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = (row for row in csv.reader(lines, strict=True) if row)
            width = len(next(rows, []))
            ragged = ((n, len(row)) for n, row in enumerate(rows, start=1) if len(row) != width)
            number, length = next(ragged, (None, 0))
    except UnicodeDecodeError:
        return DataError("the file is not UTF-8 text", file=path, remedy=remedy)
    except csv.Error:
        number = None
    if number is None:
        return DataError("the file is not well-formed CSV", file=path, remedy=remedy)
    problem = f"the row has {length} fields where the header has {width}"
    return DataError(problem, file=path, row=number, remedy="Quote fields that hold a comma.")


def _literally(path: Path) -> str:
    """`path` as DuckDB takes it: not as a pattern for several files."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
