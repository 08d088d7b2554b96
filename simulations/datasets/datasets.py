"""Data sets for the lab: one that ships with it, a folder of yours, or MovieLens's own files.

| what the folder holds                                    | what happens                         |
|----------------------------------------------------------|--------------------------------------|
| interactions and items, each as .csv or .parquet         | read under the default column names  |
| ratings and movies, each as .csv or .dat, as MovieLens   | read under MovieLens's column names; |
|   publishes them                                         |   every rating is an interaction     |
| neither pair, or no such folder                          | refused, with what was looked for    |
| both pairs, or one file in two formats                   | refused as ambiguous                 |
| users beside them, as .csv, .parquet or (with .dat) .dat | groups of users, see `groups`        |

The embedded set is MovieLens latest-small: F. Maxwell Harper and Joseph A. Konstan, "The MovieLens
Datasets: History and Context", ACM TiiS 5(4), 2015. Its terms are in the README.txt beside it.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from shared.data.catalogue import Catalogue, ItemColumns, items_from_table, read_items
from shared.data.histories import Columns, Histories, histories_from_tables, read_histories
from shared.data.tables import MemoryTable
from shared.errors import DataError, FetchError
from simulations.datasets.movielens import MOVIES, RATINGS, read_dat
from simulations.experiment.groups import Groups, groups_of, read_users

__all__ = ["EMBEDDED", "SOURCES", "Dataset", "Source", "fetch", "load", "load_items"]

EMBEDDED = Path(__file__).parents[1] / "data" / "ml-latest-small"
"""The data set that ships with the lab."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Public interactions to simulate a federation with.

    Attributes:
        name: what reports call it.
        catalogue: all items, whether or not anyone has met them.
        histories: one per user, over that catalogue.
        groups: by name, each user's group in the order of the histories; empty without any.
    """

    name: str
    catalogue: Catalogue
    histories: Histories
    groups: Groups = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """A way to lay out a folder: two file names, the suffixes they may have, their columns."""

    interactions: str
    items: str
    suffixes: tuple[str, ...]
    columns: Columns
    item_columns: ItemColumns

    def found(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The files of this form in `folder`: interactions, items."""
        interactions = [folder / (self.interactions + suffix) for suffix in self.suffixes]
        items = [folder / (self.items + suffix) for suffix in self.suffixes]
        return [p for p in interactions if p.exists()], [p for p in items if p.exists()]

    def users(self, folder: Path) -> list[Path]:
        """The tables of users in `folder`, whatever their suffix."""
        suffixes = dict.fromkeys((".csv", ".parquet", *self.suffixes))
        return [path for suffix in suffixes if (path := folder / f"users{suffix}").exists()]

    def __str__(self) -> str:
        suffixes = "|".join(self.suffixes)
        return f"{self.interactions}({suffixes}) with {self.items}({suffixes})"


_FORMS = (
    _Form(
        interactions="interactions",
        items="items",
        suffixes=(".csv", ".parquet"),
        columns=Columns(),
        item_columns=ItemColumns(),
    ),
    _Form(
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
        columns: what the columns of the interactions are called, if not as the form has it.
        item_columns: what the columns of the items are called, if not as the form has it.

    Returns:
        The data set, called like its folder.

    Raises:
        DataError: the folder or one of its files is not what it should be.
    """
    folder = EMBEDDED if folder is None else Path(folder)
    form, interactions, items = _locate(folder)
    columns, item_columns = columns or form.columns, item_columns or form.item_columns
    catalogue = _read_items(items, item_columns)
    if interactions.suffix == ".dat":
        table = read_dat(interactions, RATINGS)
        rows = MemoryTable(table, str(interactions))
        histories = histories_from_tables([rows], catalogue, columns, source=rows.source)
    else:
        histories = read_histories(interactions, catalogue, columns)
    groups = _read_groups(folder, form.users(folder), columns.user, histories)
    return Dataset(folder.resolve().name, catalogue, histories, groups)


def load_items(folder: Path | str, item_columns: ItemColumns | None = None) -> Catalogue:
    """Read a folder's items alone, for who has no interactions; a catalogue's folder will do.

    Args:
        folder: holds items or movies in one of the forms above.
        item_columns: what the columns are called, if not as the form has it.

    Raises:
        DataError: there is no such file, there are several, or it is not what it should be.
    """
    folder = Path(folder)
    found = [(form, path) for form in _FORMS for path in form.found(folder)[1]]
    if len(found) != 1:
        names = " or ".join(f"{form.items}({'|'.join(form.suffixes)})" for form in _FORMS)
        several = ", ".join(path.name for _, path in found)
        problem = f"it holds several lists of items: {several}" if found else "it holds no items"
        raise DataError(problem, file=folder, remedy=f"Give a folder with one {names}.")
    [(form, path)] = found
    return _read_items(path, item_columns or form.item_columns)


def _read_groups(folder: Path, found: list[Path], column: str, histories: Histories) -> Groups:
    if not found:
        return {}
    if len(found) > 1:
        several = ", ".join(path.name for path in found)
        problem = f"it is not clear which table of users to read: {several}"
        raise DataError(problem, file=folder, remedy="Leave one of them.")
    return groups_of(read_users(found[0]), column, histories.users, found[0])


def _read_items(path: Path, columns: ItemColumns) -> Catalogue:
    if path.suffix == ".dat":
        return items_from_table(read_dat(path, MOVIES), columns, path)
    return read_items(path, columns)


def _locate(folder: Path) -> tuple[_Form, Path, Path]:
    """The one form that `folder` has, its interactions and its items."""
    wanted = [str(form) for form in _FORMS]
    if not folder.is_dir():
        problem = "this is not a folder" if folder.exists() else "the folder does not exist"
        raise DataError(problem, file=folder, remedy=f"Give one that holds {' or '.join(wanted)}.")
    found = [(form, *files) for form in _FORMS if all(files := form.found(folder))]
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        problem = f"it holds neither {' nor '.join(wanted)}, but {there}"
        raise DataError(problem, file=folder, remedy="Rename the files, or give another folder.")
    form, interactions, items = found[0]
    if len(found) > 1 or len(interactions) > 1 or len(items) > 1:
        several = [path.name for _, *pair in found for paths in pair for path in paths]
        problem = f"it is not clear which files to read: {', '.join(several)}"
        raise DataError(problem, file=folder, remedy="Leave one file of each kind.")
    return form, interactions[0], items[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a data set is published, and how to tell that it arrived whole.

    Attributes:
        url: a zip archive.
        algorithm: what `hashlib` calls the checksum that the publisher gives.
        digest: that checksum, in hex.
        members: the files of the archive that are unpacked; nothing else is.
    """

    url: str
    algorithm: str
    digest: str
    members: tuple[str, ...]


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "ml-1m": Source(
            url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            algorithm="md5",
            digest="c4d9eecfca2ab87c1945afe126590906",
            members=("ml-1m/README", "ml-1m/movies.dat", "ml-1m/ratings.dat", "ml-1m/users.dat"),
        )
    }
)


def fetch(
    name: str,
    destination: Path | str,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Download a data set that may not be shipped, verify it, and unpack it.

    Args:
        name: a key of `SOURCES`.
        destination: the folder under which `name` is made, whole or not at all.
        url: a mirror to use; what comes from it must still have the right checksum.
        sha256: the checksum to demand instead of the published one, in hex.
        progress: called with the bytes so far and the bytes in all, None if unknown.

    Returns:
        The new folder, which `load` reads.

    Raises:
        FetchError: the name is unknown, the folder is already there, the download failed, or the
            archive is not the one expected.
    """
    if name not in SOURCES:
        raise FetchError(f"no data set is called {name!r}. Known are: {', '.join(SOURCES)}.")
    source, folder = SOURCES[name], Path(destination) / name
    if folder.exists():
        raise FetchError(f"{folder} is already there. Use it, or remove it first.")
    algorithm, digest = ("sha256", sha256.lower()) if sha256 else (source.algorithm, source.digest)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
            archive, unpacked = Path(scratch) / "archive.zip", Path(scratch) / name
            found = _download(url or source.url, archive, algorithm, progress)
            if found != digest:
                raise FetchError(
                    f"{url or source.url} has the {algorithm} {found}, not {digest}. "
                    "Try again, or another mirror."
                )
            _unpack(archive, unpacked, source.members)
            unpacked.rename(folder)
    except OSError as fault:
        raise FetchError(f"{folder} could not be written: {fault}. Check the folder.") from fault
    return folder


def _download(
    url: str, target: Path, algorithm: str, progress: Callable[[int, int | None], None] | None
) -> str:
    """Stream `url` into `target`; returns the checksum of what came."""
    if not url.startswith(("https://", "http://")):
        raise FetchError(f"{url!r} is not a web address. Give one that starts with https://.")
    digest, received = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        with urllib.request.urlopen(url, timeout=30) as reply, target.open("wb") as file:  # noqa: S310 - checked above
            length = reply.headers.get("Content-Length")
            while block := reply.read(1 << 18):
                digest.update(block)
                file.write(block)
                received += len(block)
                if progress is not None:
                    progress(received, int(length) if length else None)
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise FetchError(
            f"{url} could not be downloaded: {fault}. Check the network, or give a mirror as url."
        ) from fault
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path, members: Sequence[str]) -> None:
    """Write `members` of `archive` into `folder` under their last names, and nothing else."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as package:
            for member in members:
                target = folder / PurePosixPath(member).name
                with package.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)
    except KeyError as fault:
        raise FetchError(
            f"the archive lacks a file: {fault.args[0]}. Try another mirror."
        ) from fault
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as fault:
        raise FetchError(f"the archive is damaged: {fault}. Try another mirror.") from fault
