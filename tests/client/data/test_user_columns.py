"""Which columns of a partner's table of users are read, and what an odd row does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.data.config import DataConfig
from client.data.user_columns import read_user_columns
from client.site.site import Site
from shared.errors import DataError, SiteError

if TYPE_CHECKING:
    from tests.conftest import Sites

ROWS = "user_id,gender,age\n1,F,25\n2.0,M,35.0\n3,,18\n4,F,18\n4,M,18\n5,F,45\n5,F,45\n"
DATA = DataConfig(source="events.csv", users="users.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "users.csv").write_text(ROWS)
    return tmp_path


def test_values_are_read_in_their_canonical_form(folder: Path) -> None:
    read = read_user_columns(DATA, folder, ["gender", "age"])
    assert read["1"] == {"gender": "F", "age": "25"}
    assert read["2"] == {"gender": "M", "age": "35"}
    assert read["3"] == {"age": "18"}
    assert read["4"] == {}  # two rows that do not agree
    assert read["5"] == {"gender": "F", "age": "45"}


def test_a_column_or_a_file_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="occupation"):
        read_user_columns(DATA, folder, ["occupation"])
    (folder / "users.csv").unlink()
    with pytest.raises(SiteError, match=r"data\.users = 'users\.csv'"):
        read_user_columns(DATA, folder, ["age"])


def test_a_column_that_the_policy_does_not_name_is_not_read(sites: Sites) -> None:
    changes = {"data.users": "users.csv", "policy.group_columns": ["age"]}
    place = sites.make("alpha", changes)
    (place / "users.csv").write_text(ROWS)
    site = Site.load(place)
    assert site.user_columns(["gender", "age"])["1"] == {"age": "25"}
    assert site.user_columns(["gender"]) == {}
    assert Site.load(sites.make("beta")).user_columns(["gender", "age"]) == {}
