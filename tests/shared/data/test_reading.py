import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.catalogue import Catalogue, read_items
from shared.data.columns import Columns
from shared.data.histories import Histories
from shared.data.reading import histories_from_tables, read_histories, write_interactions
from shared.data.tables import MemoryTable, file_tables
from shared.errors import ConfigError, DataError

DATA = Path(__file__).parents[4] / "shared" / "data"
ITEMS = Catalogue(tuple("abcde"), tuple("ABCDE"), ((),) * 5, (None,) * 5)
few = settings(max_examples=25, deadline=None)
lists = st.lists(st.lists(st.integers(1, 5), max_size=6), max_size=6)


def as_lists(histories: Histories) -> dict[str, list[int]]:
    return {user: histories[row].tolist() for row, user in enumerate(histories.users)}


def csv(folder: Path, *rows: str, header: str = "user_id,item_id,timestamp") -> Path:
    path = folder / "interactions.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def parquet(folder: Path, **columns: object) -> Path:
    path = folder / "interactions.parquet"
    pq.write_table(pa.table(columns), path)
    return path


# --- order -------------------------------------------------------------------------------------


def test_events_are_ordered_by_time_ties_by_file_and_users_by_appearance(tmp_path: Path) -> None:
    path = csv(tmp_path, "y,c,30", "x,b,5", "y,b,4", "x,a,5", "y,a,4", "x,c,1")
    assert as_lists(read_histories(path, ITEMS)) == {"y": [2, 1, 3], "x": [3, 2, 1]}


def test_some_users_are_read_as_among_all(tmp_path: Path) -> None:
    path = csv(tmp_path, "1.0,c,3", "2,b,4", "1,a,5", "3,a,4", "2,c,1", "1,b,6", "3,zzz,1")
    whole = as_lists(read_histories(path, ITEMS, min_events=1))

    def read(*names: str) -> dict[str, list[int]]:
        tables = file_tables(path)
        return as_lists(
            histories_from_tables(
                tables, ITEMS, source="", min_events=1, users=frozenset(names).__contains__
            )
        )

    assert read("1", "3") == {user: whole[user] for user in ("1", "3")}
    assert read("nobody") == {}
    bad = csv(tmp_path, "1,c,3", "2,b,4", "2,a,never")
    with pytest.raises(DataError, match="row 3"):
        histories_from_tables(file_tables(bad), ITEMS, source="", users=lambda user: user == "2")
    nameless = csv(tmp_path, "1,c,3", "2,b,4", ",a,5")
    with pytest.raises(DataError, match=r"row 3.*empty"):
        histories_from_tables(file_tables(nameless), ITEMS, source="", users=lambda user: False)


def test_the_order_of_a_large_file_is_kept(tmp_path: Path) -> None:
    """Readers in several threads must not shuffle rows with equal times."""
    chance = random.Random(1)
    rows = [(f"u{chance.randrange(50)}", chance.choice("abcde")) for _ in range(300_000)]
    expected: dict[str, list[int]] = {}
    for user, item in rows:
        expected.setdefault(user, []).append(ITEMS.index[item])
    times = range(10**9, 10**9 + len(rows))
    path = csv(tmp_path, *(f"{u},{i},{t}" for (u, i), t in zip(rows, times, strict=True)))
    histories = read_histories(path, ITEMS)
    assert as_lists(histories) == expected
    assert list(histories.users) == list(expected)


@pytest.mark.parametrize(
    "times",
    [
        ["100", "20", "3"],
        ["2.5", "-1", "-1e3"],
        ["1700000000000000002", "1700000000000000001", "1700000000000000000"],
        ["2024-05-02", "2024-05-01T23:59:59.5", "2024-05-01 23:59:59"],
        ["2024-05-01T12:00:00Z", "2024-05-01T12:00:00+01:00", "2024-05-01T12:30+02"],
        ["2024-05-01T00:00", " 2024-04-30T23:00:00-0030 ", "1969-12-31"],
    ],
)
def test_times_may_be_numbers_or_iso_8601(tmp_path: Path, times: list[str]) -> None:
    path = csv(tmp_path, *(f"x,{item},{time}" for item, time in zip("abc", times, strict=True)))
    assert as_lists(read_histories(path, ITEMS)) == {"x": [3, 2, 1]}


@pytest.mark.parametrize(
    "times",
    [
        pa.array([9, 5, 1]),
        pa.array([9.5, 5.25, 1.0]),
        pa.array([9, 5, 1], pa.date32()),
        pa.array([9000, 5000, 1000], pa.timestamp("ns")),
        pa.array([9 * 10**6, 5 * 10**6, 1], pa.timestamp("us", tz="Asia/Kolkata")),
        pa.array(["2024-03-01", "2024-02-01", "2024-01-01"]),
    ],
)
def test_times_in_parquet_keep_their_types(tmp_path: Path, times: pa.Array) -> None:
    path = parquet(tmp_path, user_id=[1, 1, 1], item_id=["a", "b", "c"], timestamp=times)
    assert as_lists(read_histories(path, ITEMS)) == {"1": [3, 2, 1]}


@pytest.mark.parametrize(
    ("column", "texts", "expected"),
    [
        ("timestamp", ["-1", "1700000000"], [-1_000_000, 1_700_000_000_000_000]),
        ("timestamp", ["1.5", "1700000000.0000019"], [1_500_000, 1_700_000_000_000_001]),
        ("timestamp", ["1700000000000", "1700000000001.5"], [17 * 10**14, 17 * 10**14 + 1500]),
        ("timestamp", ["1700000000000001", "1700000000000002"], [17 * 10**14 + 1, 17 * 10**14 + 2]),
        ("timestamp", ["1700000000000001999", "1700000000000001999"], [17 * 10**14 + 1] * 2),
        ("timestamp", ["1970-01-01", "1970-01-01T01:00:00.000001999+01:00"], [0, 1]),
        ("position", ["1", "2"], None),
    ],
)  # fmt: skip
def test_times_are_kept_in_microseconds(
    tmp_path: Path, column: str, texts: list[str], expected: list[int] | None
) -> None:
    header = f"user_id,item_id,{column}"
    file = csv(
        tmp_path,
        *(f"u,{item},{text}" for item, text in zip("ab", texts, strict=True)),
        header=header,
    )
    read = read_histories(file, ITEMS)
    assert (None if read.times is None else read.times.tolist()) == expected
    for_an_answer = histories_from_tables(file_tables(file), ITEMS, source="events", strict=False)
    found = for_an_answer.times
    assert (None if found is None else found.tolist()) == expected


def test_timestamp_takes_precedence_over_position_by_default(tmp_path: Path) -> None:
    path = csv(tmp_path, "x,a,1,2", "x,b,2,1", header="user_id,item_id,timestamp,position")
    assert as_lists(read_histories(path, ITEMS)) == {"x": [1, 2]}
    assert as_lists(read_histories(path, ITEMS, Columns(time="position"))) == {"x": [2, 1]}


def test_columns_may_be_called_anything(tmp_path: Path) -> None:
    path = csv(tmp_path, "2,x,a", "1,x,b", header="when,who,what")
    columns = Columns(user="who", item="what", time="when")
    assert as_lists(read_histories(path, ITEMS, columns)) == {"x": [2, 1]}


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("user,item_id,timestamp", "user_id"),
        ("user_id,item,position", "item_id"),
        ("user_id,item_id,when", "timestamp"),
    ],
)
def test_a_missing_column_is_refused(tmp_path: Path, header: str, missing: str) -> None:
    path = csv(tmp_path, "x,a,1", header=header)
    found = f"is missing; the columns found are {header.replace(',', ', ')}"
    with pytest.raises(
        DataError, match=rf"{found}\. Rename columns: (user|item|when) to {missing}\."
    ) as caught:
        read_histories(path, ITEMS)
    assert caught.value.field == missing


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("i.csv", b"", "is empty"),
        ("i.csv", b"user_id,item_id,timestamp\n", "no rows"),
        ("i.csv", b"PAR1", "not what its name says"),
        ("i.csv", b"\x89PNG\r\n\x1a\n\0\xff", "not UTF-8"),
        ("i.parquet", b"user_id,item_id,timestamp\nx,a,1\n", "not what its name says"),
        ("i.parquet", b"PAR1", "damaged"),
        ("i.json", b"[]", "neither .csv, .csv.gz, .tsv, .tsv.gz nor .parquet"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_histories(tmp_path / name, ITEMS)


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_histories(tmp_path / "i.csv", ITEMS)
    with pytest.raises(DataError, match="not a file"):
        read_histories(tmp_path, ITEMS)


@pytest.mark.parametrize(
    ("bad", "field", "value"),
    [
        ("x,a,nan", "timestamp", "nan"),
        ("x,a,inf", "timestamp", "inf"),
        ("x,a,1e999", "timestamp", "1e999"),
        ("x,a,", "timestamp", None),
        ("x,a,yesterday", "timestamp", "yesterday"),
        ("x,a,2024-05-01", "timestamp", "2024-05-01"),
        (",a,3", "user_id", None),
        ('"",a,3', "user_id", None),
        (" ,a,3", "user_id", " "),
        ("x,,3", "item_id", None),
        ("x,a", None, None),
        ("x,a,3,4", None, None),
    ],
)
def test_a_bad_row_is_refused_by_number(
    tmp_path: Path, bad: str, field: str | None, value: str | None
) -> None:
    path = csv(tmp_path, "x,a,1", "x,b,2", bad, "x,c,4")
    with pytest.raises(DataError) as caught:
        read_histories(path, ITEMS)
    fault = caught.value
    assert (fault.file, fault.row, fault.field, fault.value) == (str(path), 3, field, value)
    assert fault.remedy


@pytest.mark.parametrize("bad", ["2024-13-01", "2024-02-30T00:00:00", "2024-1", "17", "infinity"])
def test_a_text_that_is_not_iso_8601_is_refused_among_iso_8601_texts(
    tmp_path: Path, bad: str
) -> None:
    path = csv(tmp_path, "x,a,2024-05-01", f"x,b,{bad}", "x,c,2024-05-03")
    with pytest.raises(DataError, match="not a time") as caught:
        read_histories(path, ITEMS)
    assert (caught.value.row, caught.value.value) == (2, bad)


@pytest.mark.parametrize("bad", ["1.5", "1e3", "2024-05-01", "nan", "99999999999999999999"])
def test_a_position_is_a_whole_number(tmp_path: Path, bad: str) -> None:
    path = csv(tmp_path, "x,a,0", f"x,b,{bad}", header="user_id,item_id,position")
    with pytest.raises(DataError, match="not a whole number") as caught:
        read_histories(path, ITEMS)
    assert (caught.value.row, caught.value.field, caught.value.value) == (2, "position", bad)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("timestamp", [1.0, float("nan"), 3.0]),
        ("timestamp", [1.0, float("inf"), 3.0]),
        ("timestamp", [1, None, 3]),
        ("user_id", [1.0, float("nan"), 1.0]),
        ("user_id", [1, None, 1]),
        ("item_id", ["a", None, "a"]),
        ("item_id", ["a", "", "a"]),
    ],
)
def test_missing_values_in_parquet_are_refused(
    tmp_path: Path, column: str, values: Sequence[object]
) -> None:
    columns: dict[str, object] = {
        "user_id": ["x"] * 3,
        "item_id": ["a", "b", "c"],
        "timestamp": [1, 2, 3],
    }
    with pytest.raises(DataError) as caught:
        read_histories(parquet(tmp_path, **columns | {column: values}), ITEMS)
    assert (caught.value.row, caught.value.field) == (2, column)


def test_nothing_in_the_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no item is in the catalogue"):
        read_histories(csv(tmp_path, "x,z,1", "x,1,2"), ITEMS)


def test_no_user_with_enough_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no user has 2 events"):
        read_histories(csv(tmp_path, "x,a,1", "y,a,1", "x,z,1"), ITEMS)


def test_an_empty_table_is_refused() -> None:
    none = pa.array([], pa.string())
    table = pa.table({"user_id": none, "item_id": none, "timestamp": none})
    with pytest.raises(DataError, match="no rows"):
        histories_from_tables([MemoryTable(table, "query")], ITEMS, source="query")


@pytest.mark.parametrize("limits", [{"max_length": 0}, {"min_events": 0}])
def test_limits_below_one_are_refused(tmp_path: Path, limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        read_histories(csv(tmp_path, "x,a,1", "x,b,2"), ITEMS, **limits)  # type: ignore[arg-type]


# --- what is dropped ---------------------------------------------------------------------------


def test_dropped_rows_and_users_are_counted(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        *("x,a,1", "x,b,2", "x,a,1.0", "x,a,1"),  # two copies; x has met a once, at 1
        *("x,a,3", "y,a,1", "y,z,2", "y,z,2"),  # z is unknown, and there twice
        *("w,z,1", "v,c,1", "v,d,1"),
    )
    histories = read_histories(path, ITEMS)
    assert as_lists(histories) == {"x": [1, 2, 1], "v": [3, 4]}
    dropped = {reason: count for reason, count in histories.dropped.items() if count}
    assert dropped == {"duplicate": 3, "unknown_item": 2, "short_history": 2}
    assert not histories.select([0]).dropped


def test_the_first_copy_is_the_one_that_stays(tmp_path: Path) -> None:
    path = csv(tmp_path, "x,a,1", "x,b,1", "x,a,1")
    assert as_lists(read_histories(path, ITEMS)) == {"x": [1, 2]}


def test_min_events_applies_after_dropping_and_max_length_keeps_the_last(tmp_path: Path) -> None:
    path = csv(tmp_path, "y,a,1", "x,a,1", "x,b,2", "x,c,3")
    histories = read_histories(path, ITEMS, min_events=1, max_length=2)
    assert as_lists(histories) == {"y": [1], "x": [2, 3]}
    histories = read_histories(path, ITEMS, min_events=3, max_length=2)
    assert as_lists(histories) == {"x": [2, 3]}
    assert histories.dropped["short_history"] == 1


def test_times_that_are_written_keep_their_unit(tmp_path: Path) -> None:
    """Days after 1970: of numbers, some would have the size of seconds, others of milliseconds."""
    days = [[0, 86_400_000_000, 2_000_000_000_000_000]]
    written = Histories.from_lists([[1, 2, 3]], ["a"], times=days)
    write_interactions(written, ITEMS, tmp_path / "timed.parquet", timed=True)
    read = read_histories(tmp_path / "timed.parquet", ITEMS)
    assert read.times is not None
    assert read.times.tolist() == days[0]


@settings(max_examples=10, deadline=None)
@given(lists.filter(any))
def test_written_interactions_read_back(
    tmp_path_factory: pytest.TempPathFactory, histories: list[list[int]]
) -> None:
    path = tmp_path_factory.mktemp("written") / "interactions.parquet"
    written = Histories.from_lists([h for h in histories if h])
    write_interactions(written, ITEMS, path)
    read = read_histories(path, ITEMS, min_events=1)
    assert as_lists(read) == as_lists(written)
    assert set(read.dropped.values()) == {0}
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert pq.read_schema(path).names == ["user_id", "item_id", "position"]


@pytest.mark.skipif(not DATA.exists(), reason="needs the shared data")
def test_movielens_1m_keeps_the_published_order() -> None:
    folder = DATA / "ml-1m"
    items = read_items(folder / "items.parquet")
    histories = read_histories(folder / "interactions.parquet", items)
    assert (len(histories), histories.events) == (6040, 999_611)
    table = pq.read_table(folder / "interactions.parquet")
    rows = np.flatnonzero(table["user_id"].to_numpy() == int(histories.users[7]))
    by_position = rows[np.argsort(table["position"].to_numpy()[rows], kind="stable")]
    ids = [str(item) for item in table["item_id"].to_numpy()[by_position]]
    assert [items.item_ids[number - 1] for number in histories[7]] == ids
