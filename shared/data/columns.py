"""Which columns a file is read by, and what to say where they are not there.

A message states the setting of the command that reads: `--set lab.user=UserID` in the lab,
`user = "UserID"` under [data] at a node. It names a column of the file where one is called as such
columns often are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.data.ids import MISSING
from shared.errors import DataError

__all__ = ["Columns", "ItemColumns", "require_column", "require_columns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of the columns of an interactions file.

    Attributes:
        user: the column of user ids.
        item: the column of public item ids.
        time: the column that orders a user's events. None means `timestamp` if the file has such
            a column, else `position`. A column named `position` holds whole numbers; any other
            holds numbers (usually seconds) or ISO 8601 texts.
        missing: spellings of a missing id, compared without regard to case.
        setting: how a caller names a column, with `{role}` and `{name}`; "" where none can.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    missing: tuple[str, ...] = MISSING
    setting: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemColumns:
    """Names of the columns of an items file.

    Attributes:
        item: the public id.
        title: the text that people are shown and that encoders read.
        genres: separated by "|"; None means the column `genres` if there is one.
        year: None means the column `year` if there is one, else a trailing "(1995)" in the title.
        domain: which part of the catalogue an item is of; None means the column `domain` if there
            is one.
        setting: how a caller names a column, with `{role}` and `{name}`; "" where none can.
    """

    item: str = "item_id"
    title: str = "title"
    genres: str | None = None
    year: str | None = None
    domain: str | None = None
    setting: str = ""


_USUAL = {
    "user": r"user|who|customer|client|member|visitor|account|buyer|reader|uid|person|session",
    "item": r"item|what|product|sku|movie|book|track|artist|article|asin|isbn|song|video|content",
    "time": r"time|date|when|^ts$|_ts$|created|_at$|position|order",
    "title": r"title|name|label",
}
"""How columns of a role are often called."""
_DATUM = re.compile(r"[+-]?[0-9][0-9.:TZ +-]*|\\N")


def require_column(name: str, columns: Sequence[str], source: Path | str, mapping: str) -> None:
    """Refuse a file that does not have column `name` exactly once.

    Args:
        name: the required column.
        columns: all columns of the file.
        source: the file.
        mapping: how a caller sets the column's name.

    Raises:
        DataError: the column is missing or occurs more than once.
    """
    if columns.count(name) == 1:
        return
    problem = "occurs more than once" if name in columns else "is missing"
    raise DataError(
        f"the column {problem}; the columns found are {', '.join(columns) or 'none'}",
        file=source,
        field=name,
        remedy=f"Rename a column, or say which one to read with {mapping}.",
    )


def require_columns(
    roles: Mapping[str, str], columns: Sequence[str], source: Path | str, setting: str
) -> None:
    """Refuse a file that does not have the column of each role exactly once.

    Args:
        roles: role -> the column that is looked for.
        columns: all columns of the file.
        source: the file.
        setting: see `Columns.setting`.

    Raises:
        DataError: a column is missing or occurs more than once.
    """
    for name in roles.values():
        if columns.count(name) > 1:
            require_column(name, columns, source, "another header")
    missing = {role: name for role, name in roles.items() if name not in columns}
    if not missing:
        return
    present = ", ".join(columns) or "none"
    if len(missing) == len(roles) and any(map(_DATUM.fullmatch, columns)):
        raise DataError(
            f"the file has no header: its first line holds data ({present})",
            file=source,
            remedy=f"Put a line on top that names the columns, such as {','.join(roles.values())}.",
        )
    problem = f"the column is missing; the columns found are {present}"
    raise DataError(
        problem,
        file=source,
        field=next(iter(missing.values())),
        remedy=_remedy(missing, [name for name in columns if name not in roles.values()], setting),
    )


def _remedy(missing: Mapping[str, str], free: list[str], setting: str) -> str:
    if not free or len(free) < len(missing):
        names = ", ".join(missing.values())
        return (
            f"Add {names} to the header, with a value in each row. Columns are separated by "
            "commas, semicolons, tabs or bars."
        )
    guesses = {role: _guess(role, free) for role in missing}
    if not setting:
        renamed = ", ".join(f"{guesses[role] or '...'} to {missing[role]}" for role in missing)
        return f"Rename columns: {renamed}."
    parts = (setting.format(role=role, name=guesses[role] or "COLUMN") for role in missing)
    separator = " " if setting.startswith("--") else ", "
    where = "" if setting.startswith("--") else " under [data] in site.toml"
    return f"Say which columns to read with {separator.join(parts)}{where}, or rename them."


def _guess(role: str, free: list[str]) -> str | None:
    """Return the column that is probably meant, and take it from `free`."""
    names = [name for name in free if re.search(_USUAL.get(role, "$^"), name, re.IGNORECASE)]
    if not names:
        return free.pop() if len(free) == 1 else None
    # `user_id` goes before `username`.
    name = min(names, key=lambda name: not re.search("id$", name, re.IGNORECASE))
    free.remove(name)
    return name
