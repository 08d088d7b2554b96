"""Times are read exactly or refused, never guessed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.data.catalogue import Catalogue
from shared.data.reading import read_histories
from shared.errors import DataError

ITEMS = Catalogue(tuple("abcde"), tuple("ABCDE"), ((),) * 5, (None,) * 5)
HEADER = "user_id,item_id,timestamp"
BASE = 1_700_000_000


def order(folder: Path, *times: str, user: str = "x") -> list[int]:
    """The items a, b, c... in the order of these times."""
    rows = [f'{user},{item},"{time}"' for item, time in zip("abcde", times, strict=False)]
    file = folder / "events.csv"
    file.write_text("\n".join([HEADER, *rows]), encoding="utf-8")
    return read_histories(file, ITEMS)[0].tolist()


@pytest.mark.parametrize(
    "times",
    [
        ["2023-11-14 22:13:20.5 UTC", "2023-11-14 22:13:20 UTC", "2023-11-14 22:13:19 GMT"],
        ["2023-11-14 22:13:20 -0300", "2023-11-14 22:13:20 +00", "2023-11-14 22:13:20 +01:00"],
        ["2023-11-14T22:13:20.001Z", "2023-11-14T22:13:20.000+00:00", "2023-11-14t22:13:19.9z"],
        ["2023-11-14 22:13:20,5", "2023-11-14 22:13:20,25", "2023-11-14 22:13:20"],
        ["2023-11-14T22:13:20+01:00[Europe/Paris]", "2023-11-14T21:13:19Z", "2023-11-14"],
        ["2023-11-14 22:13:20.000000003", "2023-11-14 22:13:20.000000002", "2023-11-14 22:13:20"],
        [f"{BASE}.3", f"{BASE}.25", str(BASE)],
        ["1.7000000003e9", "1.7000000002e9", "1.7e+09"],
        [f"{BASE}003", f"{BASE}002", f"{BASE}001"],
        [f"{BASE}000003", f"{BASE}000002", f"{BASE}000001"],
        [f"{BASE}000000003", f"{BASE}000000002", f"{BASE}000000001"],
        ["\u00a02023-11-14\u00a0", "2023-11-13\t", " 2023-11-12"],
        ["2023/11/14 22:13:20", "2023/11/14 9:13", "2023-9-1"],
        ["2023-11-14 22:13:20 +0000 UTC", "2023-11-14T22:13:19Z[UTC]", "20231114T221318Z"],
        ["2023-11-14 22:13:20\u221203:00", "2023-11-14T22:13Z", "2023-11-14"],
    ],
)
def test_forms_that_are_read(tmp_path: Path, times: list[str]) -> None:
    assert order(tmp_path, *times) == [3, 2, 1]


@pytest.mark.parametrize(
    ("bad", "problem", "remedy"),
    [
        ("11/14/2023 22:13", "day and month could be exchanged", "the year first"),
        ("14.11.2023", "day and month could be exchanged", "the year first"),
        ("2023-11-14 22:13:20 CET", "names a time zone", "in UTC"),
        ("2023-11-14 22:13:20 Europe/Paris", "names a time zone", "in UTC"),
        (r"\N", "the time is missing", "Leave the row out"),
        ("", "the time is missing", "Leave the row out"),
        ("1.7e18", "a rounded number", "as a whole number"),
        ("1700000000000000000.0", "a rounded number", "as a whole number"),
        ("1.7E+12", "a rounded number", "as a whole number"),
        ("Tue, 14 Nov 2023 22:13:20 GMT", "its month is a word", "the same way"),
        ("14-NOV-23 10.13.20 PM", "its month is a word", "the same way"),
        ("2023-11-14 10:13:20 PM", "its clock has 12 hours", "the same way"),
        ("22:13:20", "it has no date", "the same way"),
        ("0000-00-00 00:00:00", "the time is missing", "Leave the row out"),
        ("infinity", "the time is missing", "Leave the row out"),
        ("timestamp", "the row repeats the header", "Delete the row"),
        ("2023-11-14 25:00:00", "not a time", "the same way"),
    ],
)
def test_forms_that_are_refused(tmp_path: Path, bad: str, problem: str, remedy: str) -> None:
    # All rows are of the refused form, so that it is the rarer one in no sense.
    with pytest.raises(DataError, match=problem) as caught:
        order(tmp_path, *([bad] * 3))
    assert caught.value.row == 1
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("digits", [3, 6, 9])
def test_two_units_in_one_source_are_refused_by_row(tmp_path: Path, digits: int) -> None:
    other = str(BASE) + "0" * digits
    unit = {3: "milliseconds", 6: "microseconds", 9: "nanoseconds"}[digits]
    with pytest.raises(DataError, match=f"size of {unit}, where most rows .* seconds") as caught:
        order(tmp_path, str(BASE), str(BASE + 1), other)
    assert (caught.value.row, caught.value.value) == (3, other)


def test_positions_may_be_of_any_size(tmp_path: Path) -> None:
    file = tmp_path / "i.csv"
    file.write_text("user_id,item_id,position\nx,a,100000000000000000\nx,b,2.0\n")
    assert read_histories(file, ITEMS)[0].tolist() == [2, 1]


@pytest.mark.parametrize("kind", ["ns", "us", "ms", "s"])
def test_parquet_timestamps_keep_their_precision(tmp_path: Path, kind: str) -> None:
    times = pa.array([1_700_000_003, 1_700_000_002, 1_700_000_001], pa.timestamp(kind))
    columns = {"user_id": ["x"] * 3, "item_id": ["a", "b", "c"], "timestamp": times}
    pq.write_table(pa.table(columns), tmp_path / "i.parquet")
    assert read_histories(tmp_path / "i.parquet", ITEMS)[0].tolist() == [3, 2, 1]


@pytest.mark.parametrize("other", ["1.5", "1700000000123.5", "1700000000000000000"])
def test_nobody_changes_the_order_of_another_users_events(tmp_path: Path, other: str) -> None:
    """One fractional time must not make all times floats: ties would reorder events."""
    rows = [
        f"bob,{item},{1_700_000_000_000_000_000 + 10 * (9 - n)}" for n, item in enumerate("abcd")
    ]
    file = tmp_path / "i.csv"
    file.write_text("\n".join([HEADER, *rows]))
    alone = read_histories(file, ITEMS)[0].tolist()
    file.write_text("\n".join([HEADER, *rows, f"eve,a,{other}", "eve,b,1700000000000000001"]))
    if len(other) < 19:
        with pytest.raises(DataError, match="has the size of") as caught:
            read_histories(file, ITEMS)
        assert caught.value.row == 5
    else:
        assert read_histories(file, ITEMS)[0].tolist() == alone == [4, 3, 2, 1]


def test_ties_are_counted_and_doubted(tmp_path: Path) -> None:
    rows = [
        f"{user},{item},{time}" for user in "xyz" for item, time in zip("abcd", "1123", strict=True)
    ]
    file = tmp_path / "i.csv"
    file.write_text("\n".join([HEADER, *rows]))
    summary = read_histories(file, ITEMS).summary
    assert (summary.events, summary.ties) == (12, 6)
    assert "50.0% of the events share their time" in summary.tie_warning()
    assert "order is file order" in summary.tie_warning()
    file.write_text("\n".join([HEADER, *(f"x,{item},{n}" for n, item in enumerate("abcde"))]))
    assert not read_histories(file, ITEMS).summary.warnings()


def test_a_user_with_many_of_all_events_is_doubted(tmp_path: Path) -> None:
    rows = [f"u{user},{item},{n}" for user in range(40) for n, item in enumerate("ab")]
    rows += [f"-1,a,{n}" for n in range(40)]
    file = tmp_path / "i.csv"
    file.write_text("\n".join([HEADER, *rows]))
    [warning] = read_histories(file, ITEMS).summary.warnings()
    assert "the user '-1' has 33.3% of all events" in warning
