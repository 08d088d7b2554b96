"""Read a data set: the embedded one, a folder of yours, or MovieLens's own files.

| what the folder holds                                    | what happens                         |
|----------------------------------------------------------|--------------------------------------|
| interactions and items, each as .csv or .parquet         | read under the default column names  |
| ratings and movies, each as .csv or .dat, as MovieLens   | read under MovieLens's column names; |
|   publishes them                                         |   every rating is an interaction     |
| neither pair, or no such folder                          | refused, with what was looked for    |
| both pairs, or one file in two formats                   | refused as ambiguous                 |
| also users, as .csv, .parquet or (with .dat) .dat        | groups of users, see `groups`        |

The embedded set is MovieLens latest-small: F. Maxwell Harper and Joseph A. Konstan, "The MovieLens
Datasets: History and Context", ACM TiiS 5(4), 2015. Its terms are in the README.txt beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shared.data.catalogue import Catalogue, ItemColumns, items_from_table, read_items
from shared.data.histories import Histories
from shared.data.reading import Columns, histories_from_tables, read_histories
from shared.data.tables import MemoryTable
from shared.errors import DataError
from simulations.datasets.groups import Groups, groups_of, read_users
from simulations.datasets.movielens import MOVIES, RATINGS, read_dat

__all__ = ["EMBEDDED", "Dataset", "load", "load_items"]

EMBEDDED = Path(__file__).parents[1] / "data" / "ml-latest-small"
"""The data set that ships with the lab."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Public interactions to simulate a federation with.

    Attributes:
        name: its name in reports.
        catalogue: all items, including those without any interaction.
        histories: one per user, over that catalogue.
        groups: for each grouping, every user's group in the order of `histories`; may be empty.
    """

    name: str
    catalogue: Catalogue
    histories: Histories
    groups: Groups = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """A folder layout: two file names, their allowed suffixes and their columns."""

    interactions: str
    items: str
    suffixes: tuple[str, ...]
    columns: Columns
    item_columns: ItemColumns

    def files(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the files of this layout in `folder`: interactions, items."""
        interactions = [folder / (self.interactions + suffix) for suffix in self.suffixes]
        items = [folder / (self.items + suffix) for suffix in self.suffixes]
        return [p for p in interactions if p.exists()], [p for p in items if p.exists()]

    def users(self, folder: Path) -> list[Path]:
        """Return the tables of users in `folder`, in any supported format."""
        suffixes = dict.fromkeys((".csv", ".parquet", *self.suffixes))
        return [path for suffix in suffixes if (path := folder / f"users{suffix}").exists()]

    def __str__(self) -> str:
        suffixes = "|".join(self.suffixes)
        return f"{self.interactions}({suffixes}) with {self.items}({suffixes})"


_LAYOUTS = (
    _Layout(
        interactions="interactions",
        items="items",
        suffixes=(".csv", ".parquet"),
        columns=Columns(),
        item_columns=ItemColumns(),
    ),
    _Layout(
        interactions="ratings",
        items="movies",
        suffixes=(".csv", ".dat"),
        columns=Columns(user="userId", item="movieId", time="timestamp"),
        item_columns=ItemColumns(item="movieId", genres="genres"),
    ),
)


def load(
    folder: Path | str | None = None,
    columns: Columns | None = None,
    item_columns: ItemColumns | None = None,
) -> Dataset:
    """Read a folder's interactions and items; see the table on top of this module.

    Args:
        folder: where they are; None means the embedded MovieLens latest-small.
        columns: names of the interaction columns; None takes the layout's.
        item_columns: names of the item columns; None takes the layout's.

    Returns:
        The data set, named after its folder.

    Raises:
        DataError: the folder or one of its files is not what it should be.
    """
    folder = EMBEDDED if folder is None else Path(folder)
    layout, interactions, items = _locate(folder)
    columns, item_columns = columns or layout.columns, item_columns or layout.item_columns
    catalogue = _read_items(items, item_columns)
    if interactions.suffix == ".dat":
        table = read_dat(interactions, RATINGS)
        rows = MemoryTable(table, str(interactions))
        histories = histories_from_tables([rows], catalogue, columns, source=rows.source)
    else:
        histories = read_histories(interactions, catalogue, columns)
    groups = _read_groups(folder, layout.users(folder), columns.user, histories)
    return Dataset(folder.resolve().name, catalogue, histories, groups)


def load_items(folder: Path | str, item_columns: ItemColumns | None = None) -> Catalogue:
    """Read a folder's items without its interactions; a saved catalogue's folder works too.

    Args:
        folder: holds items or movies in one of the forms above.
        item_columns: names of the item columns; None takes the layout's.

    Raises:
        DataError: there is no such file, there are several, or it is not what it should be.
    """
    folder = Path(folder)
    matches = [(layout, path) for layout in _LAYOUTS for path in layout.files(folder)[1]]
    if len(matches) != 1:
        names = " or ".join(f"{layout.items}({'|'.join(layout.suffixes)})" for layout in _LAYOUTS)
        several = ", ".join(path.name for _, path in matches)
        problem = f"it holds several lists of items: {several}" if matches else "it holds no items"
        raise DataError(problem, file=folder, remedy=f"Give a folder with one {names}.")
    [(layout, path)] = matches
    return _read_items(path, item_columns or layout.item_columns)


def _read_groups(folder: Path, files: list[Path], column: str, histories: Histories) -> Groups:
    if not files:
        return {}
    if len(files) > 1:
        several = ", ".join(path.name for path in files)
        problem = f"it is not clear which table of users to read: {several}"
        raise DataError(problem, file=folder, remedy="Leave one of them.")
    return groups_of(read_users(files[0]), column, histories.users, files[0])


def _read_items(path: Path, columns: ItemColumns) -> Catalogue:
    if path.suffix == ".dat":
        return items_from_table(read_dat(path, MOVIES), columns, path)
    return read_items(path, columns)


def _locate(folder: Path) -> tuple[_Layout, Path, Path]:
    """Return the layout of `folder`, its file of interactions and its file of items."""
    expected = [str(layout) for layout in _LAYOUTS]
    if not folder.is_dir():
        problem = "this is not a folder" if folder.exists() else "the folder does not exist"
        raise DataError(
            problem, file=folder, remedy=f"Give one that holds {' or '.join(expected)}."
        )
    matches = [(layout, *files) for layout in _LAYOUTS if all(files := layout.files(folder))]
    if not matches:
        present = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        problem = f"it holds neither {' nor '.join(expected)}, but {present}"
        raise DataError(problem, file=folder, remedy="Rename the files, or give another folder.")
    layout, interactions, items = matches[0]
    if len(matches) > 1 or len(interactions) > 1 or len(items) > 1:
        several = [path.name for _, *pair in matches for paths in pair for path in paths]
        problem = f"it is not clear which files to read: {', '.join(several)}"
        raise DataError(problem, file=folder, remedy="Leave one file of each kind.")
    return layout, interactions[0], items[0]
