"""Read RecBole's atomic files: tab-separated, without quotes, with a type in each column's name.

W. X. Zhao et al., "RecBole: Towards a Unified, Comprehensive and Efficient Framework for
Recommendation Algorithms", CIKM 2021; https://recbole.io/docs/user_guide/data/atomic_files.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from shared.data.csv_files import CsvFile
from shared.data.tables import FileTable, read_table

__all__ = ["AtomicFile", "read_atomic_items"]

_ROLES = {
    "title": ("title", "movie_title", "item_name", "name"),
    "genres": ("genres", "genre", "class", "categories", "category"),
    "year": ("year", "release_year"),
}
"""The names under which RecBole's data sets have the columns of an items file."""


class AtomicFile:
    """A .inter, .item or .user file, its columns without their types.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        self.table = FileTable(path, text=CsvFile(path, self.source, "\t", quoted=False))

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns: `user_id` for `user_id:token`."""
        return [name.partition(":")[0] for name in self.table.columns]

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the named columns as text in batches of rows, in file order."""
        typed = dict(zip(self.columns, self.table.columns, strict=True))
        for batch in self.table.batches([typed[name] for name in names]):
            yield batch.rename_columns(list(names))

    def read(self) -> pa.Table:
        """Return all columns."""
        return read_table(self.table, self.table.columns).rename_columns(list(self.columns))


def read_atomic_items(path: Path) -> pa.Table:
    """Read a .item file as columns `item_id`, `title` and, where there are, `genres` and `year`.

    Genres are separated by blanks, as RecBole writes sequences.

    Raises:
        DataError: the file is damaged, or has no rows.
    """
    table = AtomicFile(path).read()
    for role, names in _ROLES.items():
        name = next((name for name in names if name in table.column_names), None)
        if name is None or role in table.column_names:
            continue
        renamed = [role if column == name else column for column in table.column_names]
        table = table.rename_columns(renamed)
    if "title" not in table.column_names and "item_id" in table.column_names:
        table = table.append_column("title", table["item_id"])
    if "genres" in table.column_names:
        index = table.column_names.index("genres")
        table = table.set_column(index, "genres", pc.replace_substring(table["genres"], " ", "|"))
    return table
