"""The formulas of the comparison of correlated with independent noise, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from simulations.benchmarks.correlated_noise import (
    Matrix,
    banded,
    blt,
    descent,
    error,
    every_round,
    final,
    least_error,
    models,
    momentum,
    one_round,
    remaining,
    scaled,
    square_root,
    tree,
    tree_remaining,
)


def searched_sensitivity(
    strategy: Matrix, random: np.random.Generator, starts: int = 8, sweeps: int = 300
) -> float:
    """The largest ‖C U‖_F over rows of U of length 1, by coordinate ascent from random rows."""
    gram, best = strategy.T @ strategy, 0.0
    rounds = len(gram)
    for _ in range(starts):
        rows = random.normal(size=(rounds, rounds))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        for t in list(range(rounds)) * sweeps:
            pull = gram[t] @ rows - gram[t, t] * rows[t]
            if length := float(np.linalg.norm(pull)):
                rows[t] = pull / length
        best = max(best, float(np.linalg.norm(strategy @ rows)))
    return best


def test_sensitivity_is_the_largest_change_by_one_user() -> None:
    random = np.random.default_rng(0)
    for rounds in (2, 3, 4):
        positive = [np.tril(random.random((rounds, rounds))), square_root(rounds), tree(rounds)]
        for strategy in positive:
            searched = searched_sensitivity(strategy, random)
            assert every_round(strategy) == pytest.approx(searched, rel=1e-9)
            alone = max(np.linalg.norm(strategy @ np.eye(rounds)[t]) for t in range(rounds))
            assert one_round(strategy) == pytest.approx(alone)
        mixed = np.tril(random.normal(size=(rounds, rounds)))
        assert searched_sensitivity(mixed, random) <= every_round(mixed) * (1 + 1e-9)


@pytest.mark.parametrize("rounds", [2, 3])
def test_no_factorisation_is_below_the_least_error(rounds: int) -> None:
    """C of any sign, its sensitivity searched: none beats independent noise with its own σ."""
    random = np.random.default_rng(1)
    rows, columns = np.tril_indices(rounds)
    for workload in (models(rounds), random.normal(size=(rounds, rounds)), momentum(rounds)):

        def searched_error(entries: Matrix, workload: Matrix = workload) -> float:
            strategy = np.zeros((rounds, rounds))
            strategy[rows, columns] = entries
            if np.abs(np.diag(strategy)).min() < 1e-3:
                return 1e6
            sensitivity = searched_sensitivity(strategy, np.random.default_rng(0), 1, 30)
            return float(np.linalg.norm(remaining(workload, strategy))) * sensitivity

        least = least_error(workload)
        best = scaled(workload)
        assert error(remaining(workload, best), best, every_round) == pytest.approx(least)
        start = np.where(rows == columns, 1.0, 0.5)
        found = minimize(searched_error, start, method="Nelder-Mead", options={"maxfev": 150})
        assert least * (1 - 1e-6) <= found.fun <= least * 1.05


def dual_bound(workload: Matrix) -> float:
    """The least error of any factorisation if each user takes part in one round.

    ‖B‖ sensitivity >= ‖B‖ ‖C √D‖ >= the nuclear norm of A √D, for any weights D that sum to 1.
    """

    def negative(raw: Matrix) -> float:
        weights = np.exp(raw) / np.exp(raw).sum()
        return -float(np.linalg.norm(workload * np.sqrt(weights), "nuc"))

    return -float(minimize(negative, np.zeros(workload.shape[1])).fun)


def test_equal_rates_gain_nothing_in_the_final_model() -> None:
    for rounds in range(1, 9):
        workload = final(np.full(rounds, 0.3))
        plain = error(workload, np.eye(rounds), every_round)
        assert least_error(workload) == pytest.approx(plain) == pytest.approx(0.3 * rounds)
    falling = final([4.0, 3.0, 2.0, 1.0])
    assert least_error(falling) / error(falling, np.eye(4), every_round) < 0.92


def test_factorisations_give_the_models() -> None:
    for rounds in (1, 2, 5, 8):
        nodes = tree(rounds)
        np.testing.assert_allclose(tree_remaining(nodes) @ nodes, models(rounds), atol=1e-12)
        root = square_root(rounds)
        np.testing.assert_allclose(root @ root, models(rounds), atol=1e-12)
        np.testing.assert_allclose(remaining(models(rounds), root), root, atol=1e-12)
    beta, weights, velocity = 0.9, np.zeros(4), np.zeros(4)
    for gradient in np.eye(4):
        velocity = beta * velocity + gradient
        weights = weights + velocity
    np.testing.assert_allclose(momentum(4, beta)[0], weights)


def test_searches_find_what_is_known() -> None:
    workload = models(6)
    for bands in (1, 2, 6):
        found = banded(workload, bands, every_round)
        least = least_error(workload)
        assert error(remaining(workload, found), found, every_round) == pytest.approx(least, 1e-5)
    alone = {bands: banded(workload, bands, one_round) for bands in (1, 2, 3, 6)}
    errors = [error(remaining(workload, c), c, one_round) for c in alone.values()]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(dual_bound(workload), rel=1e-5)
    root = square_root(6)
    buffered = blt(workload, 2, one_round)
    for other in (root, buffered):
        assert errors[-1] < error(remaining(workload, other), other, one_round) < errors[0]


@pytest.mark.parametrize("strategy", [np.eye(4), square_root(4), np.diag([1.0, 1.5, 2.0, 3.0])])
def test_descent_is_as_far_off_as_the_formula_says(strategy: Matrix) -> None:
    """Gradient descent on a quadratic, answering its own noisy models, 20,000 times."""
    random, draws, rate = np.random.default_rng(2), 20_000, 0.5
    curvatures = np.array([1.5, 0.5, 0.05])
    noise = random.normal(size=(draws, 4, 3))
    correlated = np.einsum("st,ntd->nsd", np.linalg.inv(strategy), noise)
    noisy, exact = np.ones((draws, 3)), np.ones(3)
    for t in range(4):
        noisy -= rate * (curvatures * noisy + correlated[:, t])
        exact -= rate * curvatures * exact
    loss = float((((noisy - exact) ** 2) * curvatures).sum(axis=1).mean())
    output = remaining(descent(4, rate, curvatures), strategy)
    assert loss == pytest.approx(float((output**2).sum()), rel=0.03)
