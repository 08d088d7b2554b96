"""Add a block of features to a catalogue in a folder.

| what the folder holds                                      | what happens                       |
|------------------------------------------------------------|------------------------------------|
| nothing, or it does not exist                              | computed, and written as the first |
|                                                            |   block                            |
| features of these items, without this block                | computed, and added as the last    |
| this block, computed in the same way from the same files   | nothing to do                      |
| this block, computed otherwise; anything else              | refused: a federation may use it   |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.data.catalogue import Catalogue
from shared.data.feature_blocks import MOST_BLOCKS, TEXT, FeatureBlock
from shared.errors import ConfigError, DataError

__all__ = ["add_block", "read_existing", "refused"]


def add_block(
    items: Catalogue,
    name: str,
    record: Mapping[str, Any],
    compute: Callable[[], NDArray[np.float32]],
    out: Path,
) -> tuple[Catalogue, bool]:
    """Write a block of features beside those that a folder holds; see the table on top.

    Args:
        items: what to describe; features that they have are ignored.
        name: of the block.
        record: how it is computed, as JSON holds it.
        compute: returns the features, [V, F], strongest first; zeros for an item that has none.
            Columns of zeros at their end are left out.
        out: the folder.

    Returns:
        The catalogue, and whether the block was computed now.

    Raises:
        ConfigError: `out` holds something else.
    """
    stored = read_existing(out)
    if stored is not None:
        _check_items(stored, items, out)
    blocks = () if stored is None else _blocks_of(stored, out)
    for block in blocks:
        if block.name == name and stored is not None:
            _check_same(block, record, out)
            return stored, False
    if len(blocks) == MOST_BLOCKS:
        raise ConfigError(f"{out} holds {MOST_BLOCKS} blocks of features: there can be no more.")
    made = compute()
    columns = int(np.flatnonzero(made.any(0)).max(initial=0)) + 1
    features = torch.from_numpy(made[:, :columns])
    if stored is not None and stored.features is not None:
        features = torch.cat([stored.features, features], dim=1)
    source = json.dumps(dict(record), sort_keys=True)
    added = FeatureBlock(name=name, size=columns, source=source)
    catalogue = items.with_features(features, blocks=[*blocks, added])
    catalogue.save(out)
    return catalogue, True


def read_existing(out: Path) -> Catalogue | None:
    """Return the catalogue that a folder holds; None for an empty one.

    Raises:
        ConfigError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        return Catalogue.load(out)
    except DataError as error:
        raise ConfigError(
            f"{out} is neither empty nor a catalogue ({error.problem}): name another with --out, "
            "or remove it."
        ) from error


def _check_items(stored: Catalogue, items: Catalogue, out: Path) -> None:
    if stored.without_features().fingerprint != items.without_features().fingerprint:
        raise refused(out, "other items")
    if stored.text is not None:
        raise refused(out, 'an encoder\'s last blocks, for the kind "text", which reads text alone')


def _blocks_of(stored: Catalogue, out: Path) -> tuple[FeatureBlock, ...]:
    """Return the blocks that a catalogue has; features of text alone are one."""
    if stored.blocks:
        return stored.blocks
    if stored.source is None:
        raise refused(out, "a catalogue that this command did not write")
    source = stored.source.to_text()
    return (FeatureBlock(name=TEXT, size=stored.feature_size, source=source),)


def _check_same(block: FeatureBlock, record: Mapping[str, Any], out: Path) -> None:
    was = json.loads(block.source or "{}")
    # The same files under another name are the same encoder.
    keys = sorted({*was, *record} - {"encoder"})
    other = ", ".join(f"{key} {was.get(key)}" for key in keys if was.get(key) != record.get(key))
    if other:
        raise refused(out, f"features of {block.name} computed with {other}")


def refused(out: Path, held: str) -> ConfigError:
    """Return the error that a folder holds what is never overwritten."""
    return ConfigError(
        f"{out} holds {held}: name another folder with --out, or remove it if no federation uses "
        "it."
    )
