"""One person is one user: every spelling of an id has one canonical form, or is refused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data.catalogue import Catalogue, read_items
from shared.data.columns import Columns
from shared.data.ids import MISSING, canonical_id, find_near_ids, inexact_id
from shared.data.reading import histories_from_tables, read_histories
from shared.data.tables import FileTable
from shared.errors import DataError

ITEMS = Catalogue(tuple("abcde"), tuple("ABCDE"), ((),) * 5, (None,) * 5)
SPELLINGS = [
    (
        "1000",
        ["1000.0", "1000.", "1000 ", " 1000", "1000\u00a0", "1000\t", "\ufeff1000", "10\u200b00"],
    ),
    ("Zo\u00eb", ["Zoe\u0308", "Zoe\u0308  "]),
    ("Ann Lee", ["Ann\u00a0Lee", "Ann\u3000Lee"]),
    ("0", ["-0", "0.0", "-0.0", "+0.0"]),
    ("12345678", ["1.2345678E7", "+12345678.0", "12345678.0"]),  # as Java writes floats
    ("00000000-0000-0000-0000-0000000000ab", ["{00000000-0000-0000-0000-0000000000AB}"]),
]
DIFFERENT = [
    "7",
    "007",
    "7.5",
    "7.50",
    "a",
    "A",
    "1.0.0",
    "1,0",
    "x 1",
    "x  1",
    "1E7",
    "1.25E1",
    "+7",
]


@pytest.mark.parametrize(("form", "spellings"), SPELLINGS)
def test_spellings_of_one_id_have_one_form(form: str, spellings: Sequence[str]) -> None:
    assert {canonical_id(text) for text in [form, *spellings]} == {form}


def test_different_ids_stay_different() -> None:
    assert [canonical_id(text) for text in DIFFERENT] == DIFFERENT


@given(st.text(max_size=12))
def test_a_canonical_form_is_its_own(text: str) -> None:
    form = canonical_id(text)
    assert canonical_id(form) == form
    assert unicodedata.is_normalized("NFC", form)


@pytest.mark.parametrize(
    ("text", "inexact"),
    [
        ("1.23457E+11", True),
        ("1e+16", True),
        ("9007199254740992.0", True),
        ("9007199254740991.0", False),
        ("9007199254740993", False),
        ("12e5", False),
        ("1.2345678E7", False),
        ("1.2345678E16", True),
    ],
)
def test_numbers_that_lost_digits_are_recognised(text: str, inexact: bool) -> None:
    assert inexact_id(text) is inexact


def read(folder: Path, *users: str, **options: tuple[str, ...]) -> tuple[str, ...]:
    """The users of a CSV file in which each spelling has two events."""
    file = folder / "events.csv"
    rows = [f'"{user}",{item},{n}' for n, user in enumerate(users) for item in "ab"]
    file.write_text("\n".join(["user_id,item_id,timestamp", *rows]), encoding="utf-8")
    return read_histories(file, ITEMS, Columns(**options)).users  # type: ignore[arg-type]


@pytest.mark.parametrize(("form", "spellings"), SPELLINGS)
def test_one_person_is_one_user_in_a_file(
    tmp_path: Path, form: str, spellings: Sequence[str]
) -> None:
    assert read(tmp_path, *spellings, form) == (form,)


PARTS = [
    pa.array([1000, 1001], pa.int64()),
    pa.array([1000, 1001], pa.uint16()),
    pa.array([1000.0, 1001.0], pa.float64()),
    pa.array([1000.0, 1001.0], pa.float32()),
    pa.array([Decimal("1000.00"), Decimal("1001.00")], pa.decimal128(10, 2)),
    pa.array(["1000", "1001"]),
    pa.array(["1000.0 ", "1001\u00a0"]),
    pa.array(["1000", "1001"]).dictionary_encode(),
]


def test_parts_of_every_type_are_the_same_users(tmp_path: Path) -> None:
    tables = []
    for number, users in enumerate(PARTS):
        path = tmp_path / f"{number}.parquet"
        columns = {"user_id": users, "item_id": ["a", "b"], "timestamp": [number, number]}
        pq.write_table(pa.table(columns), path)
        tables.append(FileTable(path))
    histories = histories_from_tables(tables, ITEMS, source="parts")
    assert histories.users == ("1000", "1001")
    assert histories.lengths.tolist() == [len(PARTS)] * 2
    assert histories.summary.rewritten == {"user": 2, "item": 0}
    assert histories.summary.merged == {"user": 2, "item": 0}
    assert histories.summary.examples["user"][0] == "'1000.0 ' is read as '1000'"


@pytest.mark.parametrize(
    ("users", "problem"),
    [
        (pa.array([2.0**53, 1.0]), "rounded number"),
        (pa.array([1e300, 1.0]), "rounded number"),
        (pa.array([float("inf"), 1.0]), "rounded number"),
        (pa.array([2.0**24, 1.0], pa.float32()), "rounded number"),
        (pa.array([2.0**11, 1.0], pa.float16()), "rounded number"),
        (pa.array([None, 1.0]), "the id is empty"),
        (pa.array([float("nan"), 1.0]), "the id is empty"),
        (pa.array([[1], [2]]), r"holds BIGINT\[\], not plain values"),
        (pa.array([["x"], ["y"]]), r"holds VARCHAR\[\], not plain values"),
        (pa.array([{"a": 1}, {"a": 2}]), "holds STRUCT.*, not plain values"),
        (pa.array([b"x", b"y"]), "holds BLOB, not plain values"),
    ],
)
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_values_that_are_no_ids_are_refused_by_name(
    tmp_path: Path, column: str, users: pa.Array, problem: str
) -> None:
    columns = {"user_id": ["x", "x"], "item_id": ["a", "b"], "timestamp": [1, 2], column: users}
    pq.write_table(pa.table(columns), tmp_path / "i.parquet")
    with pytest.raises(DataError, match=problem) as caught:
        read_histories(tmp_path / "i.parquet", ITEMS)
    assert caught.value.field == column
    assert re.search("Export|Give every row", caught.value.remedy)


def test_whole_numbers_of_any_size_stay_exact(tmp_path: Path) -> None:
    users = ["9007199254740992", "9007199254740993", "12345678901234567890123"]
    assert read(tmp_path, *users) == tuple(users)


@pytest.mark.parametrize("text", [*MISSING, "null", "nan", "none", "#n/a", " NULL "])
def test_spellings_of_a_missing_value_are_refused_like_an_empty_id(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(DataError, match="the id is a spelling of a missing value") as caught:
        read(tmp_path, "x", text)
    assert (caught.value.row, caught.value.value) == (3, text)
    assert "--set lab.missing=" in caught.value.remedy
    assert read(tmp_path, "x", text, missing=()) == ("x", canonical_id(text))


def test_other_spellings_of_a_missing_value_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="spelling of a missing value"):
        read(tmp_path, "x", "-1", missing=("-1", "0"))
    assert read(tmp_path, "x", "NULL", missing=("-1",)) == ("x", "NULL")


def test_an_item_of_the_catalogue_may_be_called_like_a_missing_value(tmp_path: Path) -> None:
    items = Catalogue(("NA", "b"), ("", ""), ((), ()), (None, None))
    file = tmp_path / "i.csv"
    file.write_text("user_id,item_id,timestamp\nx,NA,1\nx,b,2\n")
    assert read_histories(file, items).items.tolist() == [1, 2]
    with pytest.raises(DataError, match="spelling of a missing value"):
        read_histories(file, ITEMS)


def test_uuids_of_parquet_and_of_text_are_the_same(tmp_path: Path) -> None:
    users = [UUID(int=10**30 + 171)] * 2
    assert read(tmp_path, str(users[0]).upper(), str(users[0])) == (str(users[0]),)


def test_ids_that_match_but_for_zeros_are_hinted_at(tmp_path: Path) -> None:
    assert dict(find_near_ids(["007", "x", "0"], ["7", "X", "00"])) == {
        "007": "7",
        "x": "X",
        "0": "00",
    }
    file = tmp_path / "i.csv"
    items = Catalogue(("1", "2"), ("", ""), ((), ()), (None, None))
    file.write_text("user_id,item_id,timestamp\n7,1,1\n7,2,2\n007,1,1\n007,2,2\n7,01,3\n")
    hints = read_histories(file, items).summary.hints
    assert len(hints) == 2
    assert "1 unknown item ids equal one of the catalogue" in hints[0]
    assert "'007'" in hints[1] or "'7'" in hints[1]


def test_a_catalogue_has_canonical_ids_and_refuses_two_spellings(tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("item_id,title\n1.0,A\n2 ,B\n")
    assert read_items(file).item_ids == ("1", "2")
    file.write_text("item_id,title\n1.0,A\n1,B\n")
    with pytest.raises(DataError, match="row 1 has the same item id") as caught:
        read_items(file)
    assert caught.value.row == 2


def test_a_stored_catalogue_keeps_its_ids_and_still_matches(tmp_path: Path) -> None:
    """An earlier version did not bring ids to the canonical form."""
    old = Catalogue(("1.0", "e\u0301"), ("A", "B"), ((), ()), (None, None))
    old.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert loaded.fingerprint == old.fingerprint
    assert loaded.find(["1", "\u00e9", "x"]).tolist() == [1, 2, 0]
