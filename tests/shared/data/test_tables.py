import os
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data import tables
from shared.data.tables import FileTable, connect, read_text

few = settings(max_examples=25, deadline=None)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("folder", ["plain", "a[b]", "?*"])
def test_a_path_is_not_read_as_a_pattern(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    path = write(tmp_path / folder / "z*.csv", "item_id,title\n1,A\n")
    write(tmp_path / folder / "zz.csv", "item_id,title\n2,B\n")
    assert read_text(path, ["title"])["title"].to_pylist() == ["A"]


@pytest.mark.parametrize("folder", ["title=x", "c1=x"])
def test_folder_names_are_not_read_as_columns(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    path = write(tmp_path / folder / "items.csv", "item_id,title\n1,A\n")
    assert read_text(path, ["title"])["title"].to_pylist() == ["A"]
    path = parquet(tmp_path / folder / "items.parquet", item_id=["1"], title=["A"])
    assert FileTable(path).columns == ("item_id", "title")
    assert read_text(path, ["title"])["title"].to_pylist() == ["A"]


@few
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_quoted_text_is_read_unchanged(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    quoted: Callable[[str], str] = lambda text: '"' + text.replace('"', '""') + '"'  # noqa: E731
    lines = [",".join(map(quoted, row)) for row in [("a", "b"), *rows]]
    path = write(tmp_path_factory.mktemp("csv") / "t.csv", "\n".join(lines) + "\n")
    table = read_text(path, ["b", "a"])
    read = zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True)
    assert [(a or "", b or "") for a, b in read] == rows


# --- one database a process --------------------------------------------------------------------


def test_a_file_is_read_anew_although_its_size_and_time_are_the_same(tmp_path: Path) -> None:
    path = parquet(tmp_path / "items.parquet", title=["A"])
    before = path.stat()
    assert read_text(path, ["title"])["title"].to_pylist() == ["A"]
    parquet(path, title=["B"])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert read_text(path, ["title"])["title"].to_pylist() == ["B"]


def test_a_connection_sees_nothing_of_another() -> None:
    with connect() as one, connect() as other:
        one.register("given", pa.table({"t": [1]}))
        one.execute("SET TimeZone = 'Asia/Tokyo'")
        other.register("given", pa.table({"t": [2]}))
        assert one.sql("SELECT t FROM given").fetchall() == [(1,)]
        assert other.sql("SELECT t FROM given").fetchall() == [(2,)]
    with connect() as after:
        assert after.sql("SHOW ALL TABLES").fetchall() == []
        assert after.sql("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]
        [cached] = after.sql("SELECT current_setting('enable_external_file_cache')").fetchall()
        assert cached == (False,)


def test_a_fork_and_a_process_whose_database_broke_get_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "items.parquet", title=["A"])
    assert read_text(path, ["title"])["title"].to_pylist() == ["A"]
    child = os.fork()
    if not child:
        try:
            os._exit(read_text(path, ["title"])["title"].to_pylist() != ["A"])
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    broken = duckdb.connect()
    broken.close()
    monkeypatch.setitem(tables._databases, os.getpid(), broken)
    assert read_text(path, ["title"])["title"].to_pylist() == ["A"]
