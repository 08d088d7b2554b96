"""HetRec's Last.fm as the lab reads it, and the same graph over other users."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from shared.data.friends import FriendTable, read_friends
from simulations.benchmarks.friends import permuted, prepare
from simulations.datasets.load import load


def test_what_is_prepared_is_read_by_the_lab(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    plays = [(user, artist) for user in range(1, 7) for artist in range(1, 5)]
    plays += [(1, 9), (7, 1), (7, 2)]  # an artist of one listener, a user of two artists
    lines = ["userID\tartistID\tweight", *(f"{user}\t{artist}\t5" for user, artist in plays)]
    (raw / "user_artists.dat").write_text("\r\n".join(lines))
    (raw / "user_friends.dat").write_text("userID\tfriendID\n1\t2\n2\t1\n1\t7\n7\t1\n3\t1\n1\t3\n")
    titles = "id\tname\turl\n1\tÀ\tx\n2\tB\tx\n3\tC\tx\n4\tD\tx\n9\tE\tx\n"
    (raw / "artists.dat.gz").write_bytes(gzip.compress(titles.encode()))
    prepare(raw, out)
    read = load(out)
    assert len(read.histories) == 6
    assert read.catalogue.titles == ("À", "B", "C", "D")
    assert {tuple(sorted(own)) for own in read.histories} == {(1, 2, 3, 4)}
    orders = {tuple(own) for own in read.histories}
    assert len(orders) > 1
    table = read_friends(out / "friends.csv", frozenset(read.histories.users))
    assert table.users == ("1", "2", "3")
    assert table.degrees.tolist() == [2, 1, 1]


def test_permuted_friends_have_the_same_degrees() -> None:
    draw = np.random.default_rng(0)
    pairs = {(str(one), str(other)) for one, other in draw.integers(0, 9, (30, 2)) if one != other}
    table = FriendTable.from_edges({pair: 1.0 + int(pair[0]) for pair in pairs})
    other = permuted(table, 1)
    assert sorted(other.degrees) == sorted(table.degrees)
    assert sorted(other.weights) == sorted(table.weights)
    assert other.friends.tolist() != table.friends.tolist()
