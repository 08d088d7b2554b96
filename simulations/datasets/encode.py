"""Compute item features once and save them with the catalogue.

`sotto-lab items encode` writes the folder; a simulation reads it (`lab.catalogue`).

| what --out holds                                           | what happens                      |
|------------------------------------------------------------|-----------------------------------|
| nothing, or it does not exist                              | encoded and written               |
| features of these items, computed in the same way          | nothing to do                     |
| blocks of other modalities                                 | text is one more: see `add_block` |
| anything else                                              | refused: a federation may use it  |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shared.data.adaptable_text import MOST_TOKENS
from shared.data.catalogue import Catalogue
from shared.data.feature_blocks import TEXT
from shared.data.feature_source import FeatureSource
from shared.errors import ConfigError
from shared.item_features.adaptable import adaptable_text
from shared.item_features.encoder import TEMPLATE, Pooling, TextEncoder, encoded_features
from shared.item_features.encoder_source import EncoderFiles, find_encoder
from shared.item_features.tfidf import text_features
from simulations.datasets.add_block import add_block, read_existing, refused

__all__ = ["LEAST_TOKENS", "Encoding", "encode"]

LEAST_TOKENS = 8
"""Of a text whose encoder is adapted: a few of them are the encoder's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How to compute the features.

    Attributes:
        encoder: folder or hub id of a text encoder; "" for none.
        words: whether to use tf-idf of words, genres and decades, with or without an encoder.
        pooling: how the encoder's token vectors become one vector.
        size: features of an item, F >= 1.
        adaptable: last blocks of the encoder that the kind "text" may adapt, >= 0.
        tokens: of a text that these blocks read at most, in `LEAST_TOKENS`..`MOST_TOKENS`.
        batch_size: items encoded at a time, >= 1.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: a field is out of range, or neither encoder nor words is chosen.
    """

    encoder: str = ""
    words: bool = False
    pooling: Pooling = Pooling.MEAN
    size: int = 256
    adaptable: int = 0
    tokens: int = MOST_TOKENS
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        for option, value in (("--size", self.size), ("--batch-size", self.batch_size)):
            if value < 1:
                raise ConfigError(f"{option} {value}: choose a whole number >= 1.")
        if not (self.encoder or self.words):
            raise ConfigError("no source of features: give --encoder, --words, or both.")
        if self.adaptable < 0 or (self.adaptable and not self.encoder):
            raise ConfigError(
                f"--adaptable {self.adaptable}: choose a whole number >= 0, above 0 with --encoder."
            )
        if not LEAST_TOKENS <= self.tokens <= MOST_TOKENS:
            raise ConfigError(
                f"--tokens {self.tokens}: choose a whole number from {LEAST_TOKENS} to "
                f"{MOST_TOKENS}."
            )

    def torch_device(self) -> torch.device:
        """Return the device to encode on; "auto" takes a GPU where there is one.

        Raises:
            ConfigError: there is no such device.
        """
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return torch.zeros(1, device=name).device
        except (AssertionError, RuntimeError) as fault:
            raise ConfigError(f"--device {name} is not there: choose auto or cpu.") from fault


def encode(
    items: Catalogue,
    encoding: Encoding,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Catalogue, bool]:
    """Write the items with their features into `out`; see the table on top of this module.

    Args:
        items: what to describe; features that they have are ignored.
        encoding: how to compute the features.
        out: the folder.
        progress: called with the number of texts encoded so far, and of all.

    Returns:
        The catalogue, and whether it was computed now (False: it was already there).

    Raises:
        DataError: the encoder is not one.
        FetchError: the encoder is neither a folder nor available from the hub.
        ConfigError: there is no such device, or `out` holds something else.
    """
    files = find_encoder(encoding.encoder) if encoding.encoder else None
    source = _feature_source(encoding, files)
    stored = read_existing(out)
    if stored is not None and stored.blocks and not encoding.adaptable:

        def features() -> NDArray[np.float32]:
            made = _described(items, encoding, files, source, progress).features
            assert made is not None
            return made.numpy()

        return add_block(items, TEXT, asdict(source), features, out)
    if stored is not None:
        _check_same(stored, items, source, out)
        _check_blocks(stored, encoding, out)
        return stored, False
    catalogue = _described(items, encoding, files, source, progress)
    catalogue.save(out)
    return catalogue, True


def _described(
    items: Catalogue,
    encoding: Encoding,
    files: EncoderFiles | None,
    source: FeatureSource,
    progress: Callable[[int, int], None] | None,
) -> Catalogue:
    """Return the items with features of their text alone."""
    if files is None:
        return items.with_features(text_features(items, encoding.size), source)
    encoder = TextEncoder(files, pooling=encoding.pooling, device=encoding.torch_device())
    size, words, at_once = encoding.size, encoding.words, encoding.batch_size
    text = None
    if encoding.adaptable:
        text = adaptable_text(
            items,
            encoder,
            size,
            words=words,
            blocks=encoding.adaptable,
            tokens=encoding.tokens,
            batch_size=at_once,
        )
    features = encoded_features(
        items, encoder, size, words=words, batch_size=at_once, progress=progress
    )
    return items.with_features(features, source, text=text)


def _check_blocks(stored: Catalogue, encoding: Encoding, out: Path) -> None:
    blocks = 0 if stored.text is None else len(stored.text.weights)
    if blocks != encoding.adaptable:
        raise ConfigError(
            f"{out} holds features with --adaptable {blocks}: name another folder with --out, or "
            "remove it if no federation uses it."
        )
    if stored.text is not None and stored.text.longest > encoding.tokens:
        raise ConfigError(
            f"{out} holds texts of {stored.text.longest} tokens: give --tokens "
            f"{stored.text.longest}, or name another folder with --out."
        )


def _feature_source(encoding: Encoding, files: EncoderFiles | None) -> FeatureSource:
    return FeatureSource(
        encoder="" if files is None else files.name,
        digest="" if files is None else files.digest,
        pooling="" if files is None else str(encoding.pooling),
        words=encoding.words,
        size=encoding.size,
        template=TEMPLATE,
        transformers=version("transformers"),
    )


def _check_same(stored: Catalogue, items: Catalogue, source: FeatureSource, out: Path) -> None:
    if stored.without_features().fingerprint != items.without_features().fingerprint:
        other = "other items"
    elif stored.source is None:
        other = "a catalogue that this command did not write"
    else:
        was, now = asdict(stored.source), asdict(source)
        # The same files under another name are the same encoder.
        other = ", ".join(
            f"{key} {was[key]}" for key in now if was[key] != now[key] and key != "encoder"
        )
        other = other and f"features computed with {other}"
    if other:
        raise refused(out, other)
