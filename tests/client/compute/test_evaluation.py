from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from client.compute.evaluation import EvaluationPlan, noised_sums
from shared.privacy.noise import SeededRandom, SystemRandom

BOUND = math.sqrt(3)


def plan(**changes: float) -> EvaluationPlan:
    fields: dict[str, Any] = {"sample_rate": 1.0, "clip_norm": BOUND, "noise_multiplier": 1.0}
    return EvaluationPlan(**fields | changes, k=10)


def exact(rows: list[list[float]], **changes: float) -> list[float]:
    quiet = plan(noise_multiplier=1e-9, **changes)
    return noised_sums(np.array(rows), quiet, SystemRandom()).tolist()


def test_parts_within_the_bound_are_summed_as_they_are() -> None:
    assert exact([[1, 1, 1], [0, 0, 1], [1, 0.5, 1]]) == pytest.approx([2, 1.5, 3], abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 5.0, 1e6, 1e30])
def test_no_user_moves_the_sums_further_than_the_bound(scale: float) -> None:
    others = [[1.0, 0.3, 1.0], [0.0, 0.0, 1.0]]
    moved = np.array(exact([*others, [scale] * 3])) - np.array(exact(others))
    assert np.linalg.norm(moved) <= BOUND * (1 + 1e-6)
    assert moved == pytest.approx([1, 1, 1], abs=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_does_not_show(value: float) -> None:
    assert exact([[value, 0.5, 1.0], [1, 1, 1]]) == pytest.approx([1, 1.5, 2], abs=1e-6)


def test_without_users_there_is_noise_alone() -> None:
    found = noised_sums(np.zeros((0, 3)), plan(), SeededRandom(0))
    assert found.shape == (3,)
    assert found.dtype == torch.float32
    assert found.abs().min() > 0


@pytest.mark.parametrize("noise_multiplier", [0.5, 4.0])
def test_the_noise_is_gaussian_of_the_stated_width(noise_multiplier: float) -> None:
    random, rows = SeededRandom(1), np.array([[1.0, 0.5, 1.0]])
    stated = plan(noise_multiplier=noise_multiplier)
    draws = np.stack([noised_sums(rows, stated, random).numpy() for _ in range(2000)])
    noise = (draws - rows) / (noise_multiplier * BOUND)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.1
