"""The home model against its definition, event by event."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from client.home.home_model import (
    FixedPrior,
    HomeModel,
    Memory,
    SoftmaxPrior,
    TransitionCounts,
    popularity_shares,
)
from shared.data.histories import Histories
from shared.models.influence import NO_CAPS

ITEMS, WINDOW = 7, 6


def histories(seed: int, users: int = 12) -> Histories:
    draw = np.random.default_rng(seed)
    return Histories.from_lists(
        [draw.integers(1, ITEMS + 1, draw.integers(0, WINDOW + 1)).tolist() for _ in range(users)]
    )


def logits(rows: Tensor, /) -> Tensor:
    return torch.stack([torch.cos((row.sum() + 1) * torch.arange(ITEMS)) for row in rows])


def expected(own: Histories, memory: Memory, strength: float, row: list[int]) -> list[float]:
    counts = np.zeros((ITEMS + 1, ITEMS + 1))
    for history in own:
        for place, before in enumerate(history):
            for distance, after in enumerate(history[place + 1 : place + 1 + memory.events]):
                counts[before, after] += memory.decay**distance
    padded = torch.tensor([row + [0] * (WINDOW - len(row))])
    prior = torch.softmax(logits(padded)[0].double(), 0).tolist()
    if not row:
        return prior
    scores = [0.0] * ITEMS
    for back, item in enumerate(reversed(row[-memory.events :])):
        for j in range(ITEMS):
            posterior = (counts[item, j + 1] + strength * prior[j]) / (
                counts[item].sum() + strength
            )
            scores[j] += memory.decay**back * posterior
    return scores


@pytest.mark.parametrize("memory", [Memory(1, 1.0), Memory(3, 0.5), Memory(10, 0.8)])
@pytest.mark.parametrize("strength", [0.5, 64.0])
def test_scores_are_the_sum_of_posterior_means(memory: Memory, strength: float) -> None:
    own, asked = histories(1), histories(2)
    counts = TransitionCounts.of(own, ITEMS, memory, NO_CAPS)
    model = HomeModel(counts, SoftmaxPrior(logits), strength)
    scores = model(asked.padded(range(len(asked)), WINDOW))
    for row, of_user in zip(asked, scores, strict=True):
        assert of_user.tolist() == pytest.approx(
            expected(own, memory, strength, row.tolist()), rel=1e-5
        )


def test_an_infinite_strength_is_the_prior_and_a_small_one_own_counts() -> None:
    own, rows = histories(3), torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0]])
    transitions = TransitionCounts.of(own, ITEMS, Memory(1, 1.0))
    prior = SoftmaxPrior(logits)
    assert torch.equal(HomeModel(transitions, prior, math.inf)(rows), prior(rows).float())
    shares = transitions.counts.toarray()[3] / transitions.totals[3]
    assert HomeModel(transitions, prior, 1e-6)(rows)[0].tolist() == pytest.approx(shares, abs=1e-5)


@pytest.mark.parametrize("strength", [0.5, 64.0, math.inf])
def test_the_parts_after_one_history_are_those_of_the_blend(strength: float) -> None:
    own, asked, prior = histories(1), histories(2), SoftmaxPrior(logits)
    model = HomeModel(TransitionCounts.of(own, ITEMS, Memory(3, 0.5)), prior, strength)
    for row in [*asked, np.zeros(0, np.int64)]:
        padded = torch.tensor([row.tolist() or [0]])
        parts = model.after(row)
        scores = parts.prior * prior(padded)[0].numpy()
        scores[parts.columns] += parts.values
        assert scores.tolist() == pytest.approx(model(padded)[0].tolist(), rel=1e-5)
        assert parts.total == pytest.approx(scores.sum(), rel=1e-6)
        assert (np.diff(parts.columns) > 0).all()


def test_popularity_gives_every_item_a_share() -> None:
    own = Histories.from_lists([[2, 2, 3]])
    shares = popularity_shares(own, 4, NO_CAPS)
    assert shares.tolist() == pytest.approx([1 / 7, 3 / 7, 2 / 7, 1 / 7])
    capped = popularity_shares(own, 4)  # by default a user counts once
    assert capped.tolist() == pytest.approx([1 / 6, 2 / 6, 2 / 6, 1 / 6])
    assert FixedPrior(shares)(torch.zeros(5, 2, dtype=torch.int64)).shape == (5, 4)


def test_no_transitions_leave_the_prior() -> None:
    transitions = TransitionCounts.of(Histories.from_lists([[1], []]), ITEMS, Memory(3, 0.5))
    rows = torch.tensor([[1, 2]])
    prior = SoftmaxPrior(logits)
    scores = HomeModel(transitions, prior, 8.0)(rows)
    assert scores[0].tolist() == pytest.approx((1.5 * prior(rows)[0]).tolist())
