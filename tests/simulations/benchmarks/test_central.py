"""Training where all users are in one place."""

from __future__ import annotations

import pytest
import torch

from shared.models.attention import trainable
from shared.models.registry import build_recommender
from simulations.benchmarks.central import Recipe, train_centrally
from tests.conftest import DESCRIBED, some_catalogue, some_histories


@pytest.mark.parametrize("decay", [False, True])
def test_each_epoch_trains_and_rates_fall_to_nothing(*, decay: bool) -> None:
    torch.manual_seed(0)
    model, histories = build_recommender(DESCRIBED, some_catalogue()), some_histories(9)
    weights = [weight.detach().clone() for weight in trainable(model).values()]
    moved = []
    for epoch in train_centrally(model, histories, Recipe(epochs=4, decay=decay, candidates=5)):
        now = [weight.detach().clone() for weight in trainable(model).values()]
        moved.append(sum(float((a - b).norm()) for a, b in zip(now, weights, strict=True)))
        weights = now
        assert epoch == len(moved)
        assert not model.training
    assert all(moved)
    assert (moved[-1] < moved[0] / 2) == decay
