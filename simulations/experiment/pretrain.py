"""What everybody may know before a federation starts: item features, and public interactions.

| `lab.catalogue`             | `lab.public`             | features                              |
|-----------------------------|--------------------------|---------------------------------------|
|                             |                          | tf-idf of the items' text             |
| a folder of `items encode`  |                          | its strongest                         |
| either                      | a folder of interactions | these, and which items the public     |
|                             |                          | users chose together                  |
| a folder of `pretrain`      |                          | all of its own                        |
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from server.commands.pretrain import save_pretrained, tell_pretrained
from server.warm_start.public import pretrained, read_public, text_size
from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import ConfigError
from shared.item_features.tfidf import text_features
from simulations.datasets.datasets import Dataset, load, load_items
from simulations.experiment.config import SimulationConfig

__all__ = ["described", "onto", "pretrain_command"]


def described(items: Catalogue, config: SimulationConfig) -> tuple[Catalogue, Histories | None]:
    """The items with `model.feature_size` features, and the public interactions, if any.

    Raises:
        ConfigError: the folders are of other items, or have fewer features.
        DataError: a folder is not what it should be.
    """
    size, lab = config.model.feature_size, config.lab
    if lab.public:
        public = onto(load(Path(lab.public)), items)
        text = _texts(items, lab.catalogue, text_size(size)) if size > 1 else items
        return pretrained(text, public, size), public
    catalogue = _texts(items, lab.catalogue, size)
    return catalogue, read_public(Path(lab.catalogue), catalogue) if lab.catalogue else None


def onto(public: Dataset, items: Catalogue) -> Histories:
    """Public histories in terms of another catalogue; what it does not have is left out.

    Raises:
        ConfigError: no item occurs in both.
    """
    place = np.array([items.index.get(name, 0) for name in public.catalogue.item_ids])
    found = place[public.histories.items - 1]
    kept = found > 0
    if not kept.any():
        raise ConfigError(
            f"lab.public: none of the items of '{public.name}' that anybody chose is in the "
            "catalogue: the ids must be the same in both."
        )
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept, dtype=np.int64)])
    return Histories(public.histories.users, found[kept], ends[public.histories.offsets])


def pretrain_command(
    *,
    public: Annotated[
        Path, typer.Option(help="Folder of interactions that everybody may know, as for --data.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the catalogue and what it travels with.")],
    data: Annotated[
        Path, typer.Option(help="Folder with the items (CSV or Parquet), or MovieLens's own.")
    ],
    catalogue: Annotated[
        Path | None, typer.Option(help="Folder of `items encode`. Without it: tf-idf.")
    ] = None,
    size: Annotated[int, typer.Option(help="Features an item, >= 2.")] = ModelConfig().feature_size,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as data.")] = False,
) -> None:
    """Learn from public interactions, before any federation: features, and what to expect.

    For example: sotto-lab pretrain --data my-data --public public-data --out catalogue
    """
    items = load_items(data)
    known = onto(load(public), items)
    text = _texts(items, "" if catalogue is None else str(catalogue), text_size(size))
    tell_pretrained(save_pretrained(text, known, size, out), known, out, as_json=as_json)


def _texts(items: Catalogue, folder: str, size: int) -> Catalogue:
    if not folder:
        return items.with_features(text_features(items, size))
    stored = Catalogue.load(Path(folder))
    if stored.without_features().fingerprint != items.without_features().fingerprint:
        raise ConfigError(
            f"lab.catalogue = '{folder}' is of other items than the data's: encode the data's own "
            "with sotto-lab items encode."
        )
    if stored.features is None or stored.feature_size < size:
        raise ConfigError(
            f"model.feature_size = {size}, but the catalogue in {folder} has {stored.feature_size} "
            "features an item: choose fewer, or encode the items with that --size."
        )
    source = stored.source and replace(stored.source, size=size)
    return items.with_features(stored.features[:, :size], source)
