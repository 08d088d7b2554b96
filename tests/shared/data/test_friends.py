"""What a table of friends says, and what is refused in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.data.friends import (
    Edges,
    FriendTable,
    bounded,
    pair_hash,
    read_friends,
    write_friends,
)
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


def test_where_a_coordinator_asks_what_is_refused_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "friends.csv"
    rows = ("a,b,,2", "a,b,,2", "b,a,,3", "c,c,,", "a,x,,", "c,d,enemy,", "d,a,,0", "c,a,follows,")
    file.write_text("user,friend,kind,weight\n" + "\n".join(rows) + "\n")
    table = read_friends(file, USERS, strict=False)
    assert table.edges == {("a", "b"): 2.0, ("b", "a"): 2.0, ("c", "a"): 1.0}
    assert dict(zip(table.users, table.entered.tolist(), strict=True)) == {"a": 2, "b": 1, "c": 0}
    write_friends(file, table)
    assert read_friends(file, USERS).edges == table.edges


HUB: Edges = {
    pair: 1.0
    for one, other in [
        *((0, user) for user in range(1, 14)),
        *((one, other) for one in range(1, 14) for other in range(1, one)),
    ]
    for pair in ((f"u{one}", f"u{other}"), (f"u{other}", f"u{one}"))
}
"""Everybody befriends user 0, and has other friends, too."""


def without(edges: Edges, removed: str) -> Edges:
    return {edge: weight for edge, weight in edges.items() if removed not in edge}


def changed(one: Edges, other: Edges) -> int:
    """How many users other than u0 have other friends."""
    users = {user for user, _ in one} - {"u0"}
    return sum(
        {friend for user, friend in one if user == name}
        != {friend for user, friend in other if user == name}
        for name in users
    )


def test_a_bounded_table_changes_k_samples_and_picking_k_of_all_friends_any_number() -> None:
    """Remove the hub: with each user's K edges of lowest hash, everybody's next friend moves up."""
    most = 3

    def picked(edges: Edges) -> Edges:
        kept: dict[str, list[tuple[bytes, str]]] = {}
        for user, friend in edges:
            kept.setdefault(friend, []).append((pair_hash(user, friend), user))
        return {
            (user, friend): edges[user, friend]
            for friend, own in kept.items()
            for _, user in sorted(own)[:most]
        }

    assert changed(picked(HUB), picked(without(HUB, "u0"))) > most
    table = bounded(FriendTable.from_edges(HUB | {("u1", "v"): 1.0, ("u2", "v"): 2.0}), most)
    assert table.entered.max() == most
    assert ("u2", "v") in table.edges
    own = table.edges
    assert all(
        own.get((friend, user)) == weight for (user, friend), weight in own.items() if friend != "v"
    )
    assert changed(own, without(own, "u0")) <= most
