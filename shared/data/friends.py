"""A partner's table of friends: who is shown what whose choices suggest.

| column   | what it holds                                                                       |
|----------|-------------------------------------------------------------------------------------|
| `user`   | an id of the partner's interactions                                                 |
| `friend` | another one                                                                         |
| `kind`   | may be missing: `mutual`, the default, counts both ways; with `follows`, only       |
|          |   `user` is shown what `friend` chose                                               |
| `weight` | may be missing: how close they are, a number above 0; 1 by default                  |

| what a row holds                            | what happens                                     |
|---------------------------------------------|--------------------------------------------------|
| an id that is empty, or of no user with     | refused, with the row                            |
|   events                                    |                                                  |
| the same id twice                           | refused: nobody is a friend of one's own         |
| a pair in the same direction as before      | refused, with the earlier row                    |
| a mutual pair in the other direction        | the same friendship: counted once, and refused   |
|                                             |   where the weights differ                       |
| another kind; a weight that is no number    | refused                                          |
|   above 0                                   |                                                  |

Spaces around ids do not count, as in interactions (`shared.data.ids`). Where a coordinator asks,
what is refused above is left out instead: a failure would tell of these users. What happens to a
row depends on its own pair of users and on which users have events.

The table is private, and nothing of it is sent. One table may be bounded: then nobody is the friend
of more than K others, which runs of the kind "social" need (`client.compute.friends`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data.columns import require_columns
from shared.data.histories import offsets_of
from shared.data.ids import canonical_id
from shared.data.tables import FileTable, file_tables
from shared.errors import DataError, SiteError
from shared.system.files import write_atomically

__all__ = [
    "FOLLOWS",
    "MUTUAL",
    "Edges",
    "FriendTable",
    "bounded",
    "pair_hash",
    "read_friends",
    "refuse_unbounded",
    "write_friends",
]

USER, FRIEND, KIND, WEIGHT = "user", "friend", "kind", "weight"
MUTUAL, FOLLOWS = "mutual", "follows"
_UNKNOWN = "Leave the row out, or give the user's interactions."

Edges = dict[tuple[str, str], float]
"""User and friend -> weight."""


@dataclass(frozen=True, slots=True, eq=False)
class FriendTable:
    """Each user's friends, by number in `users`; whoever has a friend or is one is there.

    Attributes:
        users: canonical ids of U users.
        offsets: int64 [U + 1]; user i has `friends[offsets[i]:offsets[i + 1]]`.
        friends: int64 [E], numbers of users, ascending for each user, without repeats.
        weights: float32 [E], > 0.
    """

    users: tuple[str, ...]
    offsets: NDArray[np.int64]
    friends: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Number of friends of each user, [U]."""
        return np.diff(self.offsets)

    @property
    def entered(self) -> NDArray[np.int64]:
        """Number of users whose friend each user is, [U]."""
        return np.bincount(self.friends, minlength=len(self.users)).astype(np.int64)

    @property
    def edges(self) -> Edges:
        """Each user and friend with the weight."""
        rows = np.repeat(np.arange(len(self.users)), self.degrees)
        pairs = zip(rows.tolist(), self.friends.tolist(), self.weights.tolist(), strict=True)
        return {(self.users[row], self.users[friend]): weight for row, friend, weight in pairs}

    def among(self, users: Iterable[str]) -> FriendTable:
        """Return the friendships both of whose users are among these.

        >>> FriendTable.from_edges({("a", "b"): 1.0, ("b", "c"): 1.0}).among("ab").users
        ('a', 'b')
        """
        own = frozenset(users)
        return FriendTable.from_edges(
            {pair: weight for pair, weight in self.edges.items() if own.issuperset(pair)}
        )

    @classmethod
    def from_edges(cls, edges: Edges) -> FriendTable:
        """Collect edges (user, friend) -> weight."""
        users = sorted({name for edge in edges for name in edge})
        number = {name: place for place, name in enumerate(users)}
        rows = np.array([number[user] for user, _ in edges], np.int64)
        friends = np.array([number[friend] for _, friend in edges], np.int64)
        order = np.lexsort((friends, rows))
        weights = np.array(list(edges.values()), np.float32)
        lengths = np.bincount(rows, minlength=len(users)).astype(np.int64)
        return cls(tuple(users), offsets_of(lengths), friends[order], weights[order])


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, and where it stands."""

    user: str
    friend: str
    mutual: bool
    weight: float
    file: str
    number: int


def read_friends(file: Path, users: Collection[str], *, strict: bool = True) -> FriendTable:
    """Read a table of friends.

    Args:
        file: CSV, TSV or Parquet, or a folder of such.
        users: canonical ids of users with events.
        strict: whether a row that is refused is an error; otherwise it is left out.

    Raises:
        SiteError: the file is not there.
        DataError: it is no such table, or a row is refused, see the tables above.
    """
    if not file.exists():
        raise SiteError(f"the table of friends, {file}, is not there. Check the path.")
    seen, edges = dict[tuple[str, str], _Row](), Edges()
    for table in file_tables(file):
        for texts, number in _rows(table):
            try:
                _add(_row(texts, table, number, users), seen, edges)
            except DataError:
                if strict:
                    raise
    return FriendTable.from_edges(edges)


def bounded(table: FriendTable, most: int) -> FriendTable:
    """Return a table in which nobody is the friend of more than K others.

    Pairs are taken in the order of a hash, while those that they would make a friend are the
    friends of fewer than K; of a pair that counts both ways, both directions are kept or none.

    What the table would be without a user is no part of this one: with other pairs, others are
    kept. So a claim about a bounded table is one about its own rows.

    Args:
        table: of any friends.
        most: K, >= 1.
    """
    entered, kept, edges = dict[str, int](), Edges(), table.edges
    pairs = {(min(pair), max(pair)) for pair in edges}
    for one, other in sorted(pairs, key=lambda pair: (pair_hash(*pair), pair)):
        own = [edge for edge in ((one, other), (other, one)) if edge in edges]
        if all(entered.get(friend, 0) < most for _, friend in own):
            for _, friend in own:
                entered[friend] = entered.get(friend, 0) + 1
            kept |= {edge: edges[edge] for edge in own}
    return FriendTable.from_edges(kept)


def refuse_unbounded(table: FriendTable, most: int, file: Path) -> None:
    """Refuse a table in which somebody is the friend of more than K others; name nobody.

    Args:
        table: as a coordinator's run would read it.
        most: K, as the partner states it.
        file: where it is.

    Raises:
        DataError: somebody is.
    """
    if (table.entered > most).any():
        raise DataError(
            f"somebody is the friend of more than data.friends_most = {most} others",
            file=file,
            remedy="Write a table within the bound by `sotto-node bound-friends`.",
        )


def pair_hash(one: str, other: str) -> bytes:
    """Return a hash by which pairs of users are put into an order that tells nothing of them."""
    return hashlib.sha256(f"{one}\0{other}".encode()).digest()


def write_friends(file: Path, table: FriendTable) -> None:
    """Write a table of friends as CSV, a row a direction; `read_friends` reads the same again.

    Raises:
        OSError: it cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow((USER, FRIEND, KIND, WEIGHT))
    rows.writerows((*pair, FOLLOWS, repr(weight)) for pair, weight in table.edges.items())
    write_atomically(file, text.getvalue().encode())


def _add(row: _Row, seen: dict[tuple[str, str], _Row], edges: Edges) -> None:
    """Add a row's friendship, if its pair has no other row that contradicts it."""
    pair = row.user, row.friend
    if pair in seen:
        raise _error(row, f"row {seen[pair].number} names the pair already", FRIEND)
    own = (pair, pair[::-1]) if row.mutual else (pair,)
    for edge in own:
        if edges.get(edge, row.weight) != row.weight:
            problem = f"another row gives the friendship the weight {edges[edge]:g}"
            raise _error(row, problem, WEIGHT, row.weight, "Give both directions the same weight.")
    seen[pair] = row
    edges |= dict.fromkeys(own, row.weight)


def _rows(table: FileTable) -> Iterator[tuple[dict[str, str], int]]:
    """Yield the texts of each row by column, and its number."""
    require_columns({USER: USER, FRIEND: FRIEND}, table.columns, table.source, "")
    more = [name for name in (KIND, WEIGHT) if name in table.columns]
    number = 0
    for batch in table.batches([USER, FRIEND, *more]):
        columns = dict(zip((USER, FRIEND, *more), batch.columns, strict=True))
        texts = {name: column.to_pylist() for name, column in columns.items()}
        for place in range(batch.num_rows):
            number += 1
            yield {name: own[place] or "" for name, own in texts.items()}, number


def _row(texts: dict[str, str], table: FileTable, number: int, users: Collection[str]) -> _Row:
    kind, weight = texts.get(KIND, "").strip() or MUTUAL, texts.get(WEIGHT, "").strip() or "1"
    row = _Row(
        user=canonical_id(texts[USER]),
        friend=canonical_id(texts[FRIEND]),
        mutual=kind == MUTUAL,
        weight=_number(weight),
        file=table.source,
        number=number,
    )
    for name, one in ((USER, row.user), (FRIEND, row.friend)):
        if one not in users:
            if not one:
                remedy = "Leave the row out, or state the id."
                raise _error(row, "the id is empty", name, texts[name], remedy)
            raise _error(row, "no user with events has this id", name, texts[name], _UNKNOWN)
    if row.user == row.friend:
        raise _error(row, "a user is named as a friend of one's own", FRIEND, texts[FRIEND])
    if kind not in (MUTUAL, FOLLOWS):
        remedy = f"Write {MUTUAL} or {FOLLOWS}, or leave it empty for {MUTUAL}."
        raise _error(row, "there is no such kind of friendship", KIND, kind, remedy)
    if not 0 < row.weight < math.inf:
        raise _error(row, "a weight is a number above 0", WEIGHT, weight, "Mend the number.")
    return row


def _number(text: str) -> float:
    """Return a text as a float32 holds it; NaN where it is no number."""
    try:
        with np.errstate(over="ignore"):
            return float(np.float32(text))
    except ValueError:
        return math.nan


def _error(
    row: _Row, problem: str, field: str, value: object = None, remedy: str = "Leave the row out."
) -> DataError:
    shown = row.friend if value is None else value
    return DataError(
        problem, file=row.file, row=row.number, field=field, value=shown, remedy=remedy
    )
