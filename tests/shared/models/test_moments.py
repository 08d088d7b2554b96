"""A user's statistics against the recommender itself, and against loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config import ModelConfig
from shared.data.histories import Histories
from shared.models.attention import build, item_descriptors
from shared.models.losses import loss_per_user, next_item_pairs
from shared.models.moments import layer_norm, moment_sum, popularity_sum, states
from tests.conftest import FEATURES, ITEMS, some_catalogue

users = st.lists(st.lists(st.integers(1, ITEMS), max_size=30), min_size=1, max_size=6)
TABLE = item_descriptors(
    ModelConfig(feature_size=FEATURES, own_items=(3, 8)), some_catalogue()
).numpy()


def lone(histories: Histories, row: int) -> Histories:
    return Histories.from_lists([[*map(int, histories[row])]])


@settings(max_examples=40, deadline=None)
@given(users, st.sampled_from([0.5, 0.75, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_one_user_moves_a_sum_by_at_most_one(
    lists: list[list[int]], recency: float, fade: float
) -> None:
    """Against the sum without each user in turn, whatever its history."""
    histories = Histories.from_lists(lists)
    whole = popularity_sum(histories, ITEMS, fade), moment_sum(histories, TABLE, recency)
    for row in range(len(lists)):
        rest = Histories.from_lists(lists[:row] + lists[row + 1 :])
        others = popularity_sum(rest, ITEMS, fade), moment_sum(rest, TABLE, recency)
        for with_user, without in zip(whole, others, strict=True):
            assert np.linalg.norm(with_user - without) <= 1 + 1e-9


@settings(max_examples=40, deadline=None)
@given(users)
def test_a_sum_is_the_sum_over_single_users(lists: list[list[int]]) -> None:
    histories = Histories.from_lists(lists)
    each = [lone(histories, row) for row in range(len(lists))]
    np.testing.assert_allclose(
        moment_sum(histories, TABLE, 0.75),
        sum(moment_sum(one, TABLE, 0.75) for one in each),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        popularity_sum(histories, ITEMS, 0.5),
        sum(popularity_sum(one, ITEMS, 0.5) for one in each),
    )


def test_popularity_weighs_each_item_once_by_the_age_of_its_last_event() -> None:
    """Item 1 was the fourth last event, item 3 the second last, item 2 the last one."""
    total = popularity_sum(Histories.from_lists([[1, 2, 1, 3, 3, 2], [4], []]), ITEMS, 0.5)
    weights = np.array([1 / 2, 1.0, 1 / np.sqrt(2)])
    expected = np.zeros(ITEMS)
    expected[:3], expected[3] = weights / np.sqrt(1 / 4 + 1 + 1 / 2), 1
    np.testing.assert_allclose(total, expected)


def test_without_fading_all_items_of_a_user_weigh_the_same() -> None:
    total = popularity_sum(Histories.from_lists([[1, 2, 1, 3]]), ITEMS, 0.0)
    np.testing.assert_allclose(total[:3], 1 / np.sqrt(3))


def test_no_item_of_a_user_is_left_out() -> None:
    """Also with 100 different items: leaving some out would lower the sum against the noise."""
    total = popularity_sum(Histories.from_lists([list(range(1, 101))]), 100, 0.5)
    assert (total > 0).all()
    # Only 20 of them, each with weight 1 / √20, would sum to √20.
    assert total.sum() > 1.8 * np.sqrt(20)


def test_states_agree_with_a_loop() -> None:
    items, recency = np.array([3, 8, 3, 20, 1]), 0.6
    normed = layer_norm(TABLE)
    for last in range(len(items)):
        weights = recency ** np.arange(last, -1, -1.0)
        mean = (weights[:, None] * normed[items[: last + 1] - 1]).sum(0) / weights.sum()
        np.testing.assert_allclose(
            states(normed, items, recency)[last], layer_norm(mean[None])[0], atol=1e-5
        )


@pytest.mark.parametrize("recency", [0.5, 0.75, 1.0])
def test_the_untrained_recommender_has_the_same_states(recency: float) -> None:
    """To 6%: the state also holds the residual, which attention outweighs 32 times."""
    shape = ModelConfig(feature_size=FEATURES, own_items=(3, 8), recency=recency, max_length=12)
    items = [3, 8, 3, 20, 1, 7, 7, 12]
    model = build(shape, some_catalogue())
    model.train(mode=False)
    with torch.no_grad():
        found = model.states(torch.tensor([items]))[0].numpy()
    expected = states(layer_norm(TABLE), np.array(items), recency)
    assert np.abs(found - expected).max() < 0.2
    assert np.linalg.norm(found - expected) < 0.06 * np.linalg.norm(expected)


def test_the_moment_is_the_initial_gradient_of_the_loss() -> None:
    """With equal scores, -∂loss/∂W is the moment about the mean descriptor."""
    shape = ModelConfig(feature_size=FEATURES, own_items=(3, 8), max_length=12)
    items = [3, 8, 3, 20, 1, 7, 7, 12]
    model = build(shape, some_catalogue())
    model.train(mode=False)
    inputs, targets = next_item_pairs(torch.tensor([items]))
    loss_per_user(model(inputs), targets).sum().backward()
    assert model.feature_out.weight.grad is not None
    gradient = -model.feature_out.weight.grad.numpy().T
    with torch.no_grad():
        past = model.states(inputs)[0].numpy()
    centred = TABLE - TABLE.mean(0)
    moment = past.T @ centred[np.array(items[1:]) - 1]
    cosine = (gradient * moment).sum() / np.linalg.norm(gradient) / np.linalg.norm(moment)
    assert cosine > 0.9999
