"""A published folder: the catalogue, and the federated model that ranks it; and the adapted model.

The folder comes from the coordinator, whom nobody trusts: no pickle of it is opened, nothing is
fetched from elsewhere, and weights that are not finite are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from client.home.store import HOME_FILE, domains_of
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.data.domains import only, own_items
from shared.errors import DataError
from shared.evaluation.ranking import Scorer
from shared.models.attention import AttentionRecommender
from shared.models.registry import load_recommender

__all__ = ["domains_of_home", "home_in_use", "home_place", "load_published", "scorer_of"]


def home_place(site: Site) -> Path:
    """Return where a site's adapted model is kept: `serve.home`, or home.safetensors."""
    folder = Path(site.folder)
    return site.serve.path(folder, "home") or folder / HOME_FILE


def home_in_use(site: Site) -> Path | None:
    """Return a site's adapted model; None where none is named and there is none."""
    place = home_place(site)
    return place if site.serve.home or place.is_file() else None


def load_published(
    folder: Path, device: torch.device | str = "cpu", domains: Sequence[str] = ()
) -> tuple[Catalogue, AttentionRecommender]:
    """Load the catalogue and the model of a published folder.

    Args:
        folder: holds `catalogue/` and `model/`.
        device: where the model's weights are put.
        domains: of the organisation (`shared.data.domains`); none for all of the catalogue.

    Returns:
        The catalogue, and the model in evaluation mode; its weights take no gradients. With
        domains, both hold the items of these alone.

    Raises:
        ConfigError: the catalogue has no such domain.
        DataError: a part is missing, damaged or half written, the two do not belong together, or a
            weight is not finite.
    """
    if missing := [f"{name}/" for name in ("model", "catalogue") if not (folder / name).is_dir()]:
        raise DataError(
            f"it is no published folder: there is no {' and no '.join(missing)} in it",
            file=folder,
            remedy="Give the folder that the coordinator published, or that of a simulation.",
        )
    catalogue = Catalogue.load(folder / "catalogue")
    model = _load_model(folder / "model", len(catalogue))
    if domains:
        own = own_items(catalogue, domains)
        catalogue = only(catalogue, own)
        model = model.select_items(torch.from_numpy(np.flatnonzero(own)))
    model.train(mode=False).requires_grad_(requires_grad=False)
    model.to(device)
    return catalogue, model


def domains_of_home(home: Path | str | None) -> tuple[str, ...]:
    """Return the domains that a home model was made for; none without one, or for all.

    Raises:
        DataError: the file is missing or damaged.
    """
    return () if home is None else domains_of(Path(home))


def scorer_of(model: AttentionRecommender) -> Scorer:
    """Return the scorer of a loaded model: its logits, on the device of its weights."""
    device = model.device

    @torch.no_grad()
    def logits(rows: Tensor, /) -> Tensor:
        return model.next_item_scores(rows.to(device))

    return logits


def _load_model(folder: Path, items: int) -> AttentionRecommender:
    try:
        model = load_recommender(folder)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"no model is there ({error})",
            file=folder,
            remedy="Name the folder that the coordinator published, copied whole.",
        ) from error
    if model.config.items != items:
        raise DataError(
            f"it ranks {model.config.items} items, and the catalogue beside it has {items}",
            file=folder,
            remedy="Take both from the same published folder.",
        )
    for name, values in model.state_dict().items():
        if not values.isfinite().all():
            raise DataError(
                f"weight {name} holds values that are not finite",
                file=folder,
                remedy="Ask the coordinator for a sound model.",
            )
    return model
