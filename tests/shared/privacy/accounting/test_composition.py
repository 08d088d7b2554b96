"""One loss on a grid against its closed form; sums of losses against sampled ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from shared.privacy.accounting.composition import Form, _Loss, _loss, _span, composed_epsilon

UNLIKELY = 1e-6
noises, rates = st.floats(0.3, 50), st.sampled_from([1e-4, 1e-3, 0.01, 0.1, 0.5, 0.99, 1.0])


def closed(noise: float, rate: float, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hockey-stick divergence of (1-q) N(0, σ²) + q N(1, σ²) from N(0, σ²)."""
    base = np.exp(epsilons)
    inside = np.maximum((base - (1 - rate)) / rate, 0)
    with np.errstate(divide="ignore"):
        x = noise**2 * np.log(inside) + 0.5
    own = (1 - rate) * stats.norm.sf(x / noise) + rate * stats.norm.sf((x - 1) / noise)
    return np.asarray(own - base * stats.norm.sf(x / noise))


def closed_reversed(
    noise: float, rate: float, epsilons: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The other direction: what is above the other line."""
    return 1 - np.exp(epsilons) + np.exp(epsilons) * closed(noise, rate, -epsilons)


def on_grid(loss: _Loss, mesh: float, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    points = loss.points(mesh)
    gaps = -np.expm1(np.minimum(epsilons[:, None] - points, 0))
    return np.asarray(gaps @ loss.mass + loss.infinite)


@settings(max_examples=40, deadline=None)
@given(noises, rates, st.floats(0.002, 0.2))
def test_a_discretised_loss_dominates_and_touches_the_exact_curve(
    noise: float, rate: float, mesh: float
) -> None:
    with np.errstate(divide="ignore", over="ignore"):
        loss = _loss(noise, rate, mesh, _span(noise, rate, 8.0))
    first, last = max(loss.first, -300), min(loss.first + len(loss.mass), 300)
    at: NDArray[np.float64] = mesh * np.arange(first + 1, last - 1, dtype=np.float64)
    between = at[:-1] + mesh * 0.37
    for curve, side in [(closed, loss), (closed_reversed, loss.reversed(mesh))]:
        points = at if curve is closed else -at
        middle = between if curve is closed else -between
        exact, got = curve(noise, rate, points), on_grid(side, mesh, points)
        tolerance = 1e-12 * np.exp(np.abs(points)) + 1e-13
        assert (np.abs(got - exact) < tolerance).all()
        above = on_grid(side, mesh, middle) - curve(noise, rate, middle)
        assert (above > -1e-12 * np.exp(np.abs(middle)) - 1e-13).all()


@settings(max_examples=30, deadline=None)
@given(noises, rates, st.floats(0.002, 0.2), st.sampled_from([2.0, 8.0]))
def test_no_mass_is_lost(noise: float, rate: float, mesh: float, deviations: float) -> None:
    """Also where the grid is cut short: what lies beyond is counted as the worst."""
    with np.errstate(divide="ignore", over="ignore"):
        loss = _loss(noise, rate, mesh, _span(noise, rate, deviations))
    for side in (loss, loss.reversed(mesh)):
        assert (side.mass >= 0).all()
        assert side.mass.sum() + side.infinite == pytest.approx(1, abs=1e-12)
        assert 0 <= side.infinite < 1.01 * stats.norm.sf(deviations) + 1e-12


@pytest.mark.parametrize(
    "forms",
    [
        [(1.0, 1.0, 1)],
        [(2.0, 0.3, 20), (1.0, 0.1, 5)],
        [(0.6, 0.05, 8), (4.0, 0.9, 12), (3.0, 0.5, 7)],
    ],
    ids=len,
)
@pytest.mark.parametrize("direction", [1, -1], ids=["removed", "added"])
def test_sums_agree_with_sampled_losses(forms: list[Form], direction: int) -> None:
    """δ(ε) as an average over what is really drawn: no grid, no transform, both directions."""
    delta, draws = 0.02, 400_000
    epsilon = composed_epsilon(forms, delta, reach=20.0, tilt=2.0)
    rng = np.random.default_rng(0)
    losses = np.zeros(draws)
    for noise, rate, steps in forms:
        for _ in range(steps):
            there = rng.random(draws) < rate if direction == 1 else np.zeros(draws)
            x = there + noise * rng.standard_normal(draws)
            losses += direction * np.log(1 - rate + rate * np.exp((x - 0.5) / noise**2))
    shown = np.maximum(0, -np.expm1(np.minimum(epsilon - losses, 0)))
    error = float(stats.norm.isf(UNLIKELY)) * shown.std() / math.sqrt(draws)
    assert shown.mean() < delta + error
    if direction == 1:  # the direction that shows more
        assert shown.mean() > delta - error


def test_tilt_and_reach_change_the_grid_and_not_the_answer() -> None:
    forms = [(1.0, 0.05, 300), (2.0, 0.1, 50)]
    usual = composed_epsilon(forms, 1e-5, reach=20.0, tilt=5.0)
    for reach, tilt in itertools.product([1.0, 10.0, 100.0], [0.5, 2.0, 8.0, 30.0]):
        got = composed_epsilon(forms, 1e-5, reach=reach, tilt=tilt)
        assert got == pytest.approx(usual, rel=2e-4), (reach, tilt)


def test_a_coarser_grid_only_increases_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = []
    for longest in (2**20, 2**9, 2**7):
        monkeypatch.setattr("shared.privacy.accounting.composition.MAX_POINTS", longest)
        costs.append(composed_epsilon([(1.0, 0.05, 300)], 1e-5, reach=20.0, tilt=5.0))
    assert costs[0] < costs[1] < costs[2] < 2 * costs[0]
