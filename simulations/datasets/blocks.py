"""Add a block of features to a catalogue: of pictures, sound, video or relations.

| what --out holds                                           | what happens                       |
|------------------------------------------------------------|------------------------------------|
| nothing, or it does not exist                              | computed, and written as the first |
|                                                            |   block                            |
| features of these items, without this block                | computed, and added as the last    |
| this block, computed in the same way from the same files   | nothing to do                      |
| this block, computed otherwise; anything else              | refused: a federation may use it   |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.data.catalogue import Catalogue
from shared.data.feature_blocks import MOST_BLOCKS, TEXT, FeatureBlock
from shared.data.relations import read_relations
from shared.errors import ConfigError, DataError
from shared.item_features.encoder_source import find_encoder
from shared.item_features.media_encoder import MediaEncoder, Modality
from shared.item_features.relations import EPOCHS, WIDTH, relation_vectors
from shared.item_features.whitening import whitened_where_described
from simulations.datasets.encode import Encoding
from simulations.datasets.load import load_item_column
from simulations.datasets.media import ItemFile, read_frames, read_picture, read_sound

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RELATIONS", "add_block", "encode_media", "encode_relations"]

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

    def vectors() -> NDArray[np.float64]:
        encoder = MediaEncoder(files, modality, device=encoding.torch_device())

        def read(place: int) -> Sequence[Any]:
            file = paths[place]
            if file is None:
                return ()
            if modality is Modality.IMAGE:
                return [read_picture(file)]
            return read_frames(file) if modality is Modality.VIDEO else [read_sound(file, rate)]

        rate, at_once = encoder.rate, encoding.batch_size
        return encoder.vectors(len(items), read, batch_size=at_once, progress=progress)

    return add_block(items, str(modality), record, vectors, out)


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
    record = {"digest": relations.digest(), "size": size, "width": WIDTH, "epochs": EPOCHS}

    def vectors() -> NDArray[np.float64]:
        return relation_vectors(relations, len(items), size, progress)

    return add_block(items, RELATIONS, record, vectors, out)


def add_block(
    items: Catalogue,
    name: str,
    record: Mapping[str, Any],
    vectors: Callable[[], NDArray[np.float64]],
    out: Path,
) -> tuple[Catalogue, bool]:
    """Write a block of features beside those that a folder holds; see the table on top.

    Args:
        items: what to describe; features that they have are ignored.
        name: of the block.
        record: how it is computed; "size" says how many features it has at most.
        vectors: returns a vector of each item, [V, D]; zeros for an item that has none.
        out: the folder.

    Returns:
        The catalogue, and whether the block was computed now.

    Raises:
        ConfigError: `out` holds something else.
    """
    stored = _existing(items, out)
    blocks = () if stored is None else _blocks_of(stored, out)
    for block in blocks:
        if block.name == name and stored is not None:
            _check_same(block, record, out)
            return stored, False
    if len(blocks) == MOST_BLOCKS:
        raise ConfigError(f"{out} holds {MOST_BLOCKS} blocks of features: there can be no more.")
    made = whitened_where_described(vectors(), record["size"])
    columns = int(np.flatnonzero(made.any(0)).max(initial=0)) + 1
    features = torch.from_numpy(made[:, :columns])
    if stored is not None and stored.features is not None:
        features = torch.cat([stored.features, features], dim=1)
    source = json.dumps(dict(record), sort_keys=True)
    added = FeatureBlock(name=name, size=columns, source=source)
    catalogue = items.with_features(features, blocks=[*blocks, added])
    catalogue.save(out)
    return catalogue, True


def _existing(items: Catalogue, out: Path) -> Catalogue | None:
    """Return the catalogue of these items that `out` holds; None for an empty folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        stored = Catalogue.load(out)
    except DataError as error:
        raise ConfigError(
            f"{out} is neither empty nor a catalogue ({error.problem}): name another with --out, "
            "or remove it."
        ) from error
    if stored.without_features().fingerprint != items.without_features().fingerprint:
        raise _refused(out, "other items")
    return stored


def _blocks_of(stored: Catalogue, out: Path) -> tuple[FeatureBlock, ...]:
    """Return the blocks that a catalogue has; features of text alone are one."""
    if stored.blocks:
        return stored.blocks
    if stored.source is None:
        raise _refused(out, "a catalogue that this command did not write")
    source = stored.source.to_text()
    return (FeatureBlock(name=TEXT, size=stored.feature_size, source=source),)


def _check_same(block: FeatureBlock, record: Mapping[str, Any], out: Path) -> None:
    was = json.loads(block.source or "{}")
    # The same files under another name are the same encoder.
    keys = sorted({*was, *record} - {"encoder"})
    other = ", ".join(f"{key} {was.get(key)}" for key in keys if was.get(key) != record.get(key))
    if other:
        raise _refused(out, f"features of {block.name} computed with {other}")


def _refused(out: Path, held: str) -> ConfigError:
    return ConfigError(
        f"{out} holds {held}: name another folder with --out, or remove it if no federation uses "
        "it."
    )


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
