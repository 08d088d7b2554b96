"""Limits on how fast one user's events count, against a rule that is written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.event_limits import LIMITS, NO_LIMITS, REASONS, EventLimits
from shared.data.reading import histories_from_tables
from shared.data.tables import file_tables
from tests.conftest import some_catalogue

SECOND = 10**6
FEW = EventLimits(per_minute=3, per_day=6, repeat_seconds=40)

events = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 200)), min_size=1, max_size=40
)


def one_by_one(rows: list[tuple[int, int, int]], limits: EventLimits) -> list[str]:
    """What becomes of each event, by the table at the top of the module."""
    fate = [""] * len(rows)
    for n, (user, item, time) in enumerate(rows):
        before = [t for u, i, t in rows[:n] if (u, i) == (user, item)]
        if before and time - before[-1] < limits.repeat_seconds:
            fate[n] = "repeat"
    for reason, most, seconds in (
        ("over_minute", limits.per_minute, 60),
        ("over_day", limits.per_day, 86_400),
    ):
        left = [n for n, why in enumerate(fate) if not why]
        for place, n in enumerate(left):
            user, _, time = rows[n]
            own = [m for m in left[: place + 1] if rows[m][0] == user]
            fate[n] = reason if sum(time - rows[m][2] < seconds for m in own) > most else ""
    return fate


@settings(max_examples=60, deadline=None)
@given(events)
def test_each_event_has_the_fate_that_the_table_says(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    user, item, time = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    found = FEW.dropped(user, item, time * SECOND)
    fate = [next((r for r in REASONS if found[r][n]), "") for n in range(len(rows))]
    assert fate == one_by_one(rows, FEW)
    alone = user == 1  # whoever else is there
    for reason, marks in FEW.dropped(user[alone], item[alone], time[alone] * SECOND).items():
        assert (marks == found[reason][alone]).all()
    assert not any(marks.any() for marks in NO_LIMITS.dropped(user, item, time).values())


def test_without_times_only_the_same_item_in_a_row_is_a_repeat() -> None:
    user, item = np.array([1] * 9 + [2]), np.array([1, 1, 2, 1, 2, 2, 3, 3, 3, 3])
    marks = EventLimits(per_minute=1, per_day=1).dropped(user, item, None)
    assert np.flatnonzero(marks["repeat"]).tolist() == [1, 5, 7, 8]
    assert not marks["over_minute"].any()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("form", ["seconds", "milliseconds", "iso"])
def test_a_flood_is_dropped_counted_and_named_in_every_form_of_times(
    tmp_path: Path, strict: bool, form: str
) -> None:
    def text(second: int) -> str:
        start = 1_700_000_000
        return {
            "seconds": f"{start + second}",
            "milliseconds": f"{(start + second) * 1000}",
            "iso": f"2023-11-14T22:{second // 60:02}:{second % 60:02}",
        }[form]

    flood = [f"spam,i{1 + n % 5},{text(n // 100)}" for n in range(3000)]
    honest = [f"honest,i{n},{text(n)}" for n in range(1, 6)]
    file = tmp_path / "events.csv"
    file.write_text("\n".join(["user_id,item_id,timestamp", *flood, *honest]) + "\n")
    read = histories_from_tables(
        file_tables(file), some_catalogue(), source="events", strict=strict, limits=LIMITS
    )
    assert [history.tolist() for history in read] == [[1, 2, 3, 4, 5]] * 2
    assert read.dropped["repeat"] + read.dropped["duplicate"] == 2995
    assert read.dropped["limited_user"] == 1
    assert "spam" in str(read.summary.describe())
    assert "spam" not in str(read.summary.without_private_ids())
    slow = EventLimits(per_minute=2, per_day=4, repeat_seconds=0)
    again = histories_from_tables(
        file_tables(file), some_catalogue(), source="events", strict=strict, limits=slow
    )
    assert again.lengths.tolist() == [2, 2]
    assert again.dropped["limited_user"] == 2


def test_the_defaults_drop_nothing_of_movielens() -> None:
    from simulations.datasets.load import load  # noqa: PLC0415 the lab's reading

    dropped = load().histories.dropped
    assert dropped["duplicate"] == 0
    assert [dropped[reason] for reason in (*REASONS, "limited_user")] == [0, 0, 0, 0]
