from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.ids import Batch
from shared.data.interactions import Interactions, collect
from shared.errors import DataError

Row = tuple[str | None, str | None, str | None]
few = settings(max_examples=30, deadline=None)
rows = st.lists(
    st.tuples(st.sampled_from("xyz"), st.sampled_from("ab"), st.sampled_from("123")), max_size=30
)


def batches(rows: list[Row], size: int, time: str = "timestamp") -> Iterator[Batch]:
    """The rows in pieces of some size, an empty one at the end."""
    names = ("user_id", "item_id", time)
    for start in range(0, len(rows) + size, size):
        part = rows[start : start + size]
        columns = [pa.array([row[n] for row in part], pa.string()) for n in range(3)]
        yield Batch(pa.RecordBatch.from_arrays(columns, names), "here", start + 1)


@few
@given(rows, st.integers(1, 7))
def test_batches_together_hold_all_rows(some: list[Row], size: int) -> None:
    events = collect(batches(some, size))
    read = zip(
        [events.users[n] for n in events.user],
        [events.items[n] for n in events.item],
        [str(n) for n in events.time],
        strict=True,
    )
    assert list(read) == some
    assert list(events.users) == list(dict.fromkeys(user for user, _, _ in some))


@few
@given(rows)
def test_repeated_rows_are_those_found_with_a_set(some: list[Row]) -> None:
    events = collect(batches(some, 4))
    seen: set[Row] = set()
    expected = [row in seen or bool(seen.add(row)) for row in some]  # type: ignore[func-returns-value]
    assert events.repeated(events.order()).tolist() == expected


@few
@given(rows)
def test_order_is_by_user_then_time_and_stable(some: list[Row]) -> None:
    events = collect(batches(some, 4))
    expected = sorted(range(len(some)), key=lambda n: (events.user[n], events.time[n]))
    assert events.order().tolist() == expected


def test_whole_numbers_stay_whole() -> None:
    whole: list[Row] = [("x", "a", "1700000000000000001"), ("x", "a", "1700000000000000002")]
    events = collect(batches(whole, 1))
    assert events.time.dtype == np.int64
    assert events.time.tolist() == [1700000000000000001, 1700000000000000002]


def test_a_fraction_leaves_the_other_times_exact() -> None:
    some: list[Row] = [("x", "a", f"900719925474099{n}") for n in (3, 2, 1)]
    events = collect(batches([*some, ("y", "a", "1700000000000000.5")], 1))
    assert events.time.tolist() == [9007199254740993, 9007199254740992, 9007199254740991, 1.7e15]
    assert events.fraction is not None
    assert events.fraction.tolist() == [0, 0, 0, 5 * 10**17]
    assert events.order().tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize(
    ("times", "time", "row"),
    [
        (["1", "2", "2024-05-01", "4"], "timestamp", 3),
        (["2024-05-01", "2", "2024-05-01", "2024-05-01"], "timestamp", 2),
        (["1", "2024-05-01", "x", "2024-05-01"], "timestamp", 1),
        (["1", "2024-05-01"], "timestamp", 2),
        (["1", "2", None, "4"], "timestamp", 3),
        (["1", "1.5", "2", "x"], "position", 2),
    ],
)
def test_the_error_names_a_row_of_the_rarer_kind_of_time_for_any_batch_size(
    times: list[str | None], time: str, row: int, size: int
) -> None:
    some: list[Row] = [("x", "a", text) for text in times]
    with pytest.raises(DataError) as caught:
        collect(batches(some, size, time))
    fault = caught.value
    assert (fault.file, fault.row, fault.field, fault.value) == ("here", row, time, times[row - 1])


def test_no_batches_give_empty_interactions() -> None:
    events = collect([])
    assert isinstance(events, Interactions)
    assert events.repeated(events.order()).tolist() == []
