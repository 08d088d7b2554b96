"""Features from public interactions, against pairs that were planted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from server.warm_start.public import (
    PUBLIC,
    co_occurrence_directions,
    pretrain_features,
    read_public,
    save_public,
)
from shared.data.catalogue import Catalogue
from shared.data.feature_blocks import FeatureBlock
from shared.data.histories import Histories
from shared.errors import ConfigError, DataError
from shared.models.moments import POPULARITY_FADE, popularity_sum

V = 30
DRAW = np.random.default_rng(3)
PUBLIC_USERS = Histories.from_lists(
    [list(DRAW.choice(np.arange(1, 16) + 15 * (n % 2), 8, replace=False)) for n in range(80)]
)
"""Each chooses among the first 15 items alone, or among the others alone."""


def items() -> Catalogue:
    names = tuple(f"i{n}" for n in range(V))
    text = torch.randn(V, 6, generator=torch.Generator().manual_seed(0))
    return Catalogue(names, names, ((),) * V, (None,) * V, text)


def text_of(catalogue: Catalogue) -> torch.Tensor:
    assert catalogue.features is not None
    return catalogue.features


def test_items_chosen_together_lie_together() -> None:
    strongest = co_occurrence_directions(PUBLIC_USERS, V, 4)[:, 1]
    assert (np.sign(strongest[:15]) != np.sign(strongest[15:])).all()


def test_features_are_white_under_the_public_popularity() -> None:
    features = pretrain_features(items(), PUBLIC_USERS, 10).features
    assert features is not None
    weights = popularity_sum(PUBLIC_USERS, V, POPULARITY_FADE) + 0.3
    table, share = features.numpy().astype(np.float64), weights / weights.sum()
    np.testing.assert_allclose(share @ table, np.zeros(10), atol=1e-5)
    np.testing.assert_allclose((table * share[:, None]).T @ table, np.eye(10), atol=1e-4)


def test_the_same_interactions_give_the_same_catalogue() -> None:
    features = [pretrain_features(items(), PUBLIC_USERS, 10).fingerprint for _ in range(2)]
    assert features[0] == features[1]


def test_features_beyond_the_available_directions_are_zero() -> None:
    features = pretrain_features(items(), Histories.from_lists([[1, 2], [2, 3]]), 12).features
    assert features is not None
    assert features.shape == (V, 12)
    assert not features[:, 8:].any()


def test_text_keeps_its_share_of_the_features() -> None:
    features = pretrain_features(items(), PUBLIC_USERS, 5).features
    same_text = items().with_features(torch.cat([text_of(items())[:, :2], torch.ones(V, 4)], 1))
    again = pretrain_features(same_text, PUBLIC_USERS, 5).features
    assert features is not None
    assert again is not None
    assert features.equal(again)


def test_blocks_stay_apart_and_public_interactions_are_one_more() -> None:
    """Each is white by itself; an item that lacks a block still has zeros there."""
    blocks = (FeatureBlock(name="text", size=4), FeatureBlock(name="image", size=2))
    table = text_of(items()).clone()
    table[:5, 4:] = 0
    made = pretrain_features(items().with_features(table, blocks=blocks), PUBLIC_USERS, 10)
    assert [(b.name, b.size) for b in made.blocks] == [("text", 2), ("image", 2), ("public", 6)]
    features = text_of(made).numpy().astype(np.float64)
    assert not features[:5, 2:4].any()
    weights = popularity_sum(PUBLIC_USERS, V, POPULARITY_FADE)[5:] + 0.3
    image, share = features[5:, 2:4], weights / weights.sum()
    np.testing.assert_allclose((image * share[:, None]).T @ image, np.eye(2), atol=1e-4)
    with pytest.raises(ConfigError, match="leave 1 for 2 blocks"):
        pretrain_features(items().with_features(table, blocks=blocks), PUBLIC_USERS, 3)


@pytest.mark.parametrize(("bare", "size"), [(True, 9), (False, 1)])
def test_text_is_needed_and_room_for_more(bare: bool, size: int) -> None:
    catalogue = items().without_features() if bare else items()
    with pytest.raises(ConfigError, match=f"cannot be given {size}: make some of its text"):
        pretrain_features(catalogue, PUBLIC_USERS, size)


def test_interactions_travel_with_the_coordinators_catalogue(tmp_path: Path) -> None:
    assert read_public(tmp_path, items()) is None
    save_public(PUBLIC_USERS, items(), tmp_path)
    stored = read_public(tmp_path, items())
    assert stored is not None
    np.testing.assert_array_equal(stored.items, PUBLIC_USERS.items)
    (tmp_path / PUBLIC).write_bytes(b"torn")
    with pytest.raises(DataError):
        read_public(tmp_path, items())
