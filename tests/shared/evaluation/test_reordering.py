"""Ranks of targets behind chosen lists are those of the whole catalogue in the new order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.evaluation.ranking import rank_users
from shared.evaluation.reordering import Reordered

ITEMS, K = 14, 3


class _Every:
    """Chooses every `step`-th candidate; protected items are candidates in any case."""

    candidates = 6

    def __init__(self, step: int, protected: NDArray[np.bool_] | None) -> None:
        self.step, self.protected = step, protected

    def __call__(
        self, ids: NDArray[np.int64], scores: NDArray[np.floating], histories: Histories, k: int
    ) -> NDArray[np.int64]:
        assert len(histories) == len(ids)
        shown = np.where(ids > 0, scores, -np.inf)
        assert (np.diff(shown[ids > 0].reshape(-1)) <= 0).all() or len(ids) > 1
        last = ids.shape[1] - 1
        return np.stack([np.array([0, min(self.step, last), last])] * len(ids))[:, :k]


@pytest.mark.parametrize("protected", [None, np.arange(ITEMS) >= 9])
def test_the_list_comes_first_and_all_others_behind(
    protected: NDArray[np.bool_] | None,
) -> None:
    random = np.random.default_rng(0)
    table = torch.from_numpy(random.integers(0, 9, (ITEMS + 1, ITEMS)).astype(np.float32))

    def scorer(rows: torch.Tensor, /) -> torch.Tensor:
        return table[rows[:, 0]]

    inputs = Histories.from_lists([[item] for item in range(1, ITEMS + 1)])
    targets = np.roll(np.arange(1, ITEMS + 1), 4)
    reordered = Reordered(scorer, _Every(2, protected), logits=True)
    found = rank_users(reordered, inputs, targets, items=ITEMS, window=1, k=K)
    plain = rank_users(scorer, inputs, targets, items=ITEMS, window=1, k=ITEMS)
    for row, target in enumerate(targets.tolist()):
        top = [item for item in found.top[row].tolist() if item]
        others = [item for item in plain.top[row].tolist() if item and item not in top]
        assert found.ranks[row] == [*top, *others].index(target) + 1


def test_probabilities_are_handed_on_as_logs() -> None:
    seen = []

    class _Look(_Every):
        def __call__(
            self,
            ids: NDArray[np.int64],
            scores: NDArray[np.floating],
            histories: Histories,
            k: int,
        ) -> NDArray[np.int64]:
            seen.append(scores[0, 0])
            return super().__call__(ids, scores, histories, k)

    def scorer(rows: torch.Tensor, /) -> torch.Tensor:
        return torch.linspace(0.0, 0.5, ITEMS).expand(len(rows), -1)

    inputs, targets = Histories.from_lists([[1]]), np.array([2])
    reordered = Reordered(scorer, _Look(1, None), logits=False)
    rank_users(reordered, inputs, targets, items=ITEMS, window=1, k=K)
    assert seen == [pytest.approx(np.log(0.5))]
