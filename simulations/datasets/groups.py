"""Public groups of users, such as MovieLens's gender and age, to compare how well each is served.

Only the lab's figures use them: neither a site nor a model gets them.

| what the table of users holds                     | what happens                                 |
|---------------------------------------------------|----------------------------------------------|
| no user column, or one twice                      | refused, with the columns there are          |
| an empty or repeated user id                      | refused, with the row                        |
| none of the users of the interactions             | refused: the ids are not the same            |
| a column with 2 to 12 different values            | a way to group users                         |
| a column with one value or more than 12           | left out: a name or a number is no group     |
| an empty value, or no row for a user              | the user is in the group "unknown"           |
| a column named as one of evaluation.parquet       | refused, with the name                       |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from shared.data.columns import require_column
from shared.data.ids import canonical_id
from shared.data.tables import FileTable, read_table
from shared.errors import DataError
from simulations.datasets import movielens

__all__ = ["RESERVED", "UNKNOWN", "Groups", "groups_of", "read_users"]

Groups = Mapping[str, tuple[str, ...]]
"""For each grouping, every user's group in the order of the histories."""

UNKNOWN = "unknown"
MOST_VALUES = 12
RESERVED = ("user", "organisation", "events", "model", "rank")
"""The columns of evaluation.parquet that are not groupings."""


def read_users(path: Path) -> pa.Table:
    """Return the table of users, as text.

    Raises:
        DataError: it cannot be read, or has no rows.
    """
    if path.suffix == ".dat":
        return movielens.read_dat(path, movielens.USERS)
    table = FileTable(path)
    for name in table.columns:
        require_column(name, table.columns, path, "another header")
    return read_table(table, table.plain_columns())


def groups_of(table: pa.Table, column: str, users: Sequence[str], source: Path) -> Groups:
    """Return every grouping of these users that the table has.

    Args:
        table: text columns.
        column: the one with the user ids.
        users: whose groups are returned.
        source: the file that errors name.

    Raises:
        DataError: see the table on top of this module.
    """
    require_column(column, table.column_names, source, f"lab.user = '...', not '{column}'")
    rows = _rows(table.column(column).to_pylist(), source)
    if not rows.keys() & set(users):
        raise DataError(
            "it has none of the users of the interactions",
            file=source,
            field=column,
            value=next(iter(rows)),
            remedy="Write the same ids in both files, or take this file away.",
        )
    groups = {}
    for name in table.column_names:
        values = [(text or "").strip() or UNKNOWN for text in table.column(name).to_pylist()]
        if name != column and 2 <= len(set(values)) <= MOST_VALUES:
            _check_name(name, source)
            labels = _labels(name, values)
            groups[name] = tuple(labels[rows[user]] if user in rows else UNKNOWN for user in users)
    return groups


def _rows(ids: Sequence[str | None], source: Path) -> dict[str, int]:
    rows: dict[str, int] = {}
    for number, text in enumerate(ids):
        user = canonical_id(text or "")
        if not user or user in rows:
            problem = "the user is repeated" if user in rows else "the id is empty"
            remedy = "Keep one row for each user."
            raise DataError(problem, file=source, row=number + 1, value=text, remedy=remedy)
        rows[user] = number
    return rows


def _check_name(name: str, source: Path) -> None:
    if name in RESERVED or not name.strip():
        raise DataError(
            "a group cannot have this name, which evaluation.parquet uses for something else",
            file=source,
            field=name,
            remedy="Rename the column.",
        )


def _labels(name: str, values: Sequence[str]) -> Sequence[str]:
    """Return the values, with MovieLens's codes of age replaced by their meaning."""
    coded = name == "age" and set(values) - {UNKNOWN} == set(movielens.AGES)
    return [movielens.AGES.get(value, value) for value in values] if coded else values
