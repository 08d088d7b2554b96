"""Public knowledge before a federation starts: item features and public interactions.

| `lab.catalogue`             | `lab.public`             | features                              |
|-----------------------------|--------------------------|---------------------------------------|
|                             |                          | tf-idf of the items' text             |
| a folder of `items encode`  |                          | its strongest features                |
| either of these             | a folder of interactions | the same, and co-occurrence of items  |
|                             |                          | in the public users' histories        |
| of `sotto-server pretrain`  |                          | all features of that folder           |
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from server.warm_start.public import pretrain_features, read_public, text_feature_count
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.splits import TimeCuts
from shared.errors import ConfigError
from shared.item_features.tfidf import text_features
from simulations.datasets.load import Dataset, load
from simulations.experiment.config import SimulationConfig
from simulations.experiment.hold_out import check_public_folder, public_before

__all__ = ["add_features", "text_catalogue", "translate_histories"]


def add_features(
    items: Catalogue, config: SimulationConfig, cuts: TimeCuts | None = None
) -> tuple[Catalogue, Histories | None]:
    """Return the items with `model.feature_size` features, and the public interactions, if any.

    Args:
        items: the catalogue.
        config: the settings.
        cuts: in time; public interactions from the first cut on are left out.

    Raises:
        ConfigError: a folder holds other items, fewer features, or no times where there are cuts.
        DataError: a folder cannot be read.
    """
    size, lab = config.model.feature_size, config.lab
    check_public_folder(lab.catalogue, cuts)
    if lab.public:
        public = translate_histories(load(Path(lab.public)), items)
        public = public_before(public, cuts, lab.public)
        text = text_catalogue(items, lab.catalogue, text_feature_count(size)) if size > 1 else items
        return pretrain_features(text, public, size), public
    catalogue = text_catalogue(items, lab.catalogue, size)
    return catalogue, read_public(Path(lab.catalogue), catalogue) if lab.catalogue else None


def translate_histories(public: Dataset, items: Catalogue) -> Histories:
    """Express public histories in another catalogue's ids; items that it lacks are dropped.

    Raises:
        ConfigError: no item occurs in both.
    """
    place = np.array([items.index.get(name, 0) for name in public.catalogue.item_ids])
    translated = place[public.histories.items - 1]
    kept = translated > 0
    if not kept.any():
        raise ConfigError(
            f"lab.public: none of the items of '{public.name}' that anybody chose is in the "
            "catalogue: the ids must be the same in both."
        )
    return replace(public.histories.keep(kept), items=translated[kept])


def text_catalogue(items: Catalogue, folder: str, size: int) -> Catalogue:
    """Return the items with the `size` strongest features of `folder`; "" computes tf-idf.

    Raises:
        ConfigError: the folder holds other items, or fewer features.
    """
    if not folder:
        return items.with_features(text_features(items, size))
    stored = Catalogue.load(Path(folder))
    if stored.without_features().fingerprint != items.without_features().fingerprint:
        raise ConfigError(
            f"lab.catalogue = '{folder}' holds other items than the data: encode the data's own "
            "items with sotto-lab items encode."
        )
    if stored.features is None or stored.feature_size < size:
        raise ConfigError(
            f"model.feature_size = {size}, but the catalogue in {folder} has {stored.feature_size} "
            "features an item: choose fewer, or encode the items with that --size."
        )
    if size < len(stored.blocks):
        raise ConfigError(
            f"model.feature_size = {size}, but the catalogue in {folder} has "
            f"{len(stored.blocks)} blocks of features: choose at least one feature of each."
        )
    return items.with_strongest(stored, size)
