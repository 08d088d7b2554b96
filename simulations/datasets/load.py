"""Read a data set: the embedded one, a folder of yours, or MovieLens's own files.

| what the folder holds                                    | what happens                         |
|----------------------------------------------------------|--------------------------------------|
| interactions and items, each as .csv, .tsv, .parquet or  | read under the default column names  |
|   a folder of parts, as Spark writes                     |                                      |
| ratings and movies, each as .csv or .dat, as MovieLens   | read under MovieLens's column names; |
|   publishes them                                         |   every rating is an interaction     |
| u.data and u.item (u.user), as MovieLens 100K            | the same                             |
| NAME.inter and NAME.item (NAME.user), as RecBole         | read under the names in their header |
| none of these pairs, or no such folder                   | refused, with what was looked for    |
| two pairs, or one file in two formats                    | refused as ambiguous                 |
| also users, as .csv, .parquet or (with .dat) .dat        | groups of users, see `groups`        |

The embedded set is MovieLens latest-small: F. Maxwell Harper and Joseph A. Konstan, "The MovieLens
Datasets: History and Context", ACM TiiS 5(4), 2015. Its terms are in the README.txt beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from shared.data.catalogue import Catalogue, items_from_table, read_items
from shared.data.columns import Columns, ItemColumns, require_columns
from shared.data.event_limits import LIMITS, EventLimits
from shared.data.friends import FriendTable
from shared.data.histories import Histories
from shared.data.queries import Asked
from shared.data.reading import histories_from_tables
from shared.data.tables import SUFFIXES, MemoryTable, Table, file_tables, read_table
from shared.errors import DataError
from simulations.datasets.groups import Groups, groups_of, read_users
from simulations.datasets.movielens import MOVIES, RATINGS, U_USER, read_dat, read_u_item
from simulations.datasets.organisations import organisations_of
from simulations.datasets.recbole import AtomicFile, read_atomic_items

__all__ = ["EMBEDDED", "Dataset", "items_file", "load", "load_item_column", "load_items"]

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
        organisations: of every user, in the order of `histories`; empty where no column names it.
        queries: what users asked for in words; empty where no table is named.
        friends: who is whose friend; None where no table is named.
    """

    name: str
    catalogue: Catalogue
    histories: Histories
    groups: Groups = field(default_factory=dict)
    organisations: tuple[str, ...] = ()
    queries: tuple[Asked, ...] = ()
    friends: FriendTable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """A folder layout: the names and suffixes of two files, and their columns.

    A name of "*" matches any. A suffix of "/" means a folder of parts.
    """

    interactions: str
    items: str
    suffixes: tuple[str, ...]
    columns: Columns
    item_columns: ItemColumns
    item_suffixes: tuple[str, ...] = ()
    user_files: tuple[str, ...] = ("users.csv", "users.parquet")

    def files(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the files of this layout in `folder`: interactions, items."""
        item_suffixes = self.item_suffixes or self.suffixes
        return (
            _matching(folder, self.interactions, self.suffixes),
            _matching(folder, self.items, item_suffixes),
        )

    def users(self, folder: Path) -> list[Path]:
        """Return the tables of users in `folder`, in any supported format."""
        return [path for name in self.user_files for path in sorted(folder.glob(name))]

    def __str__(self) -> str:
        suffixes = "|".join(self.suffixes)
        items = "|".join(self.item_suffixes) or suffixes
        return f"{self.interactions}({suffixes}) with {self.items}({items})"


def _matching(folder: Path, name: str, suffixes: Sequence[str]) -> list[Path]:
    """Return what `folder` holds under a name with one of the suffixes."""
    if name == "*":
        paths = sorted(path for suffix in suffixes for path in folder.glob(f"*{suffix}"))
        # MovieLens 100K's list of films has the suffix of RecBole's.
        return [path for path in paths if path.name != "u.item"]
    paths = [folder / (name + suffix) for suffix in suffixes]
    return [path for path in paths if path.exists() and (path.suffix or path.is_dir())]


_SUFFIXES = (*SUFFIXES, "/")
_SETTINGS = {
    "interactions": "--set lab.{role}={name}",
    "items": "--set lab.catalogue_{role}={name}",
}
_LAYOUTS = (
    _Layout(
        interactions="interactions",
        items="items",
        suffixes=_SUFFIXES,
        columns=Columns(),
        item_columns=ItemColumns(),
    ),
    _Layout(
        interactions="ratings",
        items="movies",
        suffixes=(".csv", ".dat"),
        columns=Columns(user="userId", item="movieId", time="timestamp"),
        item_columns=ItemColumns(item="movieId", genres="genres"),
        user_files=("users.csv", "users.parquet", "users.dat"),
    ),
    _Layout(
        interactions="u",
        items="u",
        suffixes=(".data",),
        item_suffixes=(".item",),
        columns=Columns(user="userId", item="movieId", time="timestamp"),
        item_columns=ItemColumns(item="movieId", genres="genres"),
        user_files=("u.user",),
    ),
    _Layout(
        interactions="*",
        items="*",
        suffixes=(".inter",),
        item_suffixes=(".item",),
        columns=Columns(),
        item_columns=ItemColumns(),
        user_files=("*.user",),
    ),
)


def load(
    folder: Path | str | None = None,
    columns: Columns | None = None,
    item_columns: ItemColumns | None = None,
    organisation: str = "",
    limits: EventLimits = LIMITS,
) -> Dataset:
    """Read a folder's interactions and items; see the table on top of this module.

    Args:
        folder: where they are; None means the embedded MovieLens latest-small.
        columns: names of the interaction columns; None takes the layout's.
        item_columns: names of the item columns; None takes the layout's.
        organisation: column of interactions or users that names a user's organisation; "" where
            the lab assigns users.
        limits: on how fast a user's events count, as a partner's data have them.

    Returns:
        The data set, named after its folder.

    Raises:
        DataError: the folder or one of its files is not what it should be.
    """
    folder = EMBEDDED if folder is None else Path(folder)
    layout, interactions, items = _locate(folder)
    columns = _merge_columns(columns or Columns(), layout.columns)
    catalogue = _read_items(items, _merge_item_columns(item_columns, layout.item_columns))
    histories = histories_from_tables(
        _open_interactions(interactions),
        catalogue,
        columns,
        source=str(interactions),
        limits=limits,
    )
    users = layout.users(folder)
    groups = _read_groups(folder, users, columns.user, histories)
    organisations: tuple[str, ...] = ()
    if organisation:
        tables = [*_open_interactions(interactions), *map(_open_users, users)]
        organisations = organisations_of(
            organisation, histories.users, columns.user, tables, folder
        )
    return Dataset(folder.resolve().name, catalogue, histories, groups, organisations)


def _merge_columns(columns: Columns, layout: Columns) -> Columns:
    """Return the columns, those of the layout where none other than the default is named."""
    default = Columns()
    return replace(
        columns,
        user=layout.user if columns.user == default.user else columns.user,
        item=layout.item if columns.item == default.item else columns.item,
        time=layout.time if columns.time == default.time else columns.time,
        setting=_SETTINGS["interactions"],
    )


def _merge_item_columns(columns: ItemColumns | None, layout: ItemColumns) -> ItemColumns:
    """Return the columns, those of the layout where none other than the default is named."""
    default = ItemColumns()
    columns = columns or default
    return replace(
        columns,
        item=layout.item if columns.item == default.item else columns.item,
        title=layout.title if columns.title == default.title else columns.title,
        genres=columns.genres or layout.genres,
        setting=_SETTINGS["items"],
    )


def _open_interactions(path: Path) -> Sequence[Table]:
    if path.suffix in (".dat", ".data"):
        separator = "::" if path.suffix == ".dat" else "\t"
        return [MemoryTable(read_dat(path, RATINGS, separator), str(path))]
    return [AtomicFile(path)] if path.suffix == ".inter" else file_tables(path)


def load_items(folder: Path | str, item_columns: ItemColumns | None = None) -> Catalogue:
    """Read a folder's items without its interactions; a saved catalogue's folder works too.

    Args:
        folder: holds items or movies in one of the forms above.
        item_columns: names of the item columns; None takes the layout's.

    Raises:
        DataError: there is no such file, there are several, or it is not what it should be.
    """
    layout, path = _items_file(Path(folder))
    return _read_items(path, _merge_item_columns(item_columns, layout.item_columns))


def items_file(folder: Path | str) -> Path:
    """Return the file, or folder of parts, that `load_items` reads.

    Raises:
        DataError: there is no such file, or there are several.
    """
    return _items_file(Path(folder))[1]


def load_item_column(folder: Path | str, column: str) -> tuple[Path, list[str]]:
    """Read one more column of a folder's list of items.

    Args:
        folder: as of `load_items`.
        column: its name.

    Returns:
        The file, or folder of parts; and what stands in the column for each item, "" for nothing.

    Raises:
        DataError: as `load_items`; or it has no such column, or is of a form without named columns.
    """
    path = _items_file(Path(folder))[1]
    if path.suffix in (".dat", ".item"):
        problem = "its columns have no names, so that none can name files"
        raise DataError(problem, file=path, remedy="Give items.csv or items.parquet.")
    texts: list[str] = []
    for table in file_tables(path):
        require_columns({"column": column}, table.columns, table.source, "--{role} {name}")
        texts += [text or "" for text in read_table(table, [column])[column].to_pylist()]
    return path, texts


def _items_file(folder: Path) -> tuple[_Layout, Path]:
    """Return the layout of a folder's list of items, and where it is."""
    matches = [(layout, path) for layout in _LAYOUTS for path in layout.files(folder)[1]]
    if len(matches) != 1:
        names = " or ".join(f"{layout.items}({'|'.join(layout.suffixes)})" for layout in _LAYOUTS)
        several = ", ".join(path.name for _, path in matches)
        problem = f"it holds several lists of items: {several}" if matches else "it holds no items"
        raise DataError(problem, file=folder, remedy=f"Give a folder with one {names}.")
    return matches[0]


def _read_groups(folder: Path, files: list[Path], column: str, histories: Histories) -> Groups:
    if not files:
        return {}
    if len(files) > 1:
        several = ", ".join(path.name for path in files)
        problem = f"it is not clear which table of users to read: {several}"
        raise DataError(problem, file=folder, remedy="Leave one of them.")
    [file] = files
    return groups_of(_read_users(file), column, histories.users, file)


def _read_users(file: Path) -> pa.Table:
    if file.suffix == ".user":
        return AtomicFile(file).read() if file.name != "u.user" else read_dat(file, U_USER, "|")
    return read_users(file)


def _open_users(file: Path) -> Table:
    return MemoryTable(_read_users(file), str(file))


def _read_items(path: Path, columns: ItemColumns) -> Catalogue:
    if path.suffix == ".dat":
        return items_from_table(read_dat(path, MOVIES), columns, path)
    if path.suffix != ".item":
        return read_items(path, columns)
    if path.name == "u.item":
        return items_from_table(read_u_item(path), columns, path)
    table = read_atomic_items(path)
    columns = replace(
        columns,
        genres=columns.genres or ("genres" if "genres" in table.column_names else None),
        year=columns.year or ("year" if "year" in table.column_names else None),
    )
    names = {"item": columns.item, "title": columns.title}
    require_columns(names, table.column_names, path, columns.setting)
    return items_from_table(table, columns, path)


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
