"""Rows of a database, read through SQLAlchemy in batches.

PostgreSQL and SQLite are tested; any other database for which SQLAlchemy has a driver should work.
Nothing is ever written: PostgreSQL runs a read-only transaction, and an SQLite file is opened so
that no statement can change it.
"""

from __future__ import annotations

import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from duckdb import DuckDBPyConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from client.data.credentials import read_credentials, redact
from shared.data.ids import INEXACT
from shared.data.tables import Table, as_text, connect
from shared.errors import DataError, SiteError

__all__ = ["Database"]

_VARIABLES = {"user": "SOTTO_DATA_USER", "password": "SOTTO_DATA_PASSWORD"}
_FORM = "Write it as postgresql://user@host:5432/database or sqlite:///file.db."
_CONNECT_SECONDS, _BATCH = 10, 50_000


class Database:
    """The rows of one query or of one table.

    Args:
        url: a SQLAlchemy URL without a password.
        rows: ("query", a SELECT) or ("table", `name` or `schema.name`).
        folder: base of the path of an SQLite file.
        credentials: a file, see `client.data.credentials`; None uses SOTTO_DATA_USER and
            SOTTO_DATA_PASSWORD, then the defaults of the database's own client.

    Raises:
        SiteError: the URL is malformed, a driver is missing, or the credentials are invalid.
    """

    def __init__(
        self, url: str, rows: tuple[str, str], *, folder: Path, credentials: Path | None = None
    ) -> None:
        self.name, self._rows, self._folder = url, rows, folder
        # SQLite has no login; variables that are set for another site must not affect it.
        variables = {} if url.startswith("sqlite") else _VARIABLES
        login = read_credentials(credentials, variables)
        self._secrets = [login.get("password", ""), os.environ.get("PGPASSWORD", "")]
        try:
            parsed = sa.make_url(url)
        except (ArgumentError, ValueError):
            raise SiteError(f"data.source = '{url}': not a URL. {_FORM}") from None
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._url = parsed.set(
            username=login.get("user", parsed.username), password=login.get("password")
        )

    def version(self) -> None:
        """Return None: only reading shows whether rows have changed."""

    def tables(self) -> Generator[Table]:
        """Yield the rows as one table."""
        engine = self._engine()
        with self._failures("source", self.name, "Check host, port, database, user and password."):
            connection = engine.connect()
        with connection:
            kind, text = self._rows
            remedy = "Correct it, and check that this user may SELECT from it."
            rows = _Rows(
                connection, self._rows, self.name, lambda: self._failures(kind, text, remedy)
            )
            with closing(rows):
                yield rows

    def _engine(self) -> sa.Engine:
        where, backend = f"data.source = '{self.name}'", self._url.drivername.partition("+")[0]
        options: dict[str, Any] = {"poolclass": NullPool}
        if backend == "sqlite":
            options["creator"] = self._sqlite
        elif backend == "postgresql":
            seconds = self._url.query.get("connect_timeout", _CONNECT_SECONDS)
            options["connect_args"] = {"connect_timeout": seconds}
            options["execution_options"] = {"postgresql_readonly": True}
        try:
            return sa.create_engine(self._url, **options)
        except NoSuchModuleError:
            problem = "no such database is known"
            raise SiteError(f"{where}: {problem}. {_FORM}") from None
        except ImportError as error:
            package = "psycopg[binary]" if "psycopg" in str(error) else "a driver for it"
            problem = f"the driver {error.name} is not installed"
            raise SiteError(f"{where}: {problem}: pip install '{package}'.") from None
        except (SQLAlchemyError, TypeError) as error:
            text = redact(str(error), self._secrets)
            raise SiteError(f"{where}: not usable ({text}). {_FORM}") from None

    def _sqlite(self) -> sqlite3.Connection:
        """Open the file read-only; by default SQLite would create a missing one."""
        if not self._url.database:
            raise SiteError(f"data.source = '{self.name}': it names no file. {_FORM}")
        file = self._folder / self._url.database
        if not file.is_file():
            problem = f"{file}: the file does not exist"
            raise SiteError(f"data.source = '{self.name}': {problem}. Check the path.")
        return _open_sqlite(file.resolve(), f"data.source = '{self.name}'")

    @contextmanager
    def _failures(self, key: str, value: str, remedy: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, UnicodeError, OSError) as error:
            # SQLAlchemy's own message repeats the statement and the driver's parameters.
            text = redact(str(getattr(error, "orig", None) or error), self._secrets)
            if "infinity" in text or "too large (after year" in text:
                remedy = (
                    "A time is infinity or beyond the year 9999: leave such rows out, with "
                    'data.query = "SELECT ... WHERE isfinite(COLUMN)".'
                )
            raise SiteError(
                f"data.{key} = '{value}': the database refused ({text}). {remedy}"
            ) from None


def _open_sqlite(file: Path, where: str) -> sqlite3.Connection:
    """Open a file so that nothing can be written, and nothing stays beside it.

    A database in WAL mode needs two files beside it while it is open. The last connection that may
    write removes them again; one that may not leaves them.

    Raises:
        SiteError: it is in WAL mode, and this user may not write beside it.
    """
    with file.open("rb") as stream:
        header = stream.read(20)
    write_ahead = header[18:20] == b"\x02\x02"
    beside = [file.with_name(file.name + suffix) for suffix in ("-wal", "-shm")]
    mode = "rw" if write_ahead and not any(path.exists() for path in beside) else "ro"
    connection = sqlite3.connect(f"{file.as_uri()}?mode={mode}", uri=True)
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if not write_ahead:
            raise
        raise SiteError(
            f"{where}: {file.name} is in WAL mode, which SQLite can only read where it may write "
            f"beside the file ({error}). Let this user write to the folder {file.parent}, or make "
            f"a copy without WAL: sqlite3 {file.name} \"VACUUM INTO 'copy.db'\"."
        ) from None
    return connection


class _Rows:
    """The result of a query or a table as a `Table`.

    Args:
        connection: the connection to run it on.
        rows: as in `Database`.
        url: name of the database in errors.
        failures: context manager that turns the database's errors into a `SiteError`.
    """

    def __init__(
        self,
        connection: sa.Connection,
        rows: tuple[str, str],
        url: str,
        failures: Callable[[], AbstractContextManager[None]],
    ) -> None:
        kind, text = rows
        self.source, self._connection = f"{url}, {kind} '{text}'", connection
        self._failures = failures
        with failures():
            if connection.dialect.name == "postgresql":
                # Otherwise a scan of a large table may start in its middle, and ties change order.
                connection.execute(sa.text("SET LOCAL synchronize_seqscans = off"))
            self._table = _named(text) if kind == "table" else None
            self._result = self._stream(text if self._table is None else _columns_of(self._table))
            if not self._result.returns_rows:
                raise SiteError(f"data.{kind} = '{text}': it gives no rows. Write a SELECT.")
            self.columns = tuple(self._result.keys())

    def close(self) -> None:
        """Close the cursor on the server."""
        with self._failures():
            self._result.close()

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the named columns as text in batches of rows, in the database's order."""
        indices = [self.columns.index(name) for name in names]
        with self._failures(), connect() as duckdb:
            if self._table is not None:
                selection = sa.select(*map(_column, names)).select_from(self._table)
                self._result.close()
                self._result, indices = self._stream(selection), list(range(len(names)))

            single = [self._is_single(index) for index in indices]
            # The size is repeated because the result of a verbatim statement ignores `yield_per`.
            for rows in self._result.partitions(_BATCH):
                columns = list(zip(*rows, strict=True))
                texts = [
                    self._text(duckdb, name, columns[index], single=real)
                    for index, name, real in zip(indices, names, single, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(texts, list(names))

    def _is_single(self, index: int) -> bool:
        """Return whether a column holds PostgreSQL's `real`, which comes as a Python float."""
        if self._connection.dialect.name != "postgresql":
            return False
        cursor = self._result.cursor
        return cursor is not None and cursor.description[index][1] == _REAL

    def _text(
        self, duckdb: DuckDBPyConnection, name: str, values: Sequence[object], *, single: bool
    ) -> pa.Array:
        kinds = {type(value) for value in values} - {type(None)}
        if odd := kinds - _PLAIN:
            raise DataError(
                f"the column holds {', '.join(kind.__name__ for kind in odd)}, not plain values",
                file=self.source,
                field=name,
                remedy="Select it as numbers, text, dates or times.",
            )

        def typed(array: pa.Array) -> pa.Array:
            kept = array.cast(pa.float32()) if single else array
            return as_text(duckdb, name, kept, self.source)

        return _texts(values, kinds, typed)

    def _stream(self, statement: str | sa.Select[Any]) -> sa.CursorResult[Any]:
        """Execute with a server-side cursor, which returns the rows in batches."""
        connection = self._connection.execution_options(stream_results=True, yield_per=_BATCH)
        if isinstance(statement, str):
            # Verbatim: neither `:name` nor `%` is read as a parameter.
            verbatim = {"no_parameters": True}
            return connection.exec_driver_sql(statement, execution_options=verbatim)
        return connection.execute(statement)


def _named(table: str) -> sa.TableClause:
    schema, _, name = table.rpartition(".")
    return sa.table(name, schema=schema or None)


def _columns_of(table: sa.TableClause) -> sa.Select[Any]:
    """Select all columns and no row, to learn the columns' names."""
    return sa.select(sa.text("*")).select_from(table).where(sa.false())


def _column(name: str) -> sa.ColumnClause[Any]:
    return sa.column(name)


_REAL = 700
"""PostgreSQL's number of the type `real`: floats of 32 bits."""
_BY_STR = (uuid.UUID, time)
_ARROW = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
_ARROW |= {date: pa.date32(), datetime: None}
_PLAIN = {*_ARROW, *_BY_STR, Decimal}


def _texts(
    values: Sequence[object], kinds: set[type], typed: Callable[[pa.Array], pa.Array]
) -> pa.Array:
    """Convert Python values to the text that reading a Parquet column of their type would give.

    Args:
        values: None is a missing value.
        kinds: types of the other values, among `_PLAIN`; SQLite may mix them.
        typed: converts an Arrow array to text.
    """
    if len(kinds) == 1:
        return _of_kind(next(iter(kinds)), values, typed)
    texts = np.full(len(values), None, object)
    for kind in kinds:
        rows = [row for row, value in enumerate(values) if type(value) is kind]
        texts[rows] = _of_kind(kind, [values[row] for row in rows], typed).to_pylist()
    return pa.array(texts, pa.string())


def _of_kind(
    kind: type, values: Iterable[object], typed: Callable[[pa.Array], pa.Array]
) -> pa.Array:
    if kind is Decimal:
        return pa.array([_decimal(value) for value in values], pa.string())
    if kind in _BY_STR:
        return _by_str(values)
    try:
        array = pa.array(values, _ARROW[kind])
    except OverflowError:  # an integer of more than 64 bits
        return _by_str(values)
    return array if kind is str else typed(array)


def _by_str(values: Iterable[object]) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _decimal(value: Any) -> str | None:  # noqa: ANN401 a Decimal or None
    if value is None or value.is_nan():
        return None
    if value.is_infinite():
        return f"{value}{INEXACT}"
    return re.sub(r"\.0+$", "", format(value, "f"))
