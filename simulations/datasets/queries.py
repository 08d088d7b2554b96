"""Queries of a public data set, such as the tags that users gave films.

A table has a row a query. Its columns are called as those of a partner's own table
(`client.data.queries`), or as MovieLens calls those of its tags.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from client.data.config import DataConfig
from client.data.queries import read_queries
from shared.data.catalogue import Catalogue
from shared.data.queries import Asked
from shared.data.tables import file_tables

__all__ = ["read_query_table"]

_NAMES = (("user_id", "userId"), ("item_id", "movieId"), ("query", "tag"))
"""How the columns may be called; the first where none is there, which is then refused."""


def read_query_table(
    file: Path, catalogue: Catalogue, attributes: Sequence[str] = ()
) -> tuple[Asked, ...]:
    """Return the queries whose item the catalogue has.

    Args:
        file: the table.
        catalogue: the items.
        attributes: columns of what users have declared.

    Raises:
        SiteError: the file is not there.
        DataError: it is no table, lacks a column, or a row cannot be read.
    """
    present = next(iter(file_tables(file))).columns if file.exists() else ()
    user, item, query = (
        next((name for name in names if name in present), names[0]) for names in _NAMES
    )
    data = DataConfig(source=str(file), queries=file.name, user=user, item=item, query_column=query)
    data = replace(data, query_attributes=tuple(attributes))
    return tuple(read_queries(data, file.parent, catalogue, section="lab"))
