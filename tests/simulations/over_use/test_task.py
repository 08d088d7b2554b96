"""Tasks from a data set: who is in, whose label is whose, and no look ahead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigError, DataError
from shared.over_use.sessions import DAY, session_features
from simulations.over_use.task import DATA_TASK, data_task

START = 1_700_000_000


def write(folder: Path, over_use: list[str] | None = None, *, positions: bool = False) -> Path:
    """Thirty users rate five films at once; every second comes back on the two days after."""
    rows = ["user_id,item_id,timestamp"]
    for user in range(30):
        starts = [0, DAY, 2 * DAY] if user % 2 else [0]
        for start in starts:
            rows += [f"u{user},i{k},{int(start) + START + 60 * k}" for k in range(5)]
    rows += [f"last,i{k},{START + int(40 * DAY) + 60 * k}" for k in range(3)]
    if positions:
        rows = ["user_id,item_id,position"] + [f"u{n // 5},i{n % 5},{n % 5}" for n in range(50)]
    (folder / "interactions.csv").write_text("\n".join(rows))
    (folder / "items.csv").write_text(
        "item_id,title\n" + "\n".join(f"i{k},film {k}" for k in range(5))
    )
    if over_use is not None:
        users = [f"u{n},{value}" for n, value in enumerate(over_use)]
        (folder / "users.csv").write_text("user_id,over_use\n" + "\n".join(users))
    return folder


def test_labels_are_of_those_who_come_back_and_features_of_what_was_before(tmp_path: Path) -> None:
    task = data_task(write(tmp_path))
    assert len(task) == 30
    assert task.left_out == {"fewer than 1 sessions": 0, "label not known": 1}
    assert task.labels.tolist() == [bool(user % 2) for user in range(30)]
    assert len(np.unique(task.sessions.features, axis=0)) == 1  # all did the same up to then
    past = [own[own <= at] for own, at in zip(task.times, task.now, strict=True)]
    again = session_features(past, task.now, task.rule)
    np.testing.assert_array_equal(again.features, task.sessions.features)
    with pytest.raises(ConfigError, match="0 of 30 users"):
        data_task(tmp_path, replace(DATA_TASK, days=9))


def test_a_column_of_the_users_is_the_label(tmp_path: Path) -> None:
    values = ["yes"] * 10 + ["0"] * 15 + [""] * 5
    task = data_task(write(tmp_path, values))
    assert len(task) == 25
    assert task.label == "the partner's column over_use, within the next 4 weeks"
    assert task.labels.tolist() == [True] * 10 + [False] * 15
    write(tmp_path, ["yes", "2"])
    with pytest.raises(DataError, match=r"users.csv, row 2, field 'over_use', value '2'"):
        data_task(tmp_path)


def test_events_without_times_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, positions=True)
    with pytest.raises(DataError, match="sessions are made of times"):
        data_task(folder)


def test_data_of_too_short_a_time_say_so(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\na,A\nb,B\n")
    rows = [f"u{user},{item},{86_400 * day}" for user in range(3) for day, item in enumerate("ab")]
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
    with pytest.raises(ConfigError, match="too short a time"):
        data_task(tmp_path)
