from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.data.columns import Columns
from shared.errors import DataError
from simulations.datasets.load import load

INTERACTIONS = "user_id,item_id,timestamp\nx,1,2\nx,2,1\ny,2,1\ny,1,2\nz,1,1\nz,2,2\n"
ITEMS = "item_id,title\n1,One (2001)\n2,Two\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "interactions.csv").write_text(INTERACTIONS)
    (tmp_path / "items.csv").write_text(ITEMS)
    return tmp_path


def test_without_a_table_of_users_there_are_no_groups(data: Path) -> None:
    assert load(data).groups == {}


def test_columns_with_few_values_are_groups_in_the_order_of_the_users(data: Path) -> None:
    (data / "users.csv").write_text(
        'user_id,gender,country,same\nz,"f, she",de,1\nw,m,fr,1\nx,m, ,1\n', encoding="utf-8"
    )
    assert load(data).groups == {
        "gender": ("m", "unknown", "f, she"),  # y has no row
        "country": ("unknown", "unknown", "de"),
    }


def test_names_and_numbers_are_no_groups(data: Path) -> None:
    ids = ["x", "y", *(f"other {n}" for n in range(11))]
    table = pa.table({"user_id": ids, "name": ids, "age": [20 + n % 12 for n in range(13)]})
    pq.write_table(table, data / "users.parquet")
    assert load(data).groups == {"age": ("20", "21", "unknown")}


def test_the_user_column_may_have_another_name(data: Path) -> None:
    (data / "interactions.csv").write_text(INTERACTIONS.replace("user_id", "who"))
    (data / "users.csv").write_text("who,kind\nx,a\ny,b\nz,a\n")
    assert load(data, Columns(user="who")).groups == {"kind": ("a", "b", "a")}


@pytest.mark.parametrize(
    ("users", "row", "problem"),
    [
        ("id,kind\nx,a\ny,b\n", None, "'user_id': the column is missing; .* id, kind"),
        ("user_id,kind,kind\nx,a,a\n", None, "'kind': the column occurs more than once"),
        ("user_id,kind\nx,a\nx,b\n", 2, "value 'x': the user is repeated"),
        ("user_id,kind\nx,a\n ,b\n", 2, "the id is empty"),
        ("user_id,kind\n1,a\n2,b\n", None, "value '1': it has none of the users"),
        ("user_id,model\nx,a\ny,b\n", None, "'model': a group cannot have this name"),
        ("user_id,kind\n", None, "no rows"),
        ("user_id,kind\nx\n", 1, "1 fields"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    data: Path, users: str, row: int | None, problem: str
) -> None:
    (data / "users.csv").write_text(users)
    with pytest.raises(DataError, match=problem) as caught:
        load(data)
    assert caught.value.file == str(data / "users.csv")
    assert caught.value.row == row


def test_two_tables_of_users_are_ambiguous(data: Path) -> None:
    (data / "users.csv").write_text("user_id,kind\nx,a\ny,b\n")
    pq.write_table(pa.table({"user_id": ["x"]}), data / "users.parquet")
    with pytest.raises(DataError, match=r"which table of users to read: users.csv, users.parquet"):
        load(data)
