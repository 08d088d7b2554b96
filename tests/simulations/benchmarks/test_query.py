"""Queries that are held out, and what users have declared with them."""

from __future__ import annotations

from pathlib import Path

from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.queries import Asked
from simulations.benchmarks.query import hold_queries_out, with_attributes, write_folder
from simulations.datasets.queries import read_query_table


def test_a_users_last_films_with_a_query_leave_training_with_all_their_queries() -> None:
    histories = Histories.from_lists([[1, 2, 3, 4], [1, 2]])
    asked = [Asked("0", "a", 3, 5), Asked("0", "b", 2, 9), Asked("0", "c", 2, 1)]
    asked += [Asked("0", "d", 1, 0), Asked("1", "e", 1, 0)]
    kept_events, kept, test = hold_queries_out(histories, asked, share=0.4)
    # Of films 1, 2 and 3, in order of their first queries, the last goes.
    assert [list(own) for own in kept_events] == [[1, 2, 4], [1, 2]]
    assert [one.text for one in test] == ["a"]
    assert {one.text for one in kept} == {"b", "c", "d", "e"}


def test_groups_reach_the_run_as_what_users_have_declared(tmp_path: Path) -> None:
    histories = Histories.from_lists([[1, 2], [2, 1]], ["u", "v"])
    groups = {"age": ("25", "unknown"), "gender": ("F", "M")}
    asked = with_attributes([Asked("u", "x", 1), Asked("v", "y", 2)], histories, groups)
    assert [one.attributes for one in asked] == [("age=25", "gender=f"), ("gender=m",)]
    catalogue = Catalogue(item_ids=("a", "b"), titles=("A", "B"), genres=((), ()), years=(1, 2))
    write_folder(tmp_path / "data", histories, catalogue, asked, ["age", "gender"])
    read = read_query_table(tmp_path / "data" / "queries.parquet", catalogue, ["age", "gender"])
    assert {one.user: one.attributes for one in read} == {one.user: one.attributes for one in asked}
