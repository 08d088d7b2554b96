"""Describe items by their pictures, sounds, videos or relations: a block of features each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shared.data.catalogue import Catalogue
from shared.data.relations import read_relations
from shared.errors import ConfigError, DataError
from shared.item_features.encoder_source import find_encoder
from shared.item_features.media_encoder import MediaEncoder, Modality
from shared.item_features.relations import EPOCHS, WIDTH, relation_vectors
from shared.item_features.whitening import whitened_where_described
from simulations.datasets.add_block import add_block
from simulations.datasets.encode import Encoding
from simulations.datasets.load import load_item_column
from simulations.datasets.media import ItemFile, read_frames, read_picture, read_sound

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RELATIONS", "encode_media", "encode_relations"]

RELATIONS = "relations"
"""Name of the block of relations."""
Progress = Callable[[int, int], None]


def encode_media(
    items: Catalogue,
    data: Path,
    encoding: Encoding,
    modality: Modality,
    column: str,
    out: Path,
    progress: Progress | None = None,
) -> tuple[Catalogue, bool]:
    """Add what an encoder makes of the items' pictures, sounds or videos.

    Args:
        items: what to describe.
        data: their folder; paths count from it.
        encoding: the encoder, the number of features, batches and device.
        modality: image, audio or video, which names the block.
        column: of the item list, with a path for each item that has a file.
        out: the folder of the catalogue.
        progress: called with the numbers of items done and in total.

    Returns:
        The catalogue, and whether the block was computed now.

    Raises:
        DataError: a file or the encoder is not what it should be.
        FetchError: the encoder is neither a folder nor available from the hub.
        ConfigError: there is no such device, no item has a file, or `out` holds something else.
    """
    files = find_encoder(encoding.encoder, of_text=False)
    paths = _item_files(data, column)
    if not any(paths):
        raise ConfigError(f"--column {column}: it is empty for every item: name another column.")
    record = {
        "encoder": files.name,
        "digest": files.digest,
        "column": column,
        "files": _digest(paths),
        "size": encoding.size,
        "transformers": version("transformers"),
    }

    def features() -> NDArray[np.float32]:
        encoder = MediaEncoder(files, modality, device=encoding.torch_device())

        def read(place: int) -> Sequence[Any]:
            file = paths[place]
            if file is None:
                return ()
            if modality is Modality.IMAGE:
                return [read_picture(file)]
            return read_frames(file) if modality is Modality.VIDEO else [read_sound(file, rate)]

        rate, at_once = encoder.rate, encoding.batch_size
        found = encoder.vectors(len(items), read, batch_size=at_once, progress=progress)
        return whitened_where_described(found, encoding.size)

    return add_block(items, str(modality), record, features, out)


def encode_relations(
    items: Catalogue, file: Path, size: int, out: Path, progress: Progress | None = None
) -> tuple[Catalogue, bool]:
    """Add what a table of relations says of the items; see `shared.data.relations`.

    Args:
        items: what to describe.
        file: the table.
        size: features of an item, at most.
        out: the folder of the catalogue.
        progress: called with the numbers of passes done and in total.

    Raises:
        DataError: the table is not what it should be.
        ConfigError: `out` holds something else.
    """
    relations = read_relations(file, items)
    ends = relations.triples[:, [0, 2]]
    if len(np.unique(ends[ends < len(items)])) < 2:
        raise DataError(
            "its rows name a single item of the catalogue, and features tell items apart",
            file=file,
            remedy="Give rows of two items or more.",
        )
    record = {"digest": relations.digest(), "size": size, "width": WIDTH, "epochs": EPOCHS}

    def features() -> NDArray[np.float32]:
        return whitened_where_described(
            relation_vectors(relations, len(items), size, progress), size
        )

    return add_block(items, RELATIONS, record, features, out)


def _item_files(data: Path, column: str) -> list[ItemFile | None]:
    """Return each item's file; None where the column is empty."""
    table, texts = load_item_column(data, column)
    folder = table if table.is_dir() else table.parent
    return [
        ItemFile(path=folder / text.strip(), table=str(table), row=row, column=column, value=text)
        if text.strip()
        else None
        for row, text in enumerate(texts, start=1)
    ]


def _digest(paths: Sequence[ItemFile | None]) -> str:
    """Return SHA-256, in hex, over names and bytes of all files; a missing one is refused first."""
    digest = hashlib.sha256()
    for file in paths:
        digest.update(b"-" if file is None else file.digest())
    return digest.hexdigest()
