"""Interactions files -> one history per user, and back.

Rows are checked and cleaned by this table, from top to bottom:

| what the file holds                                 | what happens                               |
|-----------------------------------------------------|--------------------------------------------|
| not a readable .csv or .parquet file, or no rows    | refused, see `shared.data.tables`          |
| no user, item or time column                        | refused, with the columns of the file      |
| an empty or missing user or item id                 | refused, with the row                      |
| a `timestamp` that is no finite number of seconds,  | refused, with the row                      |
|   no ISO 8601 date or date and time                 |                                            |
| numbers and ISO 8601 texts in one `timestamp`       | refused, with a row of the rarer kind      |
| a `position` that is no whole number                | refused, with the row                      |
| one (user, item, time) several times                | later copies dropped, counted `duplicate`  |
| an item outside the catalogue                       | dropped, counted `unknown_item`;           |
|                                                     |   refused if nothing is left               |
| a user with fewer than `min_events` events left     | dropped, counted once in `short_history`;  |
|                                                     |   refused if no user is left               |
| a user with more than `max_length` events left      | only the last are kept                     |

A time without an offset is in UTC. Times are compared to the microsecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shared.data.catalogue import Catalogue
from shared.data.histories import Histories, offsets_of
from shared.data.interactions import Batch, collect
from shared.data.tables import FileTable, Table, require_column
from shared.errors import ConfigError, DataError
from shared.system.files import atomic_replacement

__all__ = ["Columns", "histories_from_tables", "read_histories", "write_interactions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of the columns of an interactions file.

    Attributes:
        user: the column of user ids.
        item: the column of public item ids.
        time: the column that orders a user's events. None means `timestamp` if the file has such
            a column, else `position`. A column named `position` holds whole numbers; any other
            holds numbers (usually seconds) or ISO 8601 texts.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None


_COLUMNS = Columns()


def read_histories(
    path: Path | str,
    catalogue: Catalogue,
    columns: Columns = _COLUMNS,
    *,
    max_length: int | None = None,
    min_events: int = 2,
) -> Histories:
    """Read the interactions in a .csv, .csv.gz or .parquet file.

    Args:
        path: one row per interaction.
        catalogue: the items to keep.
        columns: names of the columns.
        max_length: number of last events to keep of each user, >= 1; None keeps all.
        min_events: drop users with fewer events; >= 1.

    Raises:
        DataError: see the table at the top of this module.
        ConfigError: `max_length` or `min_events` is out of range.
    """
    return histories_from_tables(
        [FileTable(Path(path))],
        catalogue,
        columns,
        source=str(path),
        max_length=max_length,
        min_events=min_events,
    )


def histories_from_tables(
    tables: Iterable[Table],
    catalogue: Catalogue,
    columns: Columns = _COLUMNS,
    *,
    source: str,
    max_length: int | None = None,
    min_events: int = 2,
) -> Histories:
    """Read the interactions in several tables as if they were one file.

    Args:
        tables: each has the columns. They are read in order, a batch of rows at a time.
        catalogue: the items to keep.
        columns: names of the columns; a time of None is decided by the first table.
        source: name of the whole data in errors.
        max_length: number of last events to keep of each user, >= 1; None keeps all.
        min_events: drop users with fewer events; >= 1.

    Raises:
        DataError: see the table at the top of this module.
        ConfigError: `max_length` or `min_events` is out of range.
    """
    _at_least_one(max_length=max_length, min_events=min_events)
    events = collect(_batches(tables, columns))
    if not len(events.user):
        raise DataError("there are no rows", file=source, remedy="Export the data again.")
    internal_ids = np.array([catalogue.index.get(item, 0) for item in events.items], np.int64)
    item = internal_ids[events.item]  # [E]; 0 outside the catalogue
    order = events.order()
    repeated = events.repeated(order)
    rows = order[(~repeated & (item > 0))[order]]
    if not len(rows):
        problem = "no item is in the catalogue"
        remedy = "Check that both use the same item ids, and that this is the right catalogue."
        raise DataError(problem, file=source, field=columns.item, remedy=remedy)
    counts = np.bincount(events.user[rows], minlength=len(events.users))
    kept_users = np.flatnonzero(counts >= min_events)
    if not len(kept_users):
        problem = f"no user has {min_events} events with items of the catalogue"
        raise DataError(problem, file=source, remedy="Bring more data, or ask for fewer events.")
    kept = Histories(events.users, item[rows], offsets_of(counts)).select(kept_users)
    dropped = {
        "duplicate": int(repeated.sum()),
        "unknown_item": int((~repeated & (item == 0)).sum()),
        "short_history": len(events.users) - len(kept_users),
    }
    return replace(kept if max_length is None else kept.last(max_length), dropped=dropped)


def _batches(tables: Iterable[Table], columns: Columns) -> Iterator[Batch]:
    """Yield the user, item and time columns of all tables in batches."""
    for table in tables:
        names, first = table.columns, 1
        if columns.time is None:  # decided by the first table, for all
            times = (name for name in ("timestamp", "position") if name in names)
            columns = replace(columns, time=next(times, "timestamp"))
        names_by_role = {"user": columns.user, "item": columns.item, "time": str(columns.time)}
        for role, name in names_by_role.items():
            require_column(name, names, table.source, f"{role} = '...'")
        for rows in table.batches(list(names_by_role.values())):
            yield Batch(rows, table.source, first)
            first += rows.num_rows


def _at_least_one(**limits: int | None) -> None:
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} is {limit}. It must be 1 or more.")


def write_interactions(histories: Histories, catalogue: Catalogue, path: Path | str) -> None:
    """Write a Parquet file from which `read_histories` with min_events=1 reads the same histories.

    Its columns are user_id, item_id and position, which counts a user's events from 0. Users
    without events are left out.
    """
    lengths = histories.lengths
    positions = np.arange(histories.events) - np.repeat(histories.offsets[:-1], lengths)
    ids, users = pa.array(catalogue.item_ids, pa.string()), pa.array(histories.users, pa.string())
    rows = np.repeat(np.arange(len(histories)), lengths)
    columns = {
        "user_id": users.take(pa.array(rows)),
        "item_id": ids.take(pa.array(histories.items - 1)),
        "position": pa.array(positions, pa.int64()),
    }
    with atomic_replacement(Path(path)) as temporary:
        pq.write_table(pa.table(columns), temporary)
