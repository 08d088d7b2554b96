"""The best items from candidates are those of a search over all items."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from client.home.home_model import CountShares
from client.serving.candidates import Candidates, ExactScores, best_items, highest
from shared.errors import DataError

ITEMS = 5000
NONE = np.zeros(0, np.int64)


class Rough(ExactScores):
    """Knows few candidates exactly at first, and says how far the others may be off."""

    def __init__(self, row: np.ndarray, off: float) -> None:
        super().__init__(row.copy())
        self._draw, self._off, self.asked = np.random.default_rng(0), off, 0

    def best(self, most: int) -> Candidates:
        self.asked += 1
        rough = self._row + self._draw.uniform(-self._off, self._off, len(self._row))
        columns, least = highest(rough.astype(np.float32), most)
        complete = least == -math.inf
        return Candidates(columns, self._row[columns], least + self._off, complete)


def whole(
    row: np.ndarray, k: int, left_out: np.ndarray, counts: CountShares | None
) -> tuple[list[int], np.ndarray]:
    """Columns and probabilities by sorting everything."""
    chances = torch.from_numpy(row).double().softmax(0).numpy()
    if counts is not None:
        chances = counts.prior * chances
        chances[counts.columns] += counts.values
        chances = chances / counts.total
    shown = [j for j in np.argsort(-chances.astype(np.float32), kind="stable") if not left_out[j]]
    return shown[:k], chances[shown[:k]]


def some_counts(draw: np.random.Generator) -> CountShares:
    columns = np.sort(draw.choice(ITEMS, 40, replace=False))
    values = draw.uniform(0, 0.05, 40).astype(np.float32)
    return CountShares(columns, values, 0.7, 0.7 + float(values.sum()))


@pytest.mark.parametrize("off", [0.0, 0.1, 1.5])
@pytest.mark.parametrize("counted", [False, True])
def test_the_best_items_are_those_of_a_whole_search(off: float, counted: bool) -> None:
    draw = np.random.default_rng(4)
    for k in (1, 10, 300, ITEMS):
        row = draw.normal(size=ITEMS).astype(np.float32)
        counts = some_counts(draw) if counted else None
        mask = draw.random(ITEMS) < 0.3 if k != 10 else None
        seen = draw.integers(0, ITEMS, 60)
        left_out = np.zeros(ITEMS, bool) if mask is None else mask.copy()
        left_out[seen] = True
        columns, chances = best_items(Rough(row, off), k, mask=mask, seen=seen, counts=counts)
        expected, values = whole(row, k, left_out, counts)
        assert columns.tolist() == expected
        np.testing.assert_allclose(chances, values, rtol=1e-5)


def test_more_candidates_are_asked_for_where_they_do_not_suffice() -> None:
    row = np.random.default_rng(1).normal(size=ITEMS).astype(np.float32)
    for off, most in ((0.01, 1), (2.0, 3)):
        scores = Rough(row, off)
        best_items(scores, 10, mask=None, seen=NONE)
        assert (scores.asked > 1) == (off > 1)
        assert scores.asked <= most


def test_equal_scores_are_in_the_order_of_the_catalogue() -> None:
    row = np.zeros(ITEMS, np.float32)
    row[[7, 4000]] = 1.0
    columns, _ = best_items(ExactScores(row), 5, mask=None, seen=np.array([1]))
    assert columns.tolist() == [7, 4000, 0, 2, 3]
    row = np.zeros(ITEMS, np.float32)
    some = CountShares(np.array([2, 9]), np.array([0.5, 0.5], np.float32), 1.0, 2.0)
    columns, _ = best_items(ExactScores(row), 4, mask=None, seen=NONE, counts=some)
    assert columns.tolist() == [2, 9, 0, 1]


def test_what_is_left_out_is_never_listed() -> None:
    row = np.linspace(0, 1, ITEMS).astype(np.float32)
    mask = np.ones(ITEMS, bool)
    mask[[3, 8]] = False
    columns, chances = best_items(ExactScores(row), 4, mask=mask, seen=np.array([8]))
    assert (columns.tolist(), len(chances)) == ([3], 1)
    some = CountShares(np.array([8]), np.ones(1, np.float32), 1.0, 2.0)
    columns, _ = best_items(ExactScores(row), 4, mask=mask, seen=np.array([8]), counts=some)
    assert columns.tolist() == [3]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e5])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    row = np.zeros(ITEMS, np.float32)
    row[5] = value
    if value == 1e5:  # large ones are not
        assert best_items(ExactScores(row), 1, mask=None, seen=NONE)[0].tolist() == [5]
        return
    with pytest.raises(DataError, match="not finite"):
        best_items(ExactScores(row), 1, mask=None, seen=NONE)
