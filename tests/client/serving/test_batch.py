"""Lists for many users: the same file however the work was cut, interrupted or resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

import client.serving.batch as module
from client.serving.batch import Batch, recommend_all
from client.serving.named_items import Filters
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.system.locks import exclusive_lock
from tests.client.serving.test_recommender import ids, made
from tests.conftest import some_histories

USERS = 23


class Killed(BaseException):
    """What a process meets that is killed; nothing is cleaned up after it."""


def some_users() -> Histories:
    """The last one has no history."""
    return Histories.joined([some_histories(USERS - 1), Histories.from_lists([[]], users=["new"])])


def batch(file: Path, passes: int = 1, **changes: object) -> Batch:
    users = some_users()
    parts = np.array_split(np.arange(len(users)), passes)
    reads = [partial(users.select, rows) for rows in parts]
    made_batch = Batch(
        recommender=made("counts"),
        passes=reads,
        k=4,
        filters=Filters(),
        explain=False,
        file=file,
        request={"model": "m"},
    )
    return replace(made_batch, **changes)  # type: ignore[arg-type]  # fields of any type


def rows_of(file: Path) -> list[dict[str, object]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    table = pq.read_table(file) if file.suffix == ".parquet" else pa_csv.read_csv(file)
    rows: list[dict[str, object]] = table.to_pylist()
    return rows


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 5)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("passes", [1, 3])
def test_every_form_holds_what_is_recommended_to_each(
    tmp_path: Path, suffix: str, passes: int
) -> None:
    file = tmp_path / f"lists{suffix}"
    summary = recommend_all(batch(file, passes), print)
    users, recommender = some_users(), made("counts")
    expected = [
        {"user": user, "rank": one.rank, "item": one.item, "title": one.title, "score": one.score}
        for user, history in zip(users.users, users, strict=True)
        for one in recommender.recommend(ids(*history.tolist()), 4)
    ]
    rows = rows_of(file)
    assert [row | {"score": 0} for row in rows] == [row | {"score": 0} for row in expected]
    assert [row["score"] for row in rows] == pytest.approx(
        [row["score"] for row in expected], rel=1e-5
    )
    assert (summary.users, summary.without_history, summary.rows) == (USERS, 1, 4 * USERS)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [left.name for left in tmp_path.iterdir()] == [file.name], "nothing is left beside it"


def test_a_killed_run_goes_on_behind_its_last_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, file = tmp_path / "whole.parquet", tmp_path / "lists.parquet"
    recommend_all(batch(whole, 2), print)
    write, left, computed = module._write_block, [4], list[str]()

    def dies(request: Batch, users: Histories, name: str) -> dict[str, int]:
        if not left[0]:
            raise Killed
        left[0] -= 1
        computed.append(name)
        return write(request, users, name)

    monkeypatch.setattr(module, "_write_block", dies)
    with pytest.raises(Killed):
        recommend_all(batch(file, 2), print)
    assert not file.exists()
    first, left[0] = computed.copy(), 99
    said: list[str] = []
    summary = recommend_all(batch(file, 2), said.append)
    assert len(set(computed)) == len(computed), "no block is computed twice"
    assert set(computed) > set(first)
    assert pq.read_table(file).equals(pq.read_table(whole))
    assert summary.users == USERS
    assert summary.resumed == 17  # a whole part of 12, and a block of 5 of the next one
    assert said == ["17 users were answered by an earlier run."]


def test_blocks_of_another_request_are_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lists.csv"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_join", lambda _: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            recommend_all(batch(file), print)
    said: list[str] = []
    summary = recommend_all(batch(file, k=3, request={"model": "other"}), said.append)
    assert summary.resumed == 0
    assert "another request" in said[0]
    assert len(rows_of(file)) == 3 * USERS


def test_short_lists_are_counted_and_reasons_are_a_column(tmp_path: Path) -> None:
    file = tmp_path / "lists.jsonl"
    few = Filters(allow=frozenset(ids(1, 2, 3)))
    summary = recommend_all(batch(file, filters=few, explain=True), print)
    rows = rows_of(file)
    assert summary.short_lists == USERS
    assert summary.rows == len(rows)
    assert all(str(row["because"]).startswith("because ") for row in rows)
    assert any("you watched Title" in str(row["because"]) for row in rows)


def test_nobody_gives_an_empty_table(tmp_path: Path) -> None:
    file = tmp_path / "lists.parquet"
    nobody = replace(batch(file), passes=[lambda: Histories.from_lists([])])
    recommend_all(nobody, print)
    assert pq.read_table(file).column_names == ["user", "rank", "item", "title", "score"]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for name in ("lists.xlsx", "none/lists.csv"):
        with pytest.raises(ConfigError, match="--out"):
            recommend_all(batch(tmp_path / name), print)
    file = tmp_path / "lists.csv"
    request = batch(file)
    with (
        exclusive_lock(request.parts / "lock", lambda _: ConfigError("never")),
        pytest.raises(ConfigError, match="is writing it"),
    ):
        recommend_all(request, print)
