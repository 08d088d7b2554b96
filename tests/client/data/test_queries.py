"""The partner's table of queries: what is read, what is refused, and what an odd row does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from client.data.config import DataConfig
from client.data.queries import read_queries
from shared.data.histories import Histories
from shared.data.queries import Asked, queries_of
from shared.errors import ConfigError, DataError, SiteError
from tests.conftest import some_catalogue

DATA = DataConfig(source="events.csv", queries="queries.csv")
HEAD = "user_id,item_id,query,timestamp\n"
SECOND = 10**6


def write(folder: Path, text: str) -> Path:
    (folder / "queries.csv").write_text(text)
    return folder


def test_rows_are_read_by_the_columns_of_interactions(tmp_path: Path) -> None:
    folder = write(tmp_path, HEAD + '1.0,i3,"red, old",5\n2,i99,new,6\n2,i4,new,7\n')
    asked = read_queries(DATA, folder, some_catalogue())
    assert asked == [Asked("1", "red, old", 3, 5 * SECOND), Asked("2", "new", 4, 7 * SECOND)]
    other = DataConfig(source="e.csv", queries="queries.csv", user="who", query_column="said")
    write(tmp_path, "who,item_id,said,position\n1,i3,red,0\n")
    assert read_queries(other, folder, some_catalogue()) == [Asked("1", "red", 3, None)]
    assert read_queries(DataConfig(source="e.csv"), folder, some_catalogue()) == []


def test_what_users_have_declared_is_read_with_their_queries(tmp_path: Path) -> None:
    data = replace(DATA, query_attributes=("age", "gender"))
    folder = write(tmp_path, HEAD.strip() + ",gender,age\n1,i3,red,5, F,25\n2,i4,new,7,,\n")
    asked = read_queries(data, folder, some_catalogue())
    assert [one.attributes for one in asked] == [("age=25", "gender=f"), ()]
    histories = Histories.from_lists([[1], [2]], ["1", "2"])
    assert queries_of(histories, asked).attributes == (("age=25", "gender=f"), ())
    write(tmp_path, HEAD + "1,i3,red,5\n")
    for section in ("data", "lab"):
        with pytest.raises(DataError, match=rf"'age'.*there in {section}\.query_attributes"):
            read_queries(data, folder, some_catalogue(), strict=False, section=section)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("1,i3, ,5", "query"),
        (",i3,red,5", "user_id"),
        ("1,,red,5", "item_id"),
        ("1,i3,red,x", "timestamp"),
    ],
)
def test_an_odd_row_is_named_or_left_out(tmp_path: Path, row: str, field: str) -> None:
    folder = write(tmp_path, f"{HEAD}2,i4,new,7\n{row}\n")
    with pytest.raises(DataError, match=rf"(?s)queries\.csv.*row 2.*{field}"):
        read_queries(DATA, folder, some_catalogue())
    left = read_queries(DATA, folder, some_catalogue(), strict=False)
    assert left == [Asked("2", "new", 4, 7 * SECOND)]


def test_a_table_or_a_column_that_is_not_there_is_refused_however_it_is_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(SiteError, match=r"data\.queries = 'queries\.csv': not in"):
        read_queries(DATA, tmp_path, some_catalogue(), strict=False)
    write(tmp_path, "user_id,item_id,tag,timestamp\n1,i1,red,5\n")
    with pytest.raises(DataError, match=r'with query_column = "tag" under \[data\] in site'):
        read_queries(DATA, tmp_path, some_catalogue(), strict=False)
    with pytest.raises(DataError, match=r"Rename columns: tag to query\."):
        read_queries(DATA, tmp_path, some_catalogue(), section="lab")


def test_a_query_stands_before_its_time_and_before_what_was_chosen() -> None:
    histories = Histories.from_lists([[3, 1, 2, 3], [5]], ["a", "b"], times=[[1, 2, 3, 4], [9]])
    asked = [Asked("b", "x", 5, 1), Asked("a", "y", 2, 9), Asked("a", "z", 7, 3)]
    queries = queries_of(histories, [*asked, Asked("a", "v", 3, 9), Asked("c", "w", 1, 1)])
    assert queries.texts == ("y", "z", "v", "x")
    assert queries.places.tolist() == [2, 2, 0, 0]
    assert queries.offsets.tolist() == [0, 3, 4]


def test_a_missing_time_is_named_and_attributes_take_a_table(tmp_path: Path) -> None:
    folder = write(tmp_path, "user_id,item_id,query\n1,i3,red\n")
    with pytest.raises(DataError, match=r"'timestamp': the column is missing.*Add timestamp"):
        read_queries(DATA, folder, some_catalogue())
    with pytest.raises(ConfigError, match=r"data\.query_attributes = 'age'.*data\.queries"):
        DataConfig(source="events.csv", query_attributes=("age",))
