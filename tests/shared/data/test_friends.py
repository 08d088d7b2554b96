"""What a table of friends says, and what is refused in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.data.friends import FriendTable, read_friends
from shared.errors import DataError, SiteError

USERS = frozenset("abcd")


def read(folder: Path, text: str) -> FriendTable:
    file = folder / "friends.csv"
    file.write_text(text, encoding="utf-8")
    return read_friends(file, USERS)


def edges(table: FriendTable) -> dict[str, dict[str, float]]:
    return {
        user: {
            table.users[friend]: float(weight)
            for friend, weight in zip(table.friends[s:e], table.weights[s:e], strict=True)
        }
        for user, s, e in zip(table.users, table.offsets[:-1], table.offsets[1:], strict=True)
    }


def test_mutual_friends_count_both_ways_and_a_follower_alone(tmp_path: Path) -> None:
    table = read(tmp_path, "user,friend,kind,weight\na,b,mutual,2\nb , a,,2\nd,a,follows,\n")
    assert edges(table) == {"a": {"b": 2.0}, "b": {"a": 2.0}, "d": {"a": 1.0}}
    assert edges(read(tmp_path, "friend,user\na,d\n")) == {"a": {"d": 1.0}, "d": {"a": 1.0}}
    # Two who follow each other need not be as close as each other.
    both = "user,friend,kind,weight\na,b,follows,1\nb,a,follows,3\n"
    assert edges(read(tmp_path, both)) == {"a": {"b": 1.0}, "b": {"a": 3.0}}


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ("a,x,,", "friend", "value 'x': no user with events has this id"),
        (",a,,", "user", "the id is empty"),
        ("c,c,,", "friend", "a friend of one's own"),
        ("a,b,,", "friend", "row 1 names the pair already"),
        ("b,a,,2", "weight", "another row gives the friendship the weight 1"),
        ("c,d,enemy,", "kind", "value 'enemy': there is no such kind of friendship"),
        ("c,d,,0", "weight", "value '0': a weight is a number above 0"),
        ("c,d,,near", "weight", "value 'near'"),
        ("c,d,,1e99", "weight", "value '1e99'"),
        ("c,d,,nan", "weight", "value 'nan'"),
    ],
)
def test_a_row_that_is_refused_is_named(tmp_path: Path, row: str, field: str, words: str) -> None:
    with pytest.raises(DataError, match=r"friends\.csv, row 2") as refused:
        read(tmp_path, f"user,friend,kind,weight\na,b,,\n{row}\n")
    assert f"field '{field}'" in str(refused.value)
    assert words in str(refused.value)
    assert refused.value.remedy


def test_a_table_without_the_columns_or_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="field 'friend'"):
        read(tmp_path, "user,other\na,b\n")
    with pytest.raises(SiteError, match="not there"):
        read_friends(tmp_path / "none.csv", USERS)
