"""Frozen weights: the same whatever torch's generator holds; checked where they are used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.data.catalogue import Catalogue
from shared.models.attention import build, trainable
from shared.models.frozen import fingerprint, isometry
from shared.models.registry import frozen_fingerprint

KNOWN_NARROW = "f6c1ed2bfaa135cba4ae669b5f157ff9d91fb1753e0417209db59f312d1a4d46"
KNOWN = "c9802b08ec0c6ba91bdf754846c1e4ac2193d573f46fa8dcb93b7cb2a50b2540"


def catalogue(features: int, items: int = 7) -> Catalogue:
    names = tuple(str(i) for i in range(items))
    draw = torch.Generator().manual_seed(1)
    table = torch.randn(items, features, generator=draw)
    return Catalogue(names, names, ((),) * items, (None,) * items, features=table)


@pytest.mark.parametrize("hidden_size", [0, 8, 24])
@pytest.mark.parametrize("trained", [Trained.SCORES, Trained.ATTENTION])
def test_every_build_freezes_the_same_weights(trained: Trained, hidden_size: int) -> None:
    model = ModelConfig(feature_size=16, hidden_size=hidden_size, trained=trained)
    for seed in (1, 2):
        torch.manual_seed(seed)
        built = build(model, catalogue(16, items=5 + seed))
        assert fingerprint(built) == frozen_fingerprint(model)
        other = replace(model, layers=2, trained=Trained.SCORES)
        assert frozen_fingerprint(other) != frozen_fingerprint(model)


def test_they_do_not_change_between_releases() -> None:
    """Two sides may run different releases: raise PROTOCOL where this changes."""
    model = ModelConfig(feature_size=16, hidden_size=8, trained=Trained.SCORES)
    assert frozen_fingerprint(model) == KNOWN
    narrow = replace(model, trained=Trained.ATTENTION)
    assert frozen_fingerprint(narrow) == KNOWN_NARROW


def test_weights_that_are_trained_are_drawn_from_torchs_seed() -> None:
    model = ModelConfig(items=ItemRepresentation.IDS, hidden_size=8, trained=Trained.ALL)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(trainable(build(model, catalogue(0)))["item.weight"].detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("rows", "columns"), [(4, 9), (9, 4), (1, 5), (6, 6)])
def test_an_isometry_keeps_lengths_on_its_smaller_side(rows: int, columns: int) -> None:
    maps = isometry("x", rows, columns)
    product = maps @ maps.T if rows <= columns else maps.T @ maps
    assert torch.allclose(product, torch.eye(min(rows, columns)))
    assert bool((maps != 0).any(0).all()) or rows > columns
