"""What a partner's table of users says of each: the columns that its policy lets be used.

| what the table holds                               | what happens                               |
|----------------------------------------------------|--------------------------------------------|
| a column that `policy.group_columns` does not name | it is not read: its values are unknown     |
| a named column, or the users' ids, are not there   | refused, before anything is charged        |
| a user without a row, or with an empty value       | the value is unknown                       |
| a user in several rows that do not agree           | all of the user's values are unknown       |

Whose value is unknown is in the group "other" (`shared.groups`). What one user's row holds changes
that user's groups alone, and is never an error: that would tell of the user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.config import DataConfig
from shared.data.columns import require_columns
from shared.data.ids import canonical_id
from shared.data.tables import file_tables
from shared.errors import SiteError

__all__ = ["UserRow", "read_user_columns", "user_rows"]

UserColumns = Mapping[str, Mapping[str, str]]
"""By user, in canonical form: its values by column."""


@dataclass(frozen=True, slots=True)
class UserRow:
    """One row of the table.

    Attributes:
        user: canonical id.
        values: by column, in canonical form; "" where there is none.
        source: the file.
        number: of the row in it, from 1; the header is not counted.
    """

    user: str
    values: Mapping[str, str]
    source: str
    number: int


def read_user_columns(data: DataConfig, folder: Path, columns: Sequence[str]) -> UserColumns:
    """Return the values of each user.

    Args:
        data: the [data] table; without `users` nothing is known of anybody.
        folder: base of relative paths.
        columns: that may be read.

    Raises:
        SiteError: the table is not there.
        DataError: it cannot be read, or lacks a column.
    """
    if not data.users or not columns:
        return {}
    read: dict[str, dict[str, str]] = {}
    for row in user_rows(data, folder, columns):
        values = {name: text for name, text in row.values.items() if text}
        read[row.user] = values if read.get(row.user, values) == values else {}
    return read


def user_rows(data: DataConfig, folder: Path, columns: Sequence[str]) -> Iterator[UserRow]:
    """Yield every row; arguments and errors are those of `read_user_columns`."""
    path = folder / data.users
    if not path.exists():
        raise SiteError(f"data.users = '{data.users}': not in {folder}. Check the path.")
    for table in file_tables(path):
        roles = {"user": data.user} | {name: name for name in columns}
        require_columns(roles, table.columns, table.source, '{role} = "{name}"')
        number = 0
        for batch in table.batches([data.user, *columns]):
            users, *values = (column.to_pylist() for column in batch.columns)
            for user, *row in zip(users, *values, strict=True):
                number += 1
                texts = (canonical_id(text or "") for text in row)
                values_of_user = dict(zip(columns, texts, strict=True))
                yield UserRow(canonical_id(user or ""), values_of_user, table.source, number)
