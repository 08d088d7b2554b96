"""The public item list: ids, texts, features, and a fingerprint that identifies its version.

| what the file holds                             | what happens                              |
|-------------------------------------------------|-------------------------------------------|
| anything that `shared.data.tables` refuses      | refused                                   |
| an item id that is empty or repeated            | refused, with the row                     |
| a year that is not a whole number               | refused, with the row                     |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from shared.data.feature_source import FeatureSource
from shared.data.tables import column_names, read_text, require_column
from shared.errors import DataError
from shared.system.files import atomic_replacement

__all__ = ["Catalogue", "ItemColumns", "items_from_table", "read_items"]

ITEMS_FILE, FEATURES_FILE = "items.parquet", "features.safetensors"
_SOURCE = "source"
_NO_GENRES = "(no genres listed)"
_TRAILING_YEAR = re.compile(r"\((\d{4})\)\s*$")
_YEAR = re.compile(r"(-?\d{1,9})(?:\.0)?")


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """The items that can be recommended, the same at every organisation.

    An item's internal id is its position in the catalogue, counted from 1; 0 is padding.

    Attributes:
        item_ids: the public ids, distinct and not blank; length V.
        titles: length V; a title may be empty.
        genres: the genres of each item, without "|" or surrounding spaces; length V.
        years: length V; None where unknown.
        features: float32 [V, F]; row i describes the item with internal id i + 1.
        source: how the features were computed, if recorded; not part of the fingerprint.

    Raises:
        ValueError: the fields contradict each other or break the rules above.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]
    years: tuple[int | None, ...]
    features: torch.Tensor | None = None
    source: FeatureSource | None = None
    _index: dict[str, int] = field(init=False, repr=False)
    _fingerprint: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.item_ids) == len(self.titles) == len(self.genres) == len(self.years):
            raise ValueError("item_ids, titles, genres and years must have one entry per item")
        if any(not item.strip() for item in self.item_ids):
            raise ValueError("an item id is blank")
        index = {item: number for number, item in enumerate(self.item_ids, start=1)}
        if len(index) != len(self.item_ids):
            raise ValueError("an item id occurs twice")
        if bad := next((g for g in self.genres if _split_genres("|".join(g)) != g), None):
            raise ValueError(f"genres {bad!r} would not survive being joined by '|'")
        if self.features is not None:
            _check_features(self.features, len(self.item_ids))
        if self.source is not None and self.source.size != self.feature_size:
            raise ValueError(f"{self.feature_size} features an item, not {self.source.size}")
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def index(self) -> Mapping[str, int]:
        """Map from public item id to internal id in 1..V."""
        return self._index

    @property
    def fingerprint(self) -> str:
        """The catalogue's version: SHA-256 in hex over every field but `source`, in order."""
        if not self._fingerprint:
            object.__setattr__(self, "_fingerprint", self._digest())
        return self._fingerprint

    @property
    def feature_size(self) -> int:
        """Features per item, F; 0 without any."""
        return 0 if self.features is None else self.features.shape[1]

    def with_features(
        self, features: torch.Tensor, source: FeatureSource | None = None
    ) -> Catalogue:
        """Return the same items with `features`, [V, F], stored as float32 on the CPU."""
        stored = features.detach().to("cpu", torch.float32).contiguous()
        return replace(self, features=stored, source=source)

    def without_features(self) -> Catalogue:
        """Return the same items without features."""
        return replace(self, features=None, source=None)

    def save(self, folder: Path | str) -> None:
        """Write `items.parquet`, and `features.safetensors` if there are features.

        Each file is replaced atomically. The features file holds the catalogue's fingerprint, so
        after a crash between the two files `load` refuses the mixture.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        features = folder / FEATURES_FILE
        if self.features is not None:
            metadata = {"fingerprint": self.fingerprint}
            if self.source is not None:
                metadata[_SOURCE] = self.source.to_text()
            with atomic_replacement(features) as temporary:
                save_file({"features": self.features.contiguous()}, temporary, metadata=metadata)
        with atomic_replacement(folder / ITEMS_FILE) as temporary:
            pq.write_table(self._table(), temporary)
        if self.features is None:
            features.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path | str) -> Catalogue:
        """Read a catalogue that `save` wrote; its fingerprint is the same.

        Raises:
            DataError: a file is missing or damaged, or the features belong to other items.
        """
        items = read_items(Path(folder) / ITEMS_FILE)
        path = Path(folder) / FEATURES_FILE
        if not path.exists():
            return items
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = stored.metadata() or {}
                text = metadata.get(_SOURCE)
                source = None if text is None else FeatureSource.from_text(text)
                catalogue = items.with_features(stored.get_tensor("features"), source)
        except (OSError, SafetensorError, ValueError):
            problem = "the item features cannot be read or do not fit the items"
        else:
            if catalogue.fingerprint == metadata.get("fingerprint"):
                return catalogue
            problem = f"the item features are not those of {ITEMS_FILE} beside them"
        raise DataError(problem, file=path, remedy="Save or copy the whole catalogue again.")

    def _digest(self) -> str:
        fields = [self.item_ids, self.titles, self.genres, self.years]
        digest = hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode())
        if self.features is not None:
            digest.update(json.dumps(list(self.features.shape)).encode())
            digest.update(
                self.features.detach().cpu().contiguous().numpy().astype("<f4", copy=False).data
            )
        return digest.hexdigest()

    def _table(self) -> pa.Table:
        return pa.table(
            {
                "item_id": pa.array(self.item_ids, pa.string()),
                "title": pa.array(self.titles, pa.string()),
                "genres": pa.array(["|".join(genres) for genres in self.genres], pa.string()),
                "year": pa.array(self.years, pa.int32()),
            }
        )


def _check_features(features: torch.Tensor, items: int) -> None:
    if features.dtype != torch.float32 or features.ndim != 2 or len(features) != items:
        actual = f"{features.dtype} {list(features.shape)}"
        raise ValueError(f"features must be float32 [{items}, F], not {actual}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemColumns:
    """Names of the columns of an items file.

    Attributes:
        item: the public id.
        title: the text that people are shown and that encoders read.
        genres: separated by "|"; None means the column `genres` if there is one.
        year: None means the column `year` if there is one, else a trailing "(1995)" in the title.
    """

    item: str = "item_id"
    title: str = "title"
    genres: str | None = None
    year: str | None = None


_ITEM_COLUMNS = ItemColumns()


def read_items(path: Path | str, columns: ItemColumns = _ITEM_COLUMNS) -> Catalogue:
    """Read a catalogue from a .csv or .parquet file, in file order.

    MovieLens's movies.csv is `read_items(path, ItemColumns(item="movieId"))`; its
    "(no genres listed)" means none. Titles stay as they are, with their year.

    Raises:
        DataError: see the table at the top of this module.
    """
    path = Path(path)
    names = column_names(path)
    for role in ("item", "title", "genres", "year"):
        if (name := getattr(columns, role)) is not None:
            require_column(name, names, path, f"ItemColumns({role}='...')")
    columns = replace(
        columns,
        genres=columns.genres or ("genres" if "genres" in names else None),
        year=columns.year or ("year" if "year" in names else None),
    )
    used = [columns.item, columns.title, columns.genres, columns.year]
    table = read_text(path, [name for name in used if name is not None])
    return items_from_table(table, columns, path)


def items_from_table(table: pa.Table, columns: ItemColumns, source: Path) -> Catalogue:
    """Build a catalogue from a table of text columns.

    Args:
        table: the result of `read_text`; None is a missing value.
        columns: the columns to use; None for `genres` or `year` means there is none.
        source: name of the table in errors.

    Raises:
        DataError: an id is empty or repeated, or a year is not a number.
    """
    ids = table[columns.item].to_pylist()
    titles = [title or "" for title in table[columns.title].to_pylist()]
    _check_ids(ids, columns.item, source)
    genres: list[tuple[str, ...]] = [()] * len(ids)
    if columns.genres is not None:
        genres = [_split_genres(text or "") for text in table[columns.genres].to_pylist()]
    if columns.year is None:
        years = [int(m[1]) if (m := _TRAILING_YEAR.search(title)) else None for title in titles]
    else:
        years = _years(table[columns.year].to_pylist(), columns.year, source)
    return Catalogue(tuple(ids), tuple(titles), tuple(genres), tuple(years))


def _check_ids(ids: Sequence[str | None], name: str, source: Path) -> None:
    first: dict[str, int] = {}
    for row, item in enumerate(ids, start=1):
        if item is None or not item.strip():
            problem, remedy = "the item id is empty", "Give every item an id."
        elif first.setdefault(item, row) != row:
            problem = f"row {first[item]} has the same item id"
            remedy = "Give every item an id of its own."
        else:
            continue
        raise DataError(problem, file=source, row=row, field=name, value=item, remedy=remedy)


def _split_genres(text: str) -> tuple[str, ...]:
    parts = (part.strip() for part in text.split("|"))
    return tuple(part for part in parts if part and part != _NO_GENRES)


def _years(texts: Sequence[str | None], name: str, source: Path) -> list[int | None]:
    years: list[int | None] = []
    for row, text in enumerate(texts, start=1):
        match = _YEAR.fullmatch(text.strip()) if text else None
        if text and text.strip() and match is None:
            raise DataError(
                "the year is not a whole number",
                file=source,
                row=row,
                field=name,
                value=text,
                remedy="Write a year such as 1995, or leave it empty.",
            )
        years.append(int(match[1]) if match else None)
    return years
