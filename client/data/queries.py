"""A partner's table of queries: who asked for what in words, and which item was then chosen.

| what the table holds                               | what happens                                |
|----------------------------------------------------|---------------------------------------------|
| it is not there, is no table, or lacks a column    | refused, before anything is charged         |
| a user, item, text or time that is empty or cannot | refused, with the row, by `sotto-node       |
|   be read                                          |   check`; the row is left out where a       |
|                                                    |   coordinator asks: a failure would tell of |
|                                                    |   that user                                 |
| an item outside the catalogue                      | the row is left out                         |
| a user without a history                           | the row is left out                         |
| times in several forms or units                    | as a time that cannot be read               |
| positions, not times, or histories with positions  | a query stands before the first event of    |
|                                                    |   what was chosen, see `shared.data.queries`|

The columns of users, items and times are those of the interactions. What users have declared may
be in further columns (`data.query_attributes`); an empty value says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from client.data.config import DataConfig
from shared.data.catalogue import Catalogue
from shared.data.columns import require_columns
from shared.data.ids import Batch, canonical_id
from shared.data.interactions import Interactions
from shared.data.queries import Asked, Attributes, declared
from shared.data.tables import Table, connect, file_tables
from shared.data.times import UNREADABLE, TimeColumn
from shared.errors import DataError, SiteError

__all__ = ["read_queries"]


@dataclass(frozen=True, slots=True)
class _Row:
    """One row: canonical ids, its text, and where it stands."""

    user: str
    item: str
    text: str
    attributes: Attributes
    source: str
    number: int


def read_queries(
    data: DataConfig,
    folder: Path,
    catalogue: Catalogue,
    *,
    strict: bool = True,
    section: str = "data",
) -> list[Asked]:
    """Return the queries whose item the catalogue has, in the order of the table.

    Args:
        data: the [data] table; without `queries` there are none.
        folder: base of relative paths.
        catalogue: the items.
        strict: whether a row that cannot be read is an error; otherwise it is left out.
        section: of the settings that name the table, for errors; in that of the lab, "lab", only
            attributes may be called otherwise.

    Raises:
        SiteError: the table is not there.
        DataError: see the table at the top of this module.
    """
    if not data.queries:
        return []
    path = folder / data.queries
    if not path.exists():
        raise SiteError(f"{section}.queries = '{data.queries}': not in {folder}. Check the path.")
    rows: list[_Row] = []
    with connect() as connection:
        times = TimeColumn(connection, strict=strict)
        for batch, read in _batches(data, path, section):
            times.add(batch)
            rows += read
        moments, known = _moments(times, len(rows), strict=strict)
    numbers = catalogue.find([row.item for row in rows])
    asked = []
    for row, item, moment, timed in zip(rows, numbers.tolist(), moments, known, strict=True):
        problem = _problem(row)
        if problem and strict:
            field, value = problem
            raise DataError(
                f"the {field} is empty",
                file=row.source,
                row=row.number,
                field=_columns(data)[field],
                value=value,
                remedy="Leave the row out, or state it.",
            )
        if not problem and timed and item:
            asked.append(Asked(row.user, row.text, item, moment, row.attributes))
    return asked


def _columns(data: DataConfig) -> dict[str, str]:
    """Return the column of each role but the time."""
    return {"user": data.user, "item": data.item, "query": data.query_column}


def _batches(data: DataConfig, path: Path, section: str) -> Iterator[tuple[Batch, list[_Row]]]:
    """Yield rows as the reader of times takes them, and as they are."""
    columns = _columns(data)
    for table in file_tables(path):
        places = "position" in table.columns and "timestamp" not in table.columns
        time = data.time or ("position" if places else "timestamp")
        roles = {"user": data.user, "item": data.item, "query_column": data.query_column}
        setting = '{role} = "{name}"' if section == "data" else ""
        require_columns(roles | {"time": time}, table.columns, table.source, setting)
        _require_attributes(data, table, section)
        number = 1
        for batch in table.batches([*columns.values(), time, *data.query_attributes]):
            users, items, texts, moments, *more = batch.columns
            values = [column.to_pylist() for column in more]
            three = pa.record_batch(
                [users, items, moments], names=[columns["user"], columns["item"], time]
            )
            rows = [
                _Row(
                    *(canonical_id(user or ""), canonical_id(item or ""), text or ""),
                    declared({k: v or "" for k, v in zip(data.query_attributes, own, strict=True)}),
                    *(table.source, n),
                )
                for n, (user, item, text, *own) in enumerate(
                    zip(
                        *(users.to_pylist(), items.to_pylist(), texts.to_pylist()),
                        *values,
                        strict=True,
                    ),
                    start=number,
                )
            ]
            yield Batch(three, table.source, number), rows
            number += batch.num_rows


def _require_attributes(data: DataConfig, table: Table, section: str) -> None:
    for name in data.query_attributes:
        if (times := table.columns.count(name)) != 1:
            problem = "is missing" if not times else "occurs more than once"
            raise DataError(
                f"the column {problem}; the columns found are {', '.join(table.columns)}",
                file=table.source,
                field=name,
                remedy=f"Name columns that are there in {section}.query_attributes, or mend the "
                "header.",
            )


def _problem(row: _Row) -> tuple[str, str] | None:
    """Return which field of a row is empty, and what it holds; None where none is."""
    for field, value in (("user", row.user), ("item", row.item), ("query", row.text)):
        if not value.strip():
            return field, value
    return None


def _moments(times: TimeColumn, rows: int, *, strict: bool) -> tuple[list[int | None], list[bool]]:
    """Return each row's time, None for positions, and whether it could be read."""
    whole, fraction = times.values()
    forms = None if strict else times.forms()
    nobody = np.zeros(rows, np.int32)
    read = Interactions(
        *((), (), nobody, nobody), whole, fraction, per_second=times.per_second, forms=forms
    )
    known = np.ones(rows, np.bool_) if forms is None else forms != UNREADABLE
    moments = read.microseconds(np.arange(rows))
    given: list[int | None] = [None] * rows if moments is None else moments.tolist()
    return given, known.tolist()
