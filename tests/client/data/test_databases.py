from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from client.data.databases import Database
from shared.data.catalogue import Catalogue
from shared.data.ids import INEXACT
from shared.data.reading import histories_from_tables
from shared.errors import DataError, SiteError
from tests.client.conftest import CANARY, private

if TYPE_CHECKING:
    from simulations.datasets.temporary_postgresql import Server

Shop = Callable[..., Database]


def read(source: Database, *columns: str) -> list[tuple[str | None, ...]]:
    rows: list[tuple[str | None, ...]] = []
    for table in source.tables():
        for batch in table.batches(columns or table.columns):
            rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
    return rows


def sqlite(folder: Path, *values: object, text: str = "SELECT v FROM t") -> Database:
    with sqlite3.connect(folder / "x.db") as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (v)")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
    connection.close()
    return Database("sqlite:///x.db", ("query", text), folder=folder)


@pytest.fixture
def shop(postgresql: Server, secrets: dict[str, str], tmp_path: Path) -> Shop:
    """Opens a query on the server with the right password."""

    def opened(text: str, kind: str = "query") -> Database:
        credentials = Path(secrets["postgresql"])
        return Database(postgresql.url, (kind, text), folder=tmp_path, credentials=credentials)

    return opened


def admin(server: Server, *statements: str) -> list[Any]:
    url = sa.make_url(server.url).set(drivername="postgresql+psycopg", password=server.password)
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
        return list(result) if result.returns_rows else []


# --- values ------------------------------------------------------------------------------------


def test_each_value_of_sqlite_becomes_text_by_its_own_kind(tmp_path: Path) -> None:
    values = [1, 1.0, 2.5, "1.0", "x", None, 2**63 - 1, -0.0, 1e300]
    texts = ["1", "1", "2.5", "1.0", "x", None, str(2**63 - 1), "-0", "1e+300 (inexact number)"]
    assert read(sqlite(tmp_path, *values)) == [(text,) for text in texts]


def test_values_of_postgresql_become_the_text_of_a_file(shop: Shop) -> None:
    query = (
        "SELECT 1.50::numeric(5,2) AS a, 7.00::numeric AS b, 'NaN'::numeric AS c, "
        "12345678901234567890123::numeric AS d, true AS e, 'NaN'::float8 AS f, 0.1::real AS g, "
        "DATE '2024-05-01' AS h, TIMESTAMP '2024-05-01 12:00:00.25' AS i, "
        "TIMESTAMPTZ '2024-05-01 12:00:00+02' AS j, "
        "'00000000-0000-0000-0000-00000000000a'::uuid AS k, NULL AS l"
    )
    assert read(shop(query)) == [
        (
            *("1.50", "7", None, "12345678901234567890123", "true", None, "0.1", "2024-05-01"),
            *("2024-05-01 12:00:00.25", "2024-05-01 10:00:00+00"),
            *("00000000-0000-0000-0000-00000000000a", None),
        )
    ]


def test_the_same_decimal_is_the_same_text_in_every_batch(shop: Shop) -> None:
    value = "CASE WHEN n < 60000 THEN 1.5 ELSE n + 0.25 END"
    query = f"SELECT {value} AS v FROM generate_series(1, 60002) n"
    texts = {text for (text,) in read(shop(query))}
    assert texts == {"1.5", "60000.25", "60001.25", "60002.25"}


@pytest.mark.parametrize(
    "expression", ["'x'::bytea", "ARRAY[1]", "'{}'::jsonb", "INTERVAL '1 day'", "int4range(1, 2)"]
)
def test_values_that_are_not_plain_are_refused(shop: Shop, expression: str) -> None:
    with pytest.raises(
        DataError, match=r"field 'v'.*not plain values.*numbers, text, dates or times"
    ):
        read(shop(f"SELECT {expression} AS v"))


def test_bytes_in_sqlite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not plain values"):
        read(sqlite(tmp_path, "a", b"\x00"))


@pytest.mark.parametrize("value", ["'infinity'::timestamp", "'-infinity'::timestamptz"])
def test_a_time_of_infinity_is_refused_with_its_remedy(shop: Shop, value: str) -> None:
    with pytest.raises(SiteError, match=r"infinity or beyond the year 9999.*isfinite"):
        read(shop(f"SELECT {value} AS v"))


def test_padding_and_numeric_ids_have_one_canonical_form(shop: Shop) -> None:
    query = (
        "SELECT '1000'::char(8) AS user_id, 'a' AS item_id, 1 AS timestamp "
        "UNION ALL SELECT 1000.00::numeric::text, 'b', 2 UNION ALL SELECT '1000.0', 'c', 3"
    )
    items = Catalogue(tuple("abc"), tuple("abc"), ((),) * 3, (None,) * 3)
    histories = histories_from_tables(shop(query).tables(), items, source="query")
    assert histories.users == ("1000",)


def test_reals_that_lost_digits_are_marked(shop: Shop) -> None:
    """16777217 and 16777216 are one `real`, and Python's float does not show it."""
    query = "SELECT 16777217::real AS a, 1000::real AS b, 0.5::real AS c, 16777217::float8 AS d"
    assert read(shop(query)) == [(f"16777216.0{INEXACT}", "1000", "0.5", "16777217")]


def test_infinite_numbers_are_marked(shop: Shop) -> None:
    query = "SELECT 'Infinity'::float8 AS a, 'Infinity'::numeric AS b, 2::float8 ^ 53 AS c"
    assert all(text and text.endswith(INEXACT) for text in read(shop(query))[0])


# --- SQLite in WAL mode --------------------------------------------------------------------------


def write_ahead(folder: Path) -> Path:
    file = folder / "shop.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (v)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    return file


def test_reading_a_database_in_wal_mode_leaves_nothing_behind(tmp_path: Path) -> None:
    file = write_ahead(tmp_path)
    before = file.read_bytes()
    assert read(Database("sqlite:///shop.db", ("table", "t"), folder=tmp_path)) == [("1",)]
    assert [path.name for path in tmp_path.iterdir()] == ["shop.db"]
    assert file.read_bytes() == before
    with pytest.raises(SiteError, match="readonly"):
        read(Database("sqlite:///shop.db", ("query", "DELETE FROM t"), folder=tmp_path))


def test_a_database_in_wal_mode_is_read_while_another_writes(tmp_path: Path) -> None:
    with closing(sqlite3.connect(write_ahead(tmp_path))) as writer:
        writer.execute("INSERT INTO t VALUES (2)")
        writer.commit()
        source = Database("sqlite:///shop.db", ("table", "t"), folder=tmp_path)
        assert read(source) == [("1",), ("2",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_wal_mode_in_a_read_only_folder_is_refused_by_name() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ahead(folder).chmod(0o644)
        folder.chmod(0o555)
        os.seteuid(65534)
        try:
            with pytest.raises(SiteError, match=r"in WAL mode.*write to the folder.*VACUUM INTO"):
                read(Database("sqlite:///shop.db", ("table", "t"), folder=folder))
        finally:
            os.seteuid(0)
        assert [path.name for path in folder.iterdir()] == ["shop.db"]


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"), [("query", "SELECT * FROM many ORDER BY v"), ("table", "many")]
)
def test_rows_come_through_a_cursor_on_the_server(
    shop: Shop, postgresql: Server, kind: str, text: str
) -> None:
    numbers = "SELECT n AS v FROM generate_series(1, 120000) n"
    admin(postgresql, "DROP TABLE IF EXISTS many", f"CREATE TABLE many AS {numbers}")
    with closing(shop(text, kind).tables()) as tables:
        batches = next(tables).batches(["v"])
        sizes = [next(batches).num_rows]
        others = "FROM pg_stat_activity WHERE state = 'idle in transaction'"
        running = admin(postgresql, f"SELECT query {others}")
        sizes += [batch.num_rows for batch in batches]
    assert sizes == [50_000, 50_000, 20_000]
    assert len(running) == 1
    assert running[0][0].startswith("FETCH FORWARD")


def test_the_connection_is_closed_after_reading(shop: Shop, postgresql: Server) -> None:
    tables = shop("SELECT 1 AS v").tables()
    next(tables)
    tables.close()
    query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    assert admin(postgresql, query) == [(0,)]


def test_a_table_may_have_a_schema_and_any_name(shop: Shop, postgresql: Server) -> None:
    admin(
        postgresql,
        'CREATE SCHEMA "Odd one"',
        'CREATE TABLE "Odd one"."user" ("select" int, "A b" text)',
        'INSERT INTO "Odd one"."user" VALUES (1, \'x\')',
    )
    assert read(shop("Odd one.user", "table"), "A b", "select") == [("x", "1")]


def test_nothing_can_be_written(shop: Shop, postgresql: Server, tmp_path: Path) -> None:
    admin(postgresql, "CREATE TABLE kept (v int)", "CREATE SEQUENCE counter")
    with pytest.raises(SiteError, match="read-only transaction"):
        read(shop("SELECT nextval('counter') AS v"))
    with pytest.raises(SiteError, match="the database refused"):
        read(shop("DELETE FROM kept"))
    with pytest.raises(SiteError, match="readonly"):
        read(sqlite(tmp_path, 1, text="DELETE FROM t"))
    assert read(sqlite(tmp_path)) == [("1",)]


# --- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("query", "SELEC", r"data\.query = 'SELEC'.*syntax error.*Correct it"),
        ("query", "SELECT v FROM nowhere", r"data\.query = .*\"nowhere\" does not exist"),
        ("table", "nowhere", r"data\.table = 'nowhere'.*does not exist.*SELECT from it"),
        ("query", "SELECT 1/0 AS v", r"data\.query = .*division by zero"),
    ],
)
def test_a_query_that_fails_is_an_error(shop: Shop, kind: str, text: str, problem: str) -> None:
    with pytest.raises(SiteError, match=problem):
        read(shop(text, kind))


def test_a_statement_without_rows_is_refused(tmp_path: Path) -> None:
    source = sqlite(tmp_path, text="PRAGMA cache_size = 10")
    with pytest.raises(SiteError, match=r"data\.query = 'PRAGMA.*gives no rows. Write a SELECT"):
        read(source)


def test_a_missing_permission_is_an_error_with_its_remedy(
    postgresql: Server, tmp_path: Path
) -> None:
    admin(
        postgresql,
        "DROP TABLE IF EXISTS hidden",
        "DROP ROLE IF EXISTS guest",
        "CREATE TABLE hidden (v int)",
        f"CREATE ROLE guest LOGIN PASSWORD '{CANARY}'".replace("%", "%%"),
    )
    login = f'user = "guest"\npassword = "{CANARY}"\n'
    credentials = Path(private(tmp_path / "c", login))
    source = Database(postgresql.url, ("table", "hidden"), folder=tmp_path, credentials=credentials)
    with pytest.raises(SiteError, match=r"'hidden'.*permission denied.*this user may SELECT"):
        read(source)


@pytest.mark.parametrize("kind", ["wrong password", "unreachable", "no such host", "no database"])
def test_no_error_shows_a_secret(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    right = CANARY if kind == "no database" else CANARY + "!"
    monkeypatch.setenv("SOTTO_DATA_PASSWORD", right)
    monkeypatch.setenv("SOTTO_DATA_USER", "sotto")
    url = {
        "wrong password": postgresql.url,
        "unreachable": "postgresql://127.0.0.1:1/postgres",
        "no such host": "postgresql://nowhere.invalid/postgres",
        "no database": postgresql.url.rpartition("/")[0] + "/no_such",
    }[kind]
    source = Database(url, ("table", "t"), folder=tmp_path)
    with pytest.raises(SiteError, match=r"data\.source = '.*Check host, port, database") as caught:
        read(source)
    shown = "".join(traceback.format_exception(caught.value)) + repr(source) + source.name
    assert "c4nary" not in shown


def test_a_driver_that_repeats_the_password_is_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOTTO_DATA_PASSWORD", CANARY)
    source = Database("postgresql://127.0.0.1:1/x", ("table", "t"), folder=tmp_path)

    def chatty(*_: object, **__: object) -> None:
        fault = RuntimeError(f"could not log in with password={CANARY}")
        raise sa.exc.OperationalError(f"connect {CANARY}", {"password": CANARY}, fault)

    monkeypatch.setattr(sa.Engine, "connect", chatty)
    with pytest.raises(SiteError, match=r"could not log in with password=\*\*\*") as caught:
        read(source)
    assert "c4nary" not in "".join(traceback.format_exception(caught.value))


def test_without_psycopg_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    source = Database("postgresql://127.0.0.1:1/x", ("table", "t"), folder=tmp_path)
    with pytest.raises(SiteError, match=r"psycopg is not installed: pip install 'psycopg\[binary"):
        read(source)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://host:port/db", "not a URL"),
        ("oddbase://host/db", "no such database is known"),
        ("sqlite://", "it names no file"),
        ("sqlite:///nowhere.db", "the file does not exist"),
    ],
)
def test_an_unusable_url_is_refused(tmp_path: Path, url: str, problem: str) -> None:
    with pytest.raises(SiteError, match=rf"data\.source = '{url}': .*{problem}"):
        read(Database(url, ("table", "t"), folder=tmp_path))
    assert not list(tmp_path.iterdir())
