"""ItemKNN, EASE and counts over the last three events agree with their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.models.ease import MAX_SIZE, Ease
from shared.models.item_knn import ItemKNN
from shared.models.recent_counts import WEIGHTS, RecentCounts

V = 7
histories = st.lists(st.lists(st.integers(1, V), max_size=9), min_size=1, max_size=12).filter(any)
asked = st.lists(st.integers(1, V), min_size=1, max_size=6)


def multi_hot(lists: list[list[int]]) -> NDArray[np.float64]:
    return np.array([[float(item in each) for item in range(1, V + 1)] for each in lists])


@settings(deadline=None)
@given(histories, asked)
def test_recent_counts_agree_with_counting_pairs(
    lists: list[list[int]], history: list[int]
) -> None:
    counts = np.zeros((V + 1, V + 1))
    for each in lists:
        for place, after in enumerate(each):
            for distance, weight in enumerate(WEIGHTS, start=1):
                if place >= distance:
                    counts[each[place - distance], after] += weight
    share = np.bincount([item for each in lists for item in each], minlength=V + 1)
    expected = 1e-3 * share / share.sum()
    for weight, item in zip(WEIGHTS, reversed(history), strict=False):
        expected = expected + weight * counts[item]
    model = RecentCounts.from_histories(Histories.from_lists(lists), V)
    [scores] = model(torch.tensor([history + [0] * 3]))
    np.testing.assert_allclose(scores, expected[1:], atol=1e-12)


@settings(deadline=None)
@given(histories, asked, st.floats(0.5, 1000))
def test_ease_is_the_closed_form_with_few_users_and_with_many(
    lists: list[list[int]], history: list[int], ridge: float
) -> None:
    for users in (lists, lists * V):  # fewer users than items, and more
        pairs = multi_hot(users)
        inverse = np.linalg.inv(pairs.T @ pairs + ridge * np.eye(V))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        model = Ease.from_histories(Histories.from_lists(users), V, ridge)
        scores = model(torch.tensor([[*history, 0]]))
        np.testing.assert_allclose(scores, multi_hot([history]) @ weights, atol=1e-9)


def test_ease_refuses_a_matrix_that_is_too_large() -> None:
    size = MAX_SIZE + 1
    many = Histories.from_lists([[item + 1] for item in range(size)])
    with pytest.raises(ValueError, match=f"size={size}"):
        Ease.from_histories(many, size)


@settings(deadline=None)
@given(histories, asked, st.integers(1, V + 2))
def test_item_knn_sums_the_cosines_of_neighbours(
    lists: list[list[int]], history: list[int], neighbours: int
) -> None:
    pairs = multi_hot(lists)
    norms = np.maximum(np.linalg.norm(pairs, axis=0), 1)
    cosine = ((pairs / norms).T @ (pairs / norms)).round(12)
    np.fill_diagonal(cosine, 0)
    if neighbours < V:
        least = np.sort(cosine, axis=1)[:, -neighbours, None]
        cosine = np.where(cosine >= least, cosine, 0)
    model = ItemKNN.from_histories(Histories.from_lists(lists), V, neighbours)
    scores = model(torch.tensor([[*history, 0]]))
    np.testing.assert_allclose(scores, multi_hot([history]) @ cosine, atol=1e-9)


@pytest.mark.parametrize("model", [ItemKNN, Ease, RecentCounts])
def test_an_empty_history_is_scored(model: type[ItemKNN | Ease | RecentCounts]) -> None:
    scores = model.from_histories(Histories.from_lists([[1, 2], [2, 3]]), V)(
        torch.zeros(2, 3).long()
    )
    assert scores.shape == (2, V)
    assert scores.isfinite().all()
