"""Evaluation and statistics under hostile weights and tables: one user's part, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.compute.evaluation import EvaluationPlan, _per_user, evaluate, noised_sums
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender
from shared.models.moments import moment_sum, popularity_sum
from shared.privacy.noise import SystemRandom
from simulations.benchmarks.hostile_search import (
    ATTACKS,
    ITEMS,
    LARGEST,
    LENGTH,
    attack,
    hostile_model,
)

search = settings(max_examples=40, deadline=None)
history = st.one_of(
    st.lists(st.integers(1, ITEMS), min_size=2, max_size=LENGTH + 3),
    st.builds(lambda item, n: [item] * n, st.integers(1, ITEMS), st.integers(2, 3 * LENGTH)),
)
PLAN = EvaluationPlan(sample_rate=1.0, clip_norm=math.sqrt(3), noise_multiplier=1e6, k=3)


def figures(model: AttentionRecommender, lists: list[list[int]]) -> np.ndarray:
    return _per_user(model.train(mode=False), Histories.from_lists(lists), 3)


@search
@given(st.integers(0, 2**32), st.lists(history, min_size=1, max_size=80))
def test_a_users_rank_is_its_own(seed: int, lists: list[list[int]]) -> None:
    """Alone or among others, in any batch: with hostile weights, a rank turns on the last bit."""
    model = hostile_model(np.random.default_rng(seed))
    together = figures(model, lists)
    assert np.isfinite(together).all()
    for row in {0, len(lists) // 2, len(lists) - 1}:
        assert (figures(model, [lists[row]])[0] == together[row]).all()
    assert (figures(model, lists[::-1])[::-1] == together).all()


@pytest.mark.parametrize("name", list(ATTACKS))
@pytest.mark.parametrize("length", [LENGTH, 20])
def test_a_long_history_changes_nobody_elses_rank(name: str, length: int) -> None:
    model = attack(name, length=length)
    random = np.random.default_rng(0)
    others = [list(random.integers(1, ITEMS + 1, random.integers(2, 13))) for _ in range(100)]
    long = list(random.integers(1, ITEMS + 1, 3 * length))
    assert (figures(model, [long, *others])[1:] == figures(model, others)).all()


def test_an_evaluation_is_finite_whatever_the_weights() -> None:
    model = hostile_model(np.random.default_rng(0))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(LARGEST)
    for lists in ([], [[1, 2, 3]] * 3):
        sums = evaluate(model, Histories.from_lists(lists), PLAN, SystemRandom())
        assert sums.isfinite().all()


@search
@given(st.lists(st.lists(st.floats(), min_size=3, max_size=3), min_size=1, max_size=9))
def test_one_users_figures_move_the_sums_by_at_most_the_clip_norm(rows: list[list[float]]) -> None:
    """Exactly, whatever the figures: infinite, not a number, or enormous."""

    def sums(parts: list[list[float]]) -> np.ndarray:
        quiet = EvaluationPlan(sample_rate=1.0, clip_norm=1.0, noise_multiplier=2.0**-30, k=3)
        rounded = [noised_sums(np.array(part), quiet, SystemRandom()) for part in (parts, parts)]
        return np.stack([part.double().numpy() for part in rounded]).mean(0)

    rest = rows[:-1] or [[0.0, 0.0, 0.0]]
    moved = np.linalg.norm(sums([*rest, rows[-1]]) - sums(rest))
    assert moved <= 1 + 1e-5


recencies = st.sampled_from([1e-300, 1e-3, 0.75, 1.0])
tables = st.integers(0, 2**32).map(lambda seed: hostile_table(np.random.default_rng(seed)))


def hostile_table(random: np.random.Generator) -> np.ndarray:
    """Descriptors of any size: spikes, opposite rows, and numbers that overflow a product."""
    table = random.standard_normal((ITEMS, 5)) * 2.0 ** random.integers(-60, 61, (ITEMS, 1))
    table[::2] = -table[1::2] if random.random() < 0.3 else table[::2]
    if random.random() < 0.2:
        table[random.integers(ITEMS)] = LARGEST
    return np.clip(table, -LARGEST, LARGEST).astype(np.float32)


@search
@given(
    tables, st.lists(history, min_size=1, max_size=30), st.sampled_from([1e-300, 1e-3, 0.75, 1.0])
)
def test_a_moment_moves_the_sum_by_its_own_share(
    table: np.ndarray, lists: list[list[int]], recency: float
) -> None:
    def total(rows: list[list[int]]) -> np.ndarray:
        return moment_sum(Histories.from_lists(rows), table, recency)

    shares = [total([row]) for row in lists]
    assert all(np.isfinite(share).all() for share in shares)
    assert max(np.linalg.norm(share) for share in shares) <= 1 + 1e-9
    assert (total(lists) == sum(shares)).all()
    assert (total(lists) - total(lists[1:]) == shares[0]).all()


@search
@given(st.lists(history, min_size=1, max_size=30), st.floats(0, 1))
def test_a_popularity_moves_the_sum_by_its_own_share(lists: list[list[int]], fade: float) -> None:
    def total(rows: list[list[int]]) -> np.ndarray:
        return popularity_sum(Histories.from_lists(rows), ITEMS, fade)

    shares = [total([row]) for row in lists]
    assert max(np.linalg.norm(share) for share in shares) <= 1 + 1e-9
    assert (total(lists) == sum(shares)).all()
    assert (total(lists) - total(lists[1:]) == shares[0]).all()
