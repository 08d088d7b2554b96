from __future__ import annotations

import gzip
import itertools
import os
import sqlite3
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.config import DataConfig
from client.data.sources import open_source, read_source
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.ids import MISSING, canonical_id
from shared.errors import ConfigError, DataError, SiteError
from tests.client.conftest import store

if TYPE_CHECKING:
    from simulations.datasets.temporary_postgresql import Server

KINDS = (
    *("parquet", "csv", "csv.gz", "csv pattern", "parquet pattern"),
    *("s3 object", "s3 prefix", "s3 pattern"),
    *("sqlite table", "sqlite query", "postgresql table", "postgresql query"),
)
NAMES = ("user_id", "item_id", "timestamp")
UUIDS = [UUID(int=n * 10**30) for n in range(1, 6)]
IDS: dict[str, list[Any]] = {
    "texts": [
        "a",
        "7",
        "007",
        "7 7",
        "Zoë",
        "été été",
        "名前",
        "a,b",
        'q"q',
        "%s",
        ":x",
        "O'Neill",
    ],
    "integers": [1, -5, 0, 2**62, 10**12],
    "uuids": list(UUIDS),
    "whole floats": [1.0, 2.0, 250.0, -3.0],
}
START = datetime(2024, 5, 1, tzinfo=UTC)
TIMES: dict[str, Callable[[int], Any]] = {
    "integers": lambda n: 1_700_000_000 + n,
    "floats": lambda n: 1e9 + n / 4,
    "nanoseconds": lambda n: 1_700_000_000_000_000_000 + n,
    "ISO texts": lambda n: (START + timedelta(hours=n)).isoformat(),
    "ISO dates": lambda n: (START + timedelta(days=n)).date().isoformat(),
    "dates": lambda n: (START + timedelta(days=n)).date(),
    "timestamps": lambda n: (START + timedelta(milliseconds=n)).replace(tzinfo=None),
    "timestamps with zone": lambda n: START + timedelta(microseconds=n),
}
_COLUMN = {
    **{str: "text", int: "bigint", float: "double precision", UUID: "uuid"},
    **{type(START.date()): "date"},
}
_numbers = itertools.count()


class Places:
    """Puts the same rows wherever interactions may live."""

    def __init__(self, secrets: dict[str, str], request: pytest.FixtureRequest) -> None:
        self._secrets, self._request = secrets, request

    def put(self, kind: str, rows: Sequence[tuple[Any, Any, Any]], folder: Path) -> DataConfig:
        """How site.toml names them then; every event counts."""
        return replace(self._put(kind, rows, folder), repeat_seconds=0)

    def _put(self, kind: str, rows: Sequence[tuple[Any, Any, Any]], folder: Path) -> DataConfig:
        where, _, form = kind.partition(" ")
        if where == "s3":
            return self._s3(form, rows, folder)
        if where == "sqlite":
            return self._sqlite(form, rows, folder)
        if where == "postgresql":
            return self._postgresql(form, rows)
        if form:
            third = len(rows) // 3
            for number, part in enumerate((rows[:third], rows[third:third], rows[third:])):
                write(folder / f"part-{number}.{where}", part, like=rows)
            return DataConfig(source=f"part-*.{where}")
        write(folder / f"events.{where}", rows, like=rows)
        return DataConfig(source=f"events.{where}")

    def _s3(self, form: str, rows: Sequence[Any], folder: Path) -> DataConfig:
        endpoint, prefix = self._request.getfixturevalue("s3_endpoint"), f"n{next(_numbers)}"
        half = len(rows) // 2
        parts = [rows] if form == "object" else [rows[:half], rows[half:]]
        for number, part in enumerate(parts):
            name = f"part-{number}.parquet"
            write(folder / name, part, like=rows)
            put_object(endpoint, f"{prefix}/{name}", (folder / name).read_bytes())
        put_object(endpoint, f"{prefix}/_SUCCESS", b"")
        last = {"object": "/part-0.parquet", "prefix": "", "pattern": "/part-*.parquet"}[form]
        source = f"s3://bucket/{prefix}{last}"
        return DataConfig(source=source, endpoint=endpoint, credentials=self._secrets["s3"])

    def _sqlite(self, form: str, rows: Sequence[Any], folder: Path) -> DataConfig:
        plain = (int, float, str, type(None))
        texts = [[v if isinstance(v, plain) else str(v) for v in row] for row in rows]
        with sqlite3.connect(folder / "events.db") as connection:
            connection.execute("CREATE TABLE events (extra, timestamp, item_id, user_id)")
            connection.executemany(
                "INSERT INTO events (user_id, item_id, timestamp) VALUES (?, ?, ?)", texts
            )
        connection.close()
        query = "SELECT item_id, user_id, timestamp FROM events WHERE '%s :x' <> '' ORDER BY rowid"
        rows_of: dict[str, Any] = {"table": "events"} if form == "table" else {"query": query}
        return DataConfig(source="sqlite:///events.db", **rows_of)

    def _postgresql(self, form: str, rows: Sequence[Any]) -> DataConfig:
        server: Server = self._request.getfixturevalue("postgresql")
        table = f"Events {next(_numbers)}"
        kinds = (column_type([row[n] for row in rows]) for n in range(3))
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(NAMES, kinds, strict=True))
        with admin(server) as connection:
            connection.exec_driver_sql(f'CREATE TABLE "{table}" (extra text, {columns})')
            insert = f'INSERT INTO "{table}" ({", ".join(NAMES)}) VALUES (%s, %s, %s)'
            connection.exec_driver_sql(insert, list(rows))
        query = f"SELECT *, '%s :x'::text AS odd FROM \"{table}\";"
        rows_of: dict[str, Any] = (
            {"table": f"public.{table}"} if form == "table" else {"query": query}
        )
        credentials = self._secrets["postgresql"]
        return DataConfig(source=server.url, credentials=credentials, **rows_of)


def column_type(values: Sequence[Any]) -> str:
    value = next(value for value in values if value is not None)
    if isinstance(value, datetime):
        return "timestamptz" if value.tzinfo else "timestamp"
    return _COLUMN[type(value)]


def admin(server: Server) -> AbstractContextManager[sa.Connection]:
    url = sa.make_url(server.url).set(drivername="postgresql+psycopg", password=server.password)
    return sa.create_engine(url, poolclass=sa.NullPool).begin()


def put_object(endpoint: str, key: str, content: bytes) -> None:
    with store(endpoint).open_output_stream(f"bucket/{key}") as stream:
        stream.write(content)


def write(path: Path, rows: Sequence[Any], *, like: Sequence[Any]) -> None:
    """A file with the types of the columns of `like`."""
    columns = {}
    for n, name in enumerate(NAMES):
        plain = [str(row[n]) if isinstance(row[n], UUID) else row[n] for row in like]
        kind = pa.array(plain).type
        cells = [str(row[n]) if isinstance(row[n], UUID) else row[n] for row in rows]
        columns[name] = pa.array(cells, kind)
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink)
    content = sink.getvalue().to_pybytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(scope="session")
def places(secrets: dict[str, str], request: pytest.FixtureRequest) -> Places:
    return Places(secrets, request)


def catalogue(items: Sequence[Any]) -> Catalogue:
    names = tuple(text(item) for item in items)
    return Catalogue(names, names, ((),) * len(names), (None,) * len(names))


def text(value: object) -> str:
    """An id in its canonical form, by other means than the product's."""
    whole = str(int(value)) if isinstance(value, float) else str(value)
    return unicodedata.normalize("NFC", whole)


def by_hand(
    rows: Sequence[tuple[Any, Any, Any]], known: Sequence[Any], length: int
) -> dict[str, list[int]]:
    """The histories by brute force: users and what they did, in order."""
    seen: set[Any] = set()
    lists: dict[str, list[tuple[Any, int]]] = {}
    for user, item, time in rows:
        events = lists.setdefault(text(user), [])
        if (user, item, time) not in seen and item in known:
            events.append((time, known.index(item) + 1))
        seen.add((user, item, time))
    return {
        user: [item for _, item in sorted(events, key=lambda event: event[0])][-length:]
        for user, events in lists.items()
        if len(events) >= 2
    }


def as_lists(histories: Histories) -> dict[str, list[int]]:
    return {user: histories[row].tolist() for row, user in enumerate(histories.users)}


def some_rows(ids: list[Any], time: Callable[[int], Any]) -> list[tuple[Any, Any, Any]]:
    """Every id as a user and as an item, with ties and copies; the last item is unknown."""
    order = [5, 3, 3, 8, 1, 1, 9, 2, 7, 4]
    count = len(ids)
    rows = [
        (ids[(n * 7) % count], ids[(n * 3 + n // count) % count], time(order[n % 10]))
        for n in range(40)
    ]
    return [*rows, *rows[:5]]


# --- the same rows give the same histories -----------------------------------------------------


@pytest.mark.parametrize(("ids", "times"), list(zip(itertools.cycle(IDS), TIMES, strict=False)))
@pytest.mark.parametrize("kind", ["parquet", "csv", "sqlite table", "postgresql table"])
def test_every_type_of_column_reads_the_same(
    tmp_path: Path, places: Places, kind: str, ids: str, times: str
) -> None:
    rows, known = some_rows(IDS[ids], TIMES[times]), IDS[ids][:-1]
    data = places.put(kind, rows, tmp_path)
    histories = read_source(data, tmp_path, catalogue(known), max_length=4)
    assert as_lists(histories) == by_hand(rows, known, 4)
    assert list(histories.users) == list(by_hand(rows, known, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_reads_the_same(tmp_path: Path, places: Places, kind: str) -> None:
    rows, known = some_rows(IDS["texts"], TIMES["integers"]), IDS["texts"][:-1]
    data = places.put(kind, rows, tmp_path)
    (tmp_path / "a").mkdir()
    reference = places.put("parquet", rows, tmp_path / "a")
    histories = read_source(data, tmp_path, catalogue(known), max_length=4)
    expected = read_source(reference, tmp_path / "a", catalogue(known), max_length=4)
    assert histories.users == expected.users
    assert histories.items.tolist() == expected.items.tolist()
    assert histories.offsets.tolist() == expected.offsets.tolist()
    assert histories.dropped == expected.dropped
    assert expected.dropped["duplicate"] > 0
    assert expected.dropped["unknown_item"] > 0


missing = {canonical_id(text).casefold() for text in MISSING}
odd_ids = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zs", "Zl", "Zp")), min_size=1, max_size=6
).filter(
    lambda text: (
        text == canonical_id(text)
        and any(character.isalnum() for character in text)  # punctuation alone names nobody
        and text.casefold() not in missing
    )
)


@settings(max_examples=12, deadline=None)
@given(
    users=st.lists(odd_ids, min_size=1, max_size=4, unique=True),
    items=st.lists(odd_ids, min_size=1, max_size=4, unique=True),
    data=st.data(),
)
@pytest.mark.parametrize("kind", ["parquet", "csv", "sqlite table", "postgresql query"])
def test_any_ids_and_any_order_agree_with_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    places: Places,
    kind: str,
    users: list[str],
    items: list[str],
    data: st.DataObject,
) -> None:
    time = TIMES[data.draw(st.sampled_from(sorted(TIMES)))]
    event = st.tuples(st.sampled_from(users), st.sampled_from(items), st.integers(0, 5).map(time))
    rows = data.draw(st.lists(event, min_size=1, max_size=20))
    folder = tmp_path_factory.mktemp("any")
    expected = by_hand(rows, items, 3)
    config = places.put(kind, rows, folder)
    if not expected:
        with pytest.raises(DataError, match="no user has 2 events"):
            read_source(config, folder, catalogue(items), max_length=3)
        return
    histories = read_source(config, folder, catalogue(items), max_length=3)
    assert as_lists(histories) == expected


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize(
    "kind", ["parquet", "csv", "s3 object", "sqlite table", "postgresql query"]
)
def test_a_missing_value_is_refused_by_row(
    tmp_path: Path, places: Places, kind: str, column: int
) -> None:
    rows: list[Any] = some_rows(IDS["integers"], TIMES["integers"])
    rows[6] = tuple(None if n == column else value for n, value in enumerate(rows[6]))
    data = places.put(kind, rows, tmp_path)
    with pytest.raises(DataError) as caught:
        read_source(data, tmp_path, catalogue(IDS["integers"]), max_length=4)
    assert (caught.value.row, caught.value.field) == (7, NAMES[column])


# --- files -------------------------------------------------------------------------------------


def test_a_fault_is_named_by_its_own_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "part-1.csv").write_text("user_id,item_id,timestamp\nx,a,1\nx,b,2\n")
    (tmp_path / "part-2.csv").write_text("timestamp,user_id,item_id\n3,x,a\n4,,b\n")
    with pytest.raises(DataError, match="the id is empty") as caught:
        read_source(DataConfig(source="part-*.csv"), tmp_path, catalogue("ab"), max_length=4)
    assert caught.value.file == str(tmp_path / "part-2.csv")
    assert caught.value.row == 2


def test_times_must_be_written_alike_in_all_files(tmp_path: Path) -> None:
    header = "user_id,item_id,timestamp\n"
    (tmp_path / "part-1.csv").write_text(header + "x,a,1\nx,b,2\nx,b,3\n")
    (tmp_path / "part-2.csv").write_text(header + "x,a,2024-05-01\n")
    with pytest.raises(DataError, match="Write every time the same way") as caught:
        read_source(DataConfig(source="part-*.csv"), tmp_path, catalogue("ab"), max_length=4)
    assert (caught.value.file, caught.value.row) == (str(tmp_path / "part-2.csv"), 1)
    assert caught.value.value == "2024-05-01"


def test_whole_numbers_and_fractions_in_different_files_are_one_kind(tmp_path: Path) -> None:
    header = "user_id,item_id,timestamp\n"
    (tmp_path / "part-1.csv").write_text(header + "x,a,2\nx,b,1\n")
    (tmp_path / "part-2.csv").write_text(header + "x,c,1.5\n")
    histories = read_source(
        DataConfig(source="part-*.csv"), tmp_path, catalogue("abc"), max_length=4
    )
    assert as_lists(histories) == {"x": [2, 3, 1]}


def test_an_existing_name_with_wildcards_is_taken_literally(tmp_path: Path) -> None:
    rows = "user_id,item_id,timestamp\nx,a,1\nx,b,2\n"
    (tmp_path / "[a].csv").write_text(rows)
    (tmp_path / "a.csv").write_text(rows.replace("x", "y"))
    histories = read_source(DataConfig(source="[a].csv"), tmp_path, catalogue("ab"), max_length=4)
    assert histories.users == ("x",)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("*.csv", r"data\.source = '\*\.csv': no file matches in .*Check the path"),
        ("events.csv", r"data\.source = 'events\.csv': the file does not exist"),
    ],
)
def test_a_pattern_without_matches_is_refused(tmp_path: Path, source: str, problem: str) -> None:
    with pytest.raises(SiteError, match=problem):
        read_source(DataConfig(source=source), tmp_path, catalogue("a"), max_length=4)


def test_files_without_a_row_among_them_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"part-{number}.csv").write_text("user_id,item_id,timestamp\n")
    with pytest.raises(DataError, match=r"part-\*\.csv: there are no rows"):
        read_source(DataConfig(source="part-*.csv"), tmp_path, catalogue("a"), max_length=4)


def test_a_missing_column_names_the_key_that_maps_it(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("who,item_id,timestamp\nx,a,1\n")
    with pytest.raises(DataError, match=r"'user_id'.*found are who, item_id.*with user = \"who\""):
        read_source(DataConfig(source="events.csv"), tmp_path, catalogue("a"), max_length=4)


def test_no_permission_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,timestamp\nx,a,1\n")

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", closed)  # root may read everything
    with pytest.raises(DataError, match=r"events\.csv: the file cannot be read \(Permission"):
        read_source(DataConfig(source="events.csv"), tmp_path, catalogue("a"), max_length=4)


@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8bnot gzip at all", gzip.compress(b"x" * 9999, mtime=0)[:-9]],
    ids=["other content", "cut short"],
)
def test_a_damaged_gzip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        read_source(DataConfig(source="events.csv.gz"), tmp_path, catalogue("a"), max_length=4)


@pytest.mark.parametrize("name", ["events.csv", "events.csv.gz"])
def test_gzip_is_recognised_by_the_name(tmp_path: Path, name: str) -> None:
    rows = b"user_id,item_id,timestamp\nx,a,1\n"
    (tmp_path / name).write_bytes(rows if name.endswith("gz") else gzip.compress(rows))
    with pytest.raises(
        DataError, match=r"not what its name says|compressed by gzip\. Let its name"
    ):
        read_source(DataConfig(source=name), tmp_path, catalogue("a"), max_length=4)


def test_the_version_of_files_changes_with_them(tmp_path: Path) -> None:
    source = open_source(DataConfig(source="*.csv"), tmp_path)
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\n")
    first = source.version()
    assert source.version() == first
    (tmp_path / "b.csv").write_text("user_id,item_id,timestamp\n")
    second = source.version()
    (tmp_path / "b.csv").write_text("user_id,item_id,timestamp\nx,a,1\n")
    assert len({first, second, source.version()}) == 3


# --- [data] ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"source": " "}, r"data\.source = ' ': name a file"),
        ({"source": "sqlite:///a.db"}, r"data\.query = '', data\.table = '': .* one of the two"),
        ({"source": "sqlite:///a.db", "query": "q", "table": "t"}, "one of the two"),
        ({"source": "a.csv", "query": "SELECT 1"}, r"data\.query = 'SELECT 1' means nothing"),
        ({"source": "s3://b/p", "table": "t"}, r"data\.table = 't' means nothing"),
        ({"source": "a.csv", "endpoint": "http://h"}, r"data\.endpoint = 'http://h' means"),
        ({"source": "a.csv", "credentials": "c"}, r"data\.credentials = 'c' means nothing"),
        (
            {"source": "sqlite:///a.db", "table": "t", "credentials": "c"},
            r"data\.credentials = 'c' means nothing",
        ),
    ],
)
def test_keys_that_do_not_fit_the_source_are_refused(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        DataConfig(**keys)
