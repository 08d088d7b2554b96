"""Natural federations: the organisation of each user, from a column of the data.

| what the column holds                                    | what happens                        |
|----------------------------------------------------------|-------------------------------------|
| no such column, in interactions or users                 | refused, with the columns there are |
| a user without a value                                   | refused, with the user              |
| a user with two values                                   | refused, with the user: two ids, or |
|                                                          |   one organisation                  |
| a value that cannot name a folder                        | refused, with the value             |
| one value for all, or more than 1,000                    | refused: no organisations           |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from shared.data.ids import canonical_id
from shared.data.tables import Table
from shared.errors import DataError

__all__ = ["organisations_of"]

_MOST = 1_000
_NAME = re.compile(r"\w[\w.-]{0,62}")


def organisations_of(
    column: str, users: Sequence[str], user_column: str, tables: Sequence[Table], folder: Path
) -> tuple[str, ...]:
    """Return the organisation of each user.

    Args:
        column: names the organisation; it is read from the tables that have it, where the
            interactions come before the users.
        users: canonical ids, whose organisations are returned.
        user_column: the column with the user ids.
        tables: of interactions and of users.
        folder: that errors name.

    Raises:
        DataError: see the table at the top of this module.
    """
    having = [table for table in tables if column in table.columns and column != user_column]
    if not having:
        names = sorted({name for table in tables for name in table.columns} - {user_column})
        raise DataError(
            f"no column of the interactions or users is called {column!r}",
            file=folder,
            field="lab.partition",
            value=column,
            remedy=f"Choose user, size, taste or one of {', '.join(names)}.",
        )
    # The parts of one source have the same columns; users are a source of their own.
    having = [table for table in having if table.columns == having[0].columns]
    names_by_user = _read(having, user_column, column, set(users))
    organisations = tuple(names_by_user.get(user, "") for user in users)
    _check(organisations, users, column, folder)
    return organisations


def _read(tables: Sequence[Table], user: str, column: str, users: set[str]) -> Mapping[str, str]:
    organisations: dict[str, str] = {}
    for table in tables:
        for user_text, name_text in _distinct(table, user, column):
            user_id, name = canonical_id(user_text or ""), canonical_id(name_text or "")
            if user_id in users and organisations.setdefault(user_id, name) != name:
                raise DataError(
                    f"the user {user_id!r} is at {organisations[user_id]!r} and at {name!r}",
                    file=table.source,
                    field=column,
                    remedy="A user belongs to one organisation: give the user an id at each, such "
                    "as 'us_17' and 'uk_17', or choose another column.",
                )
    return organisations


def _distinct(table: Table, user: str, column: str) -> Iterator[tuple[str | None, str | None]]:
    """Yield the pairs of user and organisation, once or a few times each."""
    for batch in table.batches([user, column]):
        pairs = pa.Table.from_batches([batch]).group_by([user, column]).aggregate([])
        yield from zip(pairs[user].to_pylist(), pairs[column].to_pylist(), strict=True)


def _check(organisations: Sequence[str], users: Sequence[str], column: str, folder: Path) -> None:
    names = set(organisations)
    problem, value = "", ""
    if "" in names:
        problem, value = "a user has no organisation", users[organisations.index("")]
    elif len(names) < 2:
        problem, value = "all users are at one organisation", organisations[0]
    elif len(names) > _MOST:
        problem, value = f"it names {len(names):,} organisations, more than {_MOST:,}", ""
    elif bad := sorted(name for name in names if not _NAME.fullmatch(name)):
        problem = "an organisation's name has other characters than letters, digits, '.', '_', '-'"
        value = bad[0]
    if problem:
        remedy = "Change the column, or choose another one."
        raise DataError(problem, file=folder, field=column, value=value, remedy=remedy)
