"""The public item list: ids, texts, features, and a fingerprint that identifies its version.

| what the file holds                             | what happens                              |
|-------------------------------------------------|-------------------------------------------|
| anything that `shared.data.tables` refuses      | refused                                   |
| an item id that is empty or repeated            | refused, with the row                     |
| an item id in another spelling (`7.0`, blanks)  | its canonical form, see `shared.data.ids` |
| a year that is not a whole number               | left empty, and counted once for the file |
| a column `domain`                               | a part of the catalogue by its name       |
|                                                 |   (`shared.data.domains`); without one in |
|                                                 |   a row refused                           |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from shared.data.adaptable_text import AdaptableText
from shared.data.columns import ItemColumns, require_columns
from shared.data.feature_blocks import (
    MOST_BLOCKS,
    FeatureBlock,
    blocks_from_text,
    blocks_to_text,
    shared_out,
)
from shared.data.feature_source import FeatureSource
from shared.data.ids import MISSING, canonical_id, inexact_id
from shared.data.tables import file_tables, read_table
from shared.errors import DataError
from shared.system.files import atomic_replacement

if TYPE_CHECKING:
    import torch

__all__ = ["Catalogue", "IgnoredValues", "items_from_table", "read_items"]

ITEMS_FILE, FEATURES_FILE = "items.parquet", "features.safetensors"
_SOURCE, _BLOCKS = "source", "blocks"
TEXT_FILE = "text.safetensors"
_NO_GENRES = "(no genres listed)"
_TRAILING_YEAR = re.compile(r"\((\d{4})\)\s*$")
_YEAR = re.compile(r"(-?\d{1,9})(?:\.0)?")
_NO_YEAR = {"", *(text.casefold() for text in MISSING)}


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoredValues:
    """Values of an optional column that could not be read, and were left empty.

    Attributes:
        column: its name.
        count: how many there are.
        row: the row of the first one, from 1.
        value: the first one.
    """

    column: str
    count: int
    row: int
    value: str

    def __str__(self) -> str:
        values = "1 value is" if self.count == 1 else f"{self.count:,} values are"
        return (
            f"the item column {self.column!r}: {values} no whole number and left empty, such as "
            f"{self.value!r} in row {self.row}"
        )


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
        blocks: which columns of the features are of which modality; () where all are of one.
        text: the last blocks of the encoder that the features are of, where they may be adapted.
        ignored: what could not be read of optional columns; not part of the fingerprint.
        domains: the domain of each item, not blank; length V, or none where there are no domains.
        selected: bool [V], the only items that `find` finds, and that a model made for this
            catalogue ranks (`shared.data.domains`); None for all. Not part of the fingerprint.

    Raises:
        ValueError: the fields contradict each other or break the rules above.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]
    years: tuple[int | None, ...]
    features: torch.Tensor | None = None
    source: FeatureSource | None = None
    ignored: tuple[IgnoredValues, ...] = ()
    blocks: tuple[FeatureBlock, ...] = ()
    text: AdaptableText | None = None
    domains: tuple[str, ...] = ()
    selected: npt.NDArray[np.bool_] | None = None
    _index: dict[str, int] = field(init=False, repr=False)
    _fingerprint: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.item_ids) == len(self.titles) == len(self.genres) == len(self.years):
            raise ValueError("item_ids, titles, genres and years must have one entry per item")
        if self.domains and len(self.domains) != len(self.item_ids):
            raise ValueError("domains must have one entry per item, or none at all")
        if any(not name.strip() for name in set(self.domains)):
            raise ValueError("the name of a domain is blank")
        if self.selected is not None and self.selected.shape != (len(self.item_ids),):
            raise ValueError("selected must have one entry per item")
        if any(not item.strip() for item in self.item_ids):
            raise ValueError("an item id is blank")
        index = {item: number for number, item in enumerate(self.item_ids, start=1)}
        if len(index) != len(self.item_ids):
            raise ValueError("an item id occurs twice")
        distinct = dict.fromkeys(self.genres)  # many items have the same genres
        if bad := next((g for g in distinct if _split_genres("|".join(g)) != g), None):
            raise ValueError(f"genres {bad!r} would not survive being joined by '|'")
        if self.features is not None:
            _check_features(self.features, len(self.item_ids))
        if self.source is not None and self.source.size != self.feature_size:
            raise ValueError(f"{self.feature_size} features an item, not {self.source.size}")
        if self.blocks:
            _check_blocks(self.blocks, self.feature_size)
        if self.text is not None and not (
            len(self.text.lengths) == len(self.item_ids)
            and self.text.projection.shape[1] >= self.feature_size > 0
            and not self.blocks
        ):
            raise ValueError("the encoder's last blocks are of other items or features")
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def index(self) -> Mapping[str, int]:
        """Map from public item id to internal id in 1..V."""
        return self._index

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the internal ids of canonical public ids, 0 where there is no such item: [N].

        Items that are not `selected` are not found.
        """
        numbers = self._find(ids)
        if self.selected is None:
            return numbers
        return np.where(np.append(False, self.selected)[numbers], numbers, 0)

    def _find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        numbers = np.array([self._index.get(item, 0) for item in ids], np.int64)
        if not numbers.all():
            # Catalogues of earlier versions may hold ids in other forms.
            forms = {canonical_id(item): number for item, number in self._index.items()}
            index = forms | self._index
            numbers = np.array([index.get(item, 0) for item in ids], np.int64)
        return numbers

    @property
    def fingerprint(self) -> str:
        """The catalogue's version: SHA-256 in hex over ids, titles, genres, years and features.

        It covers domains, names and sizes of blocks, and the encoder's last blocks, where there
        are any.
        """
        if not self._fingerprint:
            object.__setattr__(self, "_fingerprint", self._digest())
        return self._fingerprint

    @property
    def feature_size(self) -> int:
        """Features per item, F; 0 without any."""
        return 0 if self.features is None else self.features.shape[1]

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Columns of each block, which add up to `feature_size`; one block where none is named."""
        return tuple(block.size for block in self.blocks) or (self.feature_size,)

    def with_features(
        self,
        features: torch.Tensor,
        source: FeatureSource | None = None,
        blocks: Sequence[FeatureBlock] = (),
        text: AdaptableText | None = None,
    ) -> Catalogue:
        """Return the same items with `features`, [V, F], stored as float32 on the CPU."""
        stored = features.detach().to("cpu").float().contiguous()
        return replace(self, features=stored, source=source, blocks=tuple(blocks), text=text)

    def without_features(self) -> Catalogue:
        """Return the same items without features."""
        return replace(self, features=None, source=None, blocks=(), text=None)

    def with_strongest(self, described: Catalogue, size: int) -> Catalogue:
        """Return these items with the strongest `size` features that another catalogue has of them.

        Blocks get equal numbers of them; what a small one does not need, the others get.

        Raises:
            ValueError: there are fewer features, or more blocks.
        """
        sizes = described.block_sizes
        if described.features is None or not len(sizes) <= size <= sum(sizes):
            raise ValueError(f"no {size} features of {sum(sizes)} in {len(sizes)} blocks")
        import torch  # noqa: PLC0415 takes seconds

        kept = shared_out(sizes, size)
        parts = described.features.split(sizes, dim=1)
        features = torch.cat([part[:, :n] for part, n in zip(parts, kept, strict=True)], dim=1)
        blocks = [replace(b, size=n) for b, n in zip(described.blocks, kept, strict=False)]
        source = described.source and replace(described.source, size=size)
        return self.with_features(features, source, blocks, described.text)

    def save(self, folder: Path | str) -> None:
        """Write `items.parquet`, and what there is of features and of the encoder's last blocks.

        These are `features.safetensors` and `text.safetensors`. Each file is replaced atomically,
        and these two hold the catalogue's fingerprint, so after a crash between two files `load`
        refuses the mixture.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        features = folder / FEATURES_FILE
        if self.features is not None:
            metadata = {"fingerprint": self.fingerprint}
            if self.source is not None:
                metadata[_SOURCE] = self.source.to_text()
            if self.blocks:
                metadata[_BLOCKS] = blocks_to_text(self.blocks)
            from safetensors.torch import save_file  # noqa: PLC0415 with torch, which takes seconds

            with atomic_replacement(features) as temporary:
                save_file({"features": self.features.contiguous()}, temporary, metadata=metadata)
        if self.text is not None:
            self.text.save(folder / TEXT_FILE, self.fingerprint)
        else:
            (folder / TEXT_FILE).unlink(missing_ok=True)
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
        items = read_items(Path(folder) / ITEMS_FILE, stored=True)
        path = Path(folder) / FEATURES_FILE
        if not path.exists():
            return items
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = stored.metadata() or {}
                text = metadata.get(_SOURCE)
                source = None if text is None else FeatureSource.from_text(text)
                blocks = blocks_from_text(metadata.get(_BLOCKS, "[]"))
                file = Path(folder) / TEXT_FILE
                last = AdaptableText.load(file) if file.exists() else None
                table = stored.get_tensor("features")
                catalogue = items.with_features(table, source, blocks, last)
        except (OSError, SafetensorError, ValueError):
            problem = "the item features cannot be read or do not fit the items"
        else:
            if catalogue.fingerprint == metadata.get("fingerprint"):
                return catalogue
            problem = f"the item features are not those of {ITEMS_FILE} beside them"
        raise DataError(problem, file=path, remedy="Save or copy the whole catalogue again.")

    def _digest(self) -> str:
        fields = [self.item_ids, self.titles, self.genres, self.years]
        fields += [self.domains] if self.domains else []
        digest = hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode())
        if self.features is not None:
            digest.update(json.dumps(list(self.features.shape)).encode())
            digest.update(
                self.features.detach().cpu().contiguous().numpy().astype("<f4", copy=False).data
            )
        if self.blocks:
            named = [[block.name, block.size] for block in self.blocks]
            digest.update(json.dumps(named).encode())
        if self.text is not None:
            digest.update(self.text.digest())
        return digest.hexdigest()

    def _table(self) -> pa.Table:
        columns = {
            "item_id": pa.array(self.item_ids, pa.string()),
            "title": pa.array(self.titles, pa.string()),
            "genres": pa.array(["|".join(genres) for genres in self.genres], pa.string()),
            "year": pa.array(self.years, pa.int32()),
        }
        if self.domains:
            columns["domain"] = pa.array(self.domains, pa.string())
        return pa.table(columns)


def _check_features(features: torch.Tensor, items: int) -> None:
    if str(features.dtype) != "torch.float32" or features.ndim != 2 or len(features) != items:
        actual = f"{features.dtype} {list(features.shape)}"
        raise ValueError(f"features must be float32 [{items}, F], not {actual}")


def _check_blocks(blocks: Sequence[FeatureBlock], size: int) -> None:
    if sum(block.size for block in blocks) != size or len(blocks) > MOST_BLOCKS:
        raise ValueError(f"{len(blocks)} blocks that do not make up {size} features an item")
    if len({block.name for block in blocks}) != len(blocks):
        raise ValueError("two blocks of features have the same name")


_ITEM_COLUMNS = ItemColumns()


def read_items(
    path: Path | str, columns: ItemColumns = _ITEM_COLUMNS, *, stored: bool = False
) -> Catalogue:
    """Read a catalogue from a file or a folder of parts, in file order.

    MovieLens's movies.csv is `read_items(path, ItemColumns(item="movieId"))`; its
    "(no genres listed)" means none. Titles stay as they are, with their year.

    Args:
        path: one row per item.
        columns: names of the columns.
        stored: whether `Catalogue.save` wrote it: its ids are then read as they are.

    Raises:
        DataError: see the table at the top of this module.
    """
    path = Path(path)
    tables = []
    names: Sequence[str] = ()
    for table in file_tables(path):
        names = table.columns
        needed = {"item": columns.item, "title": columns.title}
        needed |= {
            role: name
            for role in ("genres", "year", "domain")
            if (name := getattr(columns, role)) is not None
        }
        require_columns(needed, names, table.source, columns.setting)
        columns = replace(
            columns,
            genres=columns.genres or ("genres" if "genres" in names else None),
            year=columns.year or ("year" if "year" in names else None),
            domain=columns.domain or ("domain" if "domain" in names else None),
        )
        tables.append(read_table(table, _used(columns), lists=_used(columns)[2:]))
    return items_from_table(pa.concat_tables(tables), columns, path, stored=stored)


def _used(columns: ItemColumns) -> list[str]:
    used = [columns.item, columns.title, columns.genres, columns.year, columns.domain]
    return [name for name in used if name is not None]


def items_from_table(
    table: pa.Table, columns: ItemColumns, source: Path, *, stored: bool = False
) -> Catalogue:
    """Build a catalogue from a table of text columns.

    Args:
        table: the result of `read_text`; None is a missing value.
        columns: the columns to use; None for `genres`, `year` or `domain` means there is none.
        source: name of the table in errors.
        stored: see `read_items`.

    Raises:
        DataError: an id is empty or repeated, or an item is of no domain while others are of one.
    """
    spellings = table[columns.item].to_pylist()
    ids = spellings if stored else [canonical_id(text or "") for text in spellings]
    titles = [title or "" for title in table[columns.title].to_pylist()]
    _check_ids(ids, spellings, columns.item, source)
    genres: list[tuple[str, ...]] = [()] * len(ids)
    if columns.genres is not None:
        texts = [text or "" for text in table[columns.genres].to_pylist()]
        split = {text: _split_genres(text) for text in set(texts)}
        genres = [split[text] for text in texts]
    ignored: tuple[IgnoredValues, ...] = ()
    if columns.year is None:
        years = [int(m[1]) if (m := _TRAILING_YEAR.search(title)) else None for title in titles]
    else:
        years, ignored = _years(table[columns.year].to_pylist(), columns.year)
    domains = _domains(table, columns.domain, source)
    return Catalogue(
        tuple(ids), tuple(titles), tuple(genres), tuple(years), ignored=ignored, domains=domains
    )


def _domains(table: pa.Table, name: str | None, source: Path) -> tuple[str, ...]:
    """Return the domain of each item; nothing where there is no such column."""
    if name is None:
        return ()
    domains = tuple((text or "").strip() for text in table[name].to_pylist())
    if "" in domains:
        raise DataError(
            "the item is of no domain, and others are of one",
            file=source,
            row=1 + domains.index(""),
            field=name,
            value="",
            remedy="Name the domain of every item, or call the column otherwise.",
        )
    return domains


def _check_ids(
    ids: Sequence[str | None], spellings: Sequence[str | None], name: str, source: Path
) -> None:
    first: dict[str, int] = {}
    for row, (item, text) in enumerate(zip(ids, spellings, strict=True), start=1):
        if not item or not item.strip():
            problem, remedy = "the item id is empty", "Give every item an id."
        elif text is not None and inexact_id(text):
            problem = "the item id is a rounded number: several items may share it"
            remedy = "Export ids as whole numbers or as text, never as floating-point numbers."
        elif first.setdefault(item, row) != row:
            problem = f"row {first[item]} has the same item id"
            remedy = "Give every item an id of its own."
        else:
            continue
        raise DataError(problem, file=source, row=row, field=name, value=text, remedy=remedy)


def _split_genres(text: str) -> tuple[str, ...]:
    parts = (part.strip() for part in text.split("|"))
    return tuple(part for part in parts if part and part != _NO_GENRES)


def _years(
    texts: Sequence[str | None], name: str
) -> tuple[list[int | None], tuple[IgnoredValues, ...]]:
    """Return the years, None where there is none, and what could not be read."""
    years: list[int | None] = []
    unread: list[tuple[int, str]] = []
    for row, text in enumerate(texts, start=1):
        match = _YEAR.fullmatch(text.strip()) if text else None
        years.append(int(match[1]) if match else None)
        if text and match is None and canonical_id(text).casefold() not in _NO_YEAR:
            unread.append((row, text))
    if not unread:
        return years, ()
    row, value = unread[0]
    return years, (IgnoredValues(column=name, count=len(unread), row=row, value=value),)
