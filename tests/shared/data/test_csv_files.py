"""CSV files as they come: read, or refused with the row and what to change."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.data.catalogue import read_items
from shared.data.csv_files import LONGEST_CELL
from shared.data.tables import FileTable, file_tables, read_text
from shared.errors import DataError

BODY = b"a,b\n1,x\n2,y\n"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def rows(path: Path) -> list[tuple[str | None, ...]]:
    table = FileTable(path)
    columns = read_text(path, table.columns).to_pydict().values()
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("a;b;c", "1;2,5;x"),
        ("a\tb\tc", "1\t2,5\tx"),
        ("a|b|c", "1|2,5|x"),
        ('a,"b;;;",c', '1,"2,5",x'),
        ("\ufeffa,b,c\r", '1,"2,5",x\r'),
        (" a , b,c ", '1,"2,5",x'),
        ('\ufeff\ufeffa\u200b,"b",c', '1,"2,5",x'),
    ],
)
def test_the_separator_is_the_one_of_the_header(tmp_path: Path, header: str, row: str) -> None:
    path = write(tmp_path / "t.csv", f"{header}\n{row}\n".encode())
    assert rows(path) == [("1", "2,5", "x")]
    assert [name[0] for name in FileTable(path).columns] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["t.csv.gz", "T.CSV.GZ"])
@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(BODY, mtime=0),
        gzip.compress(BODY, mtime=0) + bytes(1000),
        gzip.compress(b"a,b\n1,x\n", mtime=0) + gzip.compress(b"2,y\n", mtime=0),
        gzip.compress(b"a,b\n1,x\n", mtime=0) + gzip.compress(b"2,y\n", mtime=0) + bytes(3),
    ],
    ids=["one member", "padding", "two members", "two members, padding"],
)
def test_gzip_with_members_and_padding_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    assert rows(write(tmp_path / name, content)) == [("1", "x"), ("2", "y")]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("change", ["checksum", "length", "cut", "text behind", "middle"])
def test_damaged_gzip_is_refused(tmp_path: Path, change: str) -> None:
    body = gzip.compress(b"a,b\n" + b"".join(b"%d,x\n" % n for n in range(5000)))
    crc = zlib.crc32(b"other").to_bytes(4, "little")
    content = {
        "checksum": body[:-8] + crc + body[-4:],
        "length": body[:-4] + b"\1\1\1\1",
        "cut": body[:-20],
        "text behind": body + b"\0more",
        "middle": body[:200] + bytes(20) + body[220:],
    }[change]
    with pytest.raises(DataError, match="damaged"):
        rows(write(tmp_path / "t.csv.gz", content))


@pytest.mark.parametrize(
    ("content", "row", "problem"),
    [
        (b'a,b\n1,x\n2,"y\n3,z\n', 2, "a quote that opens in this row is not closed"),
        (b'a,b\n1,x\n2,"y\n3,"z"\n', 2, "a quote that opens in this row is not closed"),
        (b'a,b\n1,"5\\" disc"\n', 1, "escaped by a backslash"),
        (b'a,b\n1,"x" y\n', 1, "other text follows where it is closed"),
        (b'a,b\n1,x\n2,"y,5\n3,z,5"\n,,7\n', 3, "3 fields where the header has 2"),
        (b"a;b\n1;2;3\n", 1, "3 fields where the header has 2"),
        (
            "a,b\n1,x\n2,Café\n".encode("cp1252"),
            2,
            "probably Windows-1252.*'Caf\\\\xe9' reads 'Café'",
        ),
        ("a,b\n1,é\n2,".encode() + b"caf\xc3\n3,z\n", 2, "not UTF-8 text throughout"),
        (b"a,b\n1,\x81\n", 1, "not UTF-8 text throughout"),
        ("a,é\n1,x\n".encode("cp1252"), None, "in the header, .*Windows-1252"),
        ("a,b\n1,x\n".encode("utf-16"), None, "UTF-16"),
        ("a,b\n1,x\n".encode("utf-16-le"), None, "UTF-16"),
        (b"sep=;\na;b\n1;2\n", None, "only Excel reads"),
        (b"PK\x03\x04....", None, "Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1....", None, "Excel workbook"),
        ("a,b\n1,x\n".encode("utf-32"), None, "UTF-32"),
        (gzip.compress(b"a,b\n1,x\n", mtime=0), None, "compressed by gzip"),
        (b"\n\na,b\n1,x\n", None, "the first line is blank"),
        (b"# exported\na,b\n1,x\n", None, "the first line is a comment"),
        (b'{"a": 1, "b": 2}\n', None, "the first line is JSON"),
        (b"<!DOCTYPE html>\n", None, "the first line is HTML"),
        (b"'a','b'\n'1','x'\n", None, "the first line has single quotes"),
        (b'"a", "b"\n"1", "x"\n', None, "blanks stand before quotes"),
        (b"a,b\n1,x\r\n2,y\n", 1, "line endings are of several kinds"),
        (b"a,b\n1,x\n(1 row)\n", 2, "1 fields where the header has 2.*a line or a count"),
        (b"a,b\n1,2,x\n", 1, "3 fields where the header has 2.*write.table"),
    ],
)
def test_faults_are_named_with_their_row(
    tmp_path: Path, content: bytes, row: int | None, problem: str
) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        rows(write(tmp_path / "t.csv", content))
    assert caught.value.row == row
    assert caught.value.remedy.endswith(".")


def test_a_file_that_is_compressed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="compressed twice"):
        rows(write(tmp_path / "t.csv.gz", gzip.compress(gzip.compress(BODY, mtime=0))))


def test_long_cells_are_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for size, fits in ((3_000_000, True), (15_000_000, True), (2 * LONGEST_CELL, False)):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("a", "b"), ("1", "x" * size), ("2", "y")])
        if fits:
            assert [len(text or "") for _, text in rows(path)] == [size, 1]
        else:
            with pytest.raises(DataError, match=r"row 1: the row has a cell of 33,554,432"):
                rows(path)


def test_a_folder_of_parts_is_read_in_order_of_name(tmp_path: Path) -> None:
    """As Spark writes it, with marks of its own beside."""
    folder = tmp_path / "items.parquet"
    (folder / "day=2").mkdir(parents=True)
    for name, item in (("part-00000-x.snappy.parquet", "1"), ("day=2/part-0.parquet", "2")):
        pq.write_table(pa.table({"item_id": [item], "title": [item]}), folder / name)
    for name in ("_SUCCESS", ".part-00000.parquet.crc", "_metadata.parquet"):
        (folder / name).write_bytes(b"")
    assert [table.path.name for table in file_tables(folder)] == [
        "part-0.parquet",
        "part-00000-x.snappy.parquet",
    ]
    assert read_items(folder).item_ids == ("2", "1")


def test_an_empty_part_is_passed_over_where_a_mark_says_that_all_are_there(tmp_path: Path) -> None:
    (tmp_path / "part-0.csv").write_bytes(BODY)
    (tmp_path / "part-1.csv").touch()
    assert len(file_tables(tmp_path)) == 2  # an upload that broke off looks the same
    (tmp_path / "_SUCCESS").touch()
    assert [table.path.name for table in file_tables(tmp_path)] == ["part-0.csv"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("_delta_log/00000000000000000000.json", "Delta Lake"),
        ("metadata/00001-ab.metadata.json", "Apache Iceberg"),
        (".hoodie/hoodie.properties", "Apache Hudi"),
    ],
)
def test_a_table_with_old_versions_in_its_folder_is_refused(
    tmp_path: Path, file: str, name: str
) -> None:
    """Its Parquet files hold rows that were deleted since."""
    pq.write_table(pa.table({"item_id": ["1"]}), tmp_path / "part-0.parquet")
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).touch()
    with pytest.raises(DataError, match=f"a table of {name}: its files hold deleted") as caught:
        file_tables(tmp_path)
    assert "Export the current version" in caught.value.remedy


def test_a_bad_year_is_counted_and_left_empty(tmp_path: Path) -> None:
    text = "item_id,title,year\n1,A,1999\n2,B,unkonwn\n3,C,\n4,D,NULL\n5,E,soon\n6,F,2001.0\n"
    items = read_items(write(tmp_path / "items.csv", text.encode()))
    assert items.years == (1999, None, None, None, None, 2001)
    [ignored] = items.ignored
    assert (ignored.count, ignored.row, ignored.value) == (2, 2, "unkonwn")
    assert str(ignored) == (
        "the item column 'year': 2 values are no whole number and left empty, such as 'unkonwn' "
        "in row 2"
    )
