"""Who opted in or out, and which items have an end: the partner's own tables.

| table             | columns                                                                     |
|-------------------|-----------------------------------------------------------------------------|
| `wellbeing.users` | the users' ids, `wellbeing` (true or false; empty: neither in nor out), and |
|                   |   perhaps `time_zone` (empty: as the site's)                                |
| `wellbeing.items` | the items' ids, `finite` (true or false; empty: false)                      |

True is also written 1, yes or t, false 0, no or f, in any case. A row that is none of this is
refused. An item that the catalogue does not have is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from client.site.wellbeing import is_time_zone
from shared.data.catalogue import Catalogue
from shared.data.columns import require_columns
from shared.data.ids import canonical_id
from shared.data.tables import FileTable, read_table
from shared.errors import DataError

__all__ = ["UserChoice", "read_finite_items", "read_user_choices"]

_SETTING = '{role} = "{name}"'
_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "0", "0.0"), False),
}


@dataclass(frozen=True, slots=True)
class UserChoice:
    """What a user's row says.

    Attributes:
        wellbeing: whether the user opted in (True) or out (False); None for neither.
        zone: of local time; None for the site's.
    """

    wellbeing: bool | None
    zone: ZoneInfo | None = None


def read_user_choices(file: Path, column: str) -> dict[str, UserChoice]:
    """Read the table of users; keys are canonical ids.

    Args:
        file: CSV, TSV or Parquet.
        column: name of the column of ids.

    Raises:
        DataError: it cannot be read, or a row is not as above.
    """
    table = FileTable(file)
    zones = ["time_zone"] if "time_zone" in table.columns else []
    choices = dict[str, UserChoice]()
    for row, (user, said, *zone) in _rows(table, "user", column, ["wellbeing", *zones]):
        name = zone[0] if zone else ""
        if name and not is_time_zone(name):
            raise _unfit(file, row, "time_zone", name, "no time zone", "Name it as Europe/Berlin.")
        choices[user] = UserChoice(
            _truth(file, row, "wellbeing", said), ZoneInfo(name) if name else None
        )
    return choices


def read_finite_items(file: Path, column: str, catalogue: Catalogue) -> NDArray[np.bool_]:
    """Read which items have an end: by internal id, bool [V + 1].

    Args:
        file: CSV, TSV or Parquet.
        column: name of the column of ids.
        catalogue: the items.

    Raises:
        DataError: it cannot be read, a row is not as above, or no item is finite.
    """
    items = list[str]()
    for row, (item, said) in _rows(FileTable(file), "item", column, ["finite"]):
        if _truth(file, row, "finite", said):
            items.append(item)
    finite = np.zeros(len(catalogue) + 1, np.bool_)
    finite[catalogue.find(items)] = True
    finite[0] = False
    if not finite.any():
        raise DataError(
            "no item of the catalogue is finite by it",
            file=file,
            field="finite",
            remedy="Mark items that have an end with true, or set wellbeing.finite_worth = 1.",
        )
    return finite


def _rows(
    table: FileTable, role: str, column: str, others: list[str]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield each row's number, from 1, with its canonical id and other values; missing ones ""."""
    require_columns({role: column}, table.columns, table.path, _SETTING)
    for name in others:
        if name not in table.columns:
            raise DataError(
                f"there is no column {name!r} among {', '.join(table.columns)}",
                file=table.path,
                remedy=f"Add it: docs/wellbeing.md says what it holds beside {column!r}.",
            )
    read = read_table(table, [column, *others])
    columns = [read[name].to_pylist() for name in (column, *others)]
    for row, (name, *values) in enumerate(zip(*columns, strict=True), start=1):
        form = canonical_id(name or "")
        if not form:
            raise _unfit(table.path, row, column, name, "the id is empty", "Leave the row out.")
        yield row, (form, *((value or "").strip() for value in values))


def _truth(file: Path, row: int, field: str, text: str) -> bool | None:
    if not text:
        return None
    truth = _WORDS.get(text.casefold())
    if truth is None:
        raise _unfit(file, row, field, text, "neither true nor false", "Write true or false.")
    return truth


def _unfit(
    file: Path, row: int, field: str, value: str | None, problem: str, remedy: str
) -> DataError:
    return DataError(problem, file=file, row=row, field=field, value=value, remedy=remedy)
