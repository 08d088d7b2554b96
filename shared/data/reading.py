"""Interactions files -> one history per user, and back.

Rows are checked and cleaned by this table, from top to bottom:

| what the file holds                                 | what happens                               |
|-----------------------------------------------------|--------------------------------------------|
| not a readable table, or no rows                    | refused, see `shared.data.tables`          |
| no user, item or time column                        | refused, with the columns of the file, and |
|                                                     |   the setting that names the right ones    |
| a user or item id that is empty, a spelling of a    | refused, with the row: see                 |
|   missing value, or a rounded number                |   `shared.data.ids`                        |
| ids in several spellings                            | one canonical form, see the same           |
| a `timestamp` that is no time, or of another form   | refused, with the row: see                 |
|   or unit than the others                           |   `shared.data.times`                      |
| a `position` that is no whole number                | refused, with the row                      |
| one (user, item, time) several times                | later copies dropped, counted `duplicate`  |
| an item outside the catalogue                       | dropped, counted `unknown_item`;           |
|                                                     |   refused if nothing is left               |
| events of a user beyond its limits                  | dropped, counted by rule, see              |
|                                                     |   `shared.data.event_limits`               |
| a user with fewer than `min_events` events left     | dropped, counted once in `short_history`;  |
|                                                     |   refused if no user is left               |
| a user with more than `max_length` events left      | only the last are kept                     |
| several events of a user at one time                | in file order, counted as ties             |

A node that answers reads without `strict`: where a row would be refused, its user is left out
instead, counted in `unreadable_user`, and a row without a readable user in `unreadable_row`; where
nothing is left, there are no histories. So no row makes a difference to another user, nor to
whether there is an answer. What is no table, or lacks a column, is refused all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shared.data.catalogue import Catalogue
from shared.data.columns import Columns, require_columns
from shared.data.event_limits import NO_LIMITS, EventLimits
from shared.data.histories import Histories, offsets_of
from shared.data.ids import EXAMPLES, Batch, canonical_id, find_near_ids
from shared.data.interactions import Interactions, collect
from shared.data.summary import Summary
from shared.data.tables import Table, file_tables
from shared.errors import ConfigError, DataError
from shared.system.files import atomic_replacement

__all__ = ["histories_from_tables", "read_histories", "write_interactions"]


_COLUMNS = Columns()


def read_histories(
    path: Path | str,
    catalogue: Catalogue,
    columns: Columns = _COLUMNS,
    *,
    max_length: int | None = None,
    min_events: int = 2,
) -> Histories:
    """Read the interactions in a file, or in a folder of parts.

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
        file_tables(Path(path)),
        catalogue,
        columns,
        source=str(path),
        max_length=max_length,
        min_events=min_events,
    )


def histories_from_tables(  # noqa: PLR0913 what is read, and how
    tables: Iterable[Table],
    catalogue: Catalogue,
    columns: Columns = _COLUMNS,
    *,
    source: str,
    max_length: int | None = None,
    min_events: int = 2,
    strict: bool = True,
    users: Callable[[str], bool] | None = None,
    limits: EventLimits = NO_LIMITS,
) -> Histories:
    """Read the interactions in several tables as if they were one file.

    Args:
        tables: each has the columns. They are read in order, a batch of rows at a time.
        catalogue: the items to keep.
        columns: names of the columns; a time of None is decided by the first table.
        source: name of the whole data in errors.
        max_length: number of last events to keep of each user, >= 1; None keeps all.
        min_events: drop users with fewer events; >= 1.
        strict: whether a row that cannot be read is an error, and so is to find no user at all;
            users of whom a row cannot be read are left out otherwise.
        users: whether to read the user of a canonical id; None reads all. To find nobody is then
            no error.
        limits: on how fast a user's events count; those of others make no difference to it.

    Raises:
        DataError: see the table at the top of this module.
        ConfigError: `max_length` or `min_events` is out of range.
    """
    _at_least_one(max_length=max_length, min_events=min_events)
    with closing(
        _batches(tables, columns, users)
    ) as batches:  # an error ends DuckDB's threads at once
        events = collect(batches, columns.missing, catalogue.index, strict=strict)
    complete = strict and users is None
    if complete and not len(events.user):
        raise DataError("there are no rows", file=source, remedy="Export the data again.")
    internal_ids = catalogue.find(events.items)
    item = internal_ids[events.item]  # [E]; 0 outside the catalogue
    order = events.order()
    repeated = events.repeated(order)
    rows = order[(~repeated & (item > 0))[order]]
    if complete and not len(rows):
        problem = "no item is in the catalogue"
        hints = _item_hints(events.items, catalogue)
        remedy = "Check that both use the same item ids, and that this is the right catalogue."
        remedy = " ".join([*(f"Probably the same: {hint}." for hint in hints), remedy])
        raise DataError(
            problem, file=source, field=columns.item, value=events.items[0], remedy=remedy
        )
    limited = limits.dropped(events.user[rows], item[rows], events.microseconds(rows))
    beyond = np.logical_or.reduce(list(limited.values()))
    limited_rows, rows = rows[beyond], rows[~beyond]
    offered = np.bincount(events.user[limited_rows], minlength=len(events.users))
    counts = np.bincount(events.user[rows], minlength=len(events.users))
    offered += counts
    kept_users = np.flatnonzero(counts >= min_events)
    if complete and not len(kept_users):
        problem = f"no user has {min_events} events with items of the catalogue"
        raise DataError(problem, file=source, remedy="Bring more data, or ask for fewer events.")
    times = events.microseconds(rows)
    kept = Histories(events.users, item[rows], offsets_of(counts), times).select(kept_users)
    dropped = {
        "duplicate": int(repeated.sum()),
        "unknown_item": int((~repeated & (item == 0)).sum()),
        "short_history": len(events.users) - len(kept_users) - int(events.left_out.sum()),
        **{reason: int(marks.sum()) for reason, marks in limited.items()},
        "limited_user": len(np.unique(events.user[limited_rows])),
    }
    if not strict:
        dropped["unreadable_user"] = int(events.left_out.sum())
        dropped["unreadable_row"] = events.nameless
    unknown = [events.items[number] for number in np.flatnonzero(internal_ids == 0)]
    summary = replace(
        _summarise(events, rows, offered, kept_users),
        dropped=dropped,
        hints=(*_item_hints(unknown, catalogue), *_user_hints(events.users)),
    )
    long_enough = (counts >= min_events) | events.left_out
    examples = _dropped_examples(events, internal_ids, repeated, long_enough, limited_rows)
    summary = replace(summary, examples={**examples, **summary.examples})
    return replace(kept if max_length is None else kept.last(max_length), summary=summary)


def _summarise(
    events: Interactions,
    rows: npt.NDArray[np.int64],
    offered: npt.NDArray[np.int64],
    kept_users: npt.NDArray[np.int64],
) -> Summary:
    """Return what the kept rows look like, and how ids were written.

    Args:
        events: all rows.
        rows: those that are kept, sorted.
        offered: rows of each user among them and those that limits dropped.
        kept_users: users that are kept.
    """
    kept = np.zeros(len(events.users), np.bool_)
    kept[kept_users] = True
    rows = rows[kept[events.user[rows]]]
    follows = events.tied(rows)
    tied = np.zeros(len(rows), np.bool_)
    tied[1:] |= follows
    tied[:-1] |= follows
    largest = int(kept_users[offered[kept_users].argmax()]) if len(kept_users) else None
    spellings = {"user": events.user_spellings, "item": events.item_spellings}
    return Summary(
        rows=len(events.user),
        rewritten={column: written.rewritten for column, written in spellings.items()},
        merged={column: written.merged for column, written in spellings.items()},
        events=len(rows),
        ties=int(tied.sum()),
        offered=int(offered[kept_users].sum()),
        largest_user=("", 0) if largest is None else (events.users[largest], int(offered[largest])),
        users=len(kept_users),
        examples={
            column: written.examples for column, written in spellings.items() if written.examples
        },
    )


def _dropped_examples(
    events: Interactions,
    internal_ids: npt.NDArray[np.int64],
    repeated: npt.NDArray[np.bool_],
    long_enough: npt.NDArray[np.bool_],
    limited: npt.NDArray[np.int64],
) -> dict[str, tuple[str, ...]]:
    """Return a few examples of what is dropped, by reason."""
    unknown = np.flatnonzero(internal_ids == 0)[:EXAMPLES]
    short = np.flatnonzero(~long_enough)[:EXAMPLES]
    copies = np.flatnonzero(repeated)[:EXAMPLES]
    examples = {
        "duplicate": [
            f"user {events.users[events.user[row]]!r} with item {events.items[events.item[row]]!r}"
            for row in copies
        ],
        "unknown_item": [repr(events.items[number]) for number in unknown],
        "short_history": [repr(events.users[number]) for number in short],
        "limited_user": [
            repr(events.users[number]) for number in np.unique(events.user[limited])[:EXAMPLES]
        ],
    }
    return {reason: tuple(shown) for reason, shown in examples.items() if shown}


def _item_hints(unknown: Sequence[str], catalogue: Catalogue) -> list[str]:
    """Return a sentence where unknown items differ from known ones in how they are written."""
    near = find_near_ids(unknown, map(canonical_id, catalogue.item_ids)) if unknown else {}
    return _near_hint(near, "unknown item ids equal one of the catalogue")


def _user_hints(users: Sequence[str]) -> list[str]:
    """Return a sentence where users' ids differ in how they are written alone."""
    hint = _near_hint(find_near_ids(users, users), "user ids equal another one")
    return [f"{text}: if they are the same person, write them the same way" for text in hint]


def _near_hint(near: Mapping[str, str], what: str) -> list[str]:
    if not near:
        return []
    text, other = next(iter(near.items()))
    ways = "leading zeros, case or quotes"
    return [f"{len(near):,} {what} but for {ways}, such as {text!r} and {other!r}"]


def _batches(
    tables: Iterable[Table], columns: Columns, users: Callable[[str], bool] | None
) -> Generator[Batch, None, None]:
    """Yield the user, item and time columns of all tables in batches."""
    for table in tables:
        names, first = table.columns, 1
        if columns.time is None:  # decided by the first table, for all
            times = (name for name in ("timestamp", "position") if name in names)
            columns = replace(columns, time=next(times, "timestamp"))
        names_by_role = {"user": columns.user, "item": columns.item, "time": str(columns.time)}
        require_columns(names_by_role, names, table.source, columns.setting)
        for rows in table.batches(list(names_by_role.values())):
            batch = Batch(rows, table.source, first)
            yield batch if users is None else _of_users(batch, users)
            first += rows.num_rows


def _of_users(batch: Batch, keep: Callable[[str], bool]) -> Batch:
    """Return the rows of the users to keep, and those that name no user."""
    encoded = batch.rows.column(0).dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    kept = np.array([*(keep(canonical_id(text)) for text in texts), True], np.bool_)
    numbers = np.flatnonzero(kept[encoded.indices.fill_null(len(texts)).to_numpy()])
    return replace(batch, rows=batch.rows.take(pa.array(numbers)), numbers=numbers)


def _at_least_one(**limits: int | None) -> None:
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} is {limit}. It must be 1 or more.")


def write_interactions(
    histories: Histories, catalogue: Catalogue, path: Path | str, *, timed: bool = False
) -> None:
    """Write a Parquet file from which `read_histories` with min_events=1 reads the same histories.

    Its columns are user_id, item_id and position, which counts a user's events from 0. Users
    without events are left out.

    Args:
        histories: what is written.
        catalogue: of their items.
        path: the file.
        timed: whether `timestamp`, typed so that its unit is not guessed, takes the place of the
            position.
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
    if timed:
        del columns["position"]
        columns["timestamp"] = pa.array(histories.times, pa.timestamp("us", "UTC"))
    with atomic_replacement(Path(path)) as temporary:
        pq.write_table(pa.table(columns), temporary)
