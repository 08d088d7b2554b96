"""Weights by position give back what position bias hides."""

from __future__ import annotations

import numpy as np
import pytest

from shared.evaluation.propensity import corrected_rate, look_probabilities, weighted_mean

ETA = 1.0


def test_the_corrected_rate_does_not_depend_on_where_items_were_shown() -> None:
    random = np.random.default_rng(0)
    found = []
    for deepest in (2, 10):  # the same items, in short and in long lists
        positions = random.integers(1, deepest + 1, 40_000)
        looks = look_probabilities(positions, ETA)
        chosen = (random.random(40_000) < looks) & (random.random(40_000) < 0.3)
        users = np.arange(40_000)
        rate, error = corrected_rate(chosen, looks, users)
        found.append((chosen.mean(), rate, error))
    (plain, rate, error), (plain_deep, rate_deep, error_deep) = found
    assert plain - plain_deep > 0.1
    assert abs(rate - 0.3) < 4 * error < 0.02
    assert abs(rate_deep - 0.3) < 4 * error_deep < 0.04


def test_the_error_is_that_of_repetitions_and_of_users() -> None:
    random, means, errors = np.random.default_rng(1), [], []
    users = np.repeat(np.arange(100), 5)  # five values of a user are the same
    weights = np.repeat(random.uniform(1, 5, 100), 5)
    for _ in range(400):
        values = np.repeat(random.random(100), 5)
        mean, error = weighted_mean(values, weights, users)
        means.append(mean)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_what_has_no_propensity_is_refused() -> None:
    for positions, eta in (([0], 1.0), ([1], -1.0), ([1], float("nan"))):
        with pytest.raises(ValueError, match="positions count from 1"):
            look_probabilities(np.array(positions), eta)
    with pytest.raises(ValueError, match="nothing"):
        weighted_mean(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
