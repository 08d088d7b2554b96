"""Offsets of new items follow from features where these say something, and are the mean else."""

from __future__ import annotations

import numpy as np
import pytest

from shared.models.new_items import expected_offsets


def test_new_items_get_what_features_say_of_known_ones() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 8))
    truth = features @ random.normal(size=8) + 3
    new = np.arange(400) >= 350
    learned = np.where(new, -50.0, truth + random.normal(size=400))  # training lowers new ones
    found = expected_offsets(features, learned, new)
    assert np.corrcoef(found[new], truth[new])[0, 1] > 0.95
    changed = np.where(new, 99.0, learned)
    np.testing.assert_array_equal(found, expected_offsets(features, changed, new))


def test_features_that_say_nothing_give_the_mean() -> None:
    random = np.random.default_rng(1)
    new = np.arange(300) < 30
    offsets = random.normal(size=300)
    noise = expected_offsets(random.normal(size=(300, 20)), offsets, new)
    assert np.abs(noise[new] - offsets[~new].mean()).max() < 0.5
    nothing = expected_offsets(np.zeros((300, 4)), offsets, new)
    np.testing.assert_allclose(nothing, offsets[~new].mean())


def test_more_features_than_items_are_no_trouble() -> None:
    random = np.random.default_rng(2)
    new = np.array([True] + [False] * 9)
    assert np.isfinite(expected_offsets(random.normal(size=(10, 50)), np.arange(10.0), new)).all()
    with pytest.raises(ValueError, match="all items are new"):
        expected_offsets(np.ones((3, 1)), np.ones(3), np.ones(3, np.bool_))
