"""Histories that the model draws: they follow its own probabilities, item by item."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from server.warm_start import synthetic
from server.warm_start.synthetic import draw_histories
from shared.models.attention import AttentionRecommender, build
from tests.conftest import DESCRIBED, ITEMS, some_catalogue

POPULARITY = np.linspace(1.0, 3.0, ITEMS)


@pytest.fixture
def model() -> AttentionRecommender:
    """Of a random map from states to items, far from even."""
    torch.manual_seed(0)
    model = build(DESCRIBED, some_catalogue()).eval()
    torch.nn.init.normal_(model.feature_out.weight, std=0.3)
    return model


def test_first_items_follow_popularity_and_next_ones_the_scores(
    model: AttentionRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "USERS", 40_000)
    monkeypatch.setattr(synthetic, "EVENTS", 2)
    drawn = np.array(list(draw_histories(model, POPULARITY, seed=1)))
    first = np.bincount(drawn[:, 0] - 1, minlength=ITEMS) / len(drawn)
    shares = POPULARITY / POPULARITY.sum()
    assert abs(first - shares).max() < 5 * np.sqrt(shares.max() / len(drawn))
    item = int(first.argmax()) + 1
    chances = model.next_item_scores(torch.tensor([[item]])).softmax(1)[0].detach().numpy()
    followed = drawn[drawn[:, 0] == item, 1]
    found = np.bincount(followed - 1, minlength=ITEMS) / len(followed)
    assert abs(found - chances).max() < 5 * np.sqrt(chances.max() / len(followed))
    assert abs(found - shares).max() > 10 * np.sqrt(chances.max() / len(followed))


def test_a_seed_draws_the_same_again(model: AttentionRecommender) -> None:
    one, again, other = (list(draw_histories(model, POPULARITY, seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_history_stays_in_the_domain_of_its_first_item(model: AttentionRecommender) -> None:
    domains = np.arange(ITEMS) % 3
    drawn = np.array(list(draw_histories(model, POPULARITY, 1, domains)))
    found = domains[drawn - 1]
    assert (found == found[:, :1]).all()
    assert set(found[:, 0]) == {0, 1, 2}
