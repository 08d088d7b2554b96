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

Spaces around ids do not count, as in interactions (`shared.data.ids`). The table is private: it is
read at home alone, and nothing of it is sent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data.columns import require_columns
from shared.data.histories import offsets_of
from shared.data.ids import canonical_id
from shared.data.tables import FileTable, file_tables
from shared.errors import DataError, SiteError

__all__ = ["FOLLOWS", "MUTUAL", "FriendTable", "read_friends"]

USER, FRIEND, KIND, WEIGHT = "user", "friend", "kind", "weight"
MUTUAL, FOLLOWS = "mutual", "follows"
_UNKNOWN = "Leave the row out, or give the user's interactions."


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

    @classmethod
    def from_edges(cls, edges: dict[tuple[str, str], float]) -> FriendTable:
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


def read_friends(file: Path, users: Collection[str]) -> FriendTable:
    """Read a table of friends.

    Args:
        file: CSV, TSV or Parquet, or a folder of such.
        users: canonical ids of users with events.

    Raises:
        SiteError: the file is not there.
        DataError: it is no such table, or a row is refused, see the tables above.
    """
    if not file.exists():
        raise SiteError(f"the table of friends, {file}, is not there. Check the path.")
    seen, edges = dict[tuple[str, str], _Row](), dict[tuple[str, str], float]()
    for table in file_tables(file):
        for row in _rows(table, users):
            pair = row.user, row.friend
            if pair in seen:
                raise _error(row, f"row {seen[pair].number} names the pair already", FRIEND)
            seen[pair] = row
            _take(row, pair, edges)
            if row.mutual:
                _take(row, (row.friend, row.user), edges)
    return FriendTable.from_edges(edges)


def _take(row: _Row, pair: tuple[str, str], edges: dict[tuple[str, str], float]) -> None:
    if edges.setdefault(pair, row.weight) != row.weight:
        problem = f"another row gives the friendship the weight {edges[pair]:g}"
        raise _error(row, problem, WEIGHT, row.weight, "Give both directions the same weight.")


def _rows(table: FileTable, users: Collection[str]) -> Iterator[_Row]:
    """Yield the rows of a table, each checked by itself."""
    require_columns({USER: USER, FRIEND: FRIEND}, table.columns, table.source, "")
    more = [name for name in (KIND, WEIGHT) if name in table.columns]
    number = 0
    for batch in table.batches([USER, FRIEND, *more]):
        columns = dict(zip((USER, FRIEND, *more), batch.columns, strict=True))
        texts = {name: column.to_pylist() for name, column in columns.items()}
        for place in range(batch.num_rows):
            number += 1
            yield _row(
                {name: own[place] or "" for name, own in texts.items()}, table, number, users
            )


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
            problem = "no user with events has this id" if one else "the id is empty"
            raise _error(row, problem, name, texts[name], _UNKNOWN)
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
