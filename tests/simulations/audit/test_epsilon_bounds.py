"""Guesses against distributions that are known exactly, estimates against closed forms."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.audit.epsilon_bounds import (
    binomial_interval,
    epsilon_lower_bound,
    gaussian_epsilon,
    gaussian_estimate,
    gaussian_separation,
    guess,
    largest_provable,
    p_value,
)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_without_delta_the_p_value_is_that_of_randomised_response(epsilon: float) -> None:
    """The mechanism that attains the theorem: each coin is told truly with its chance."""
    coins, chance = 6, math.exp(epsilon) / (1 + math.exp(epsilon))
    exact = [0.0] * (coins + 1)
    for told in product((0, 1), repeat=coins):
        exact[sum(told)] += chance ** sum(told) * (1 - chance) ** (coins - sum(told))
    for correct in range(coins + 1):
        found = p_value(correct, coins, coins, epsilon=epsilon, delta=0.0)
        assert found == pytest.approx(sum(exact[correct:]), rel=1e-9)


@pytest.mark.parametrize("delta", [0.001, 0.02])
def test_the_p_value_covers_a_mechanism_that_gives_all_away_with_chance_delta(delta: float) -> None:
    """With chance δ every coin is told; else randomised response: (ε, δ)-private for each coin."""
    epsilon, coins = 1.0, 40
    chance = math.exp(epsilon) / (1 + math.exp(epsilon))
    rng = np.random.default_rng(1)
    told = rng.binomial(coins, chance, size=200_000)
    told[rng.random(len(told)) < delta] = coins
    for correct in range(25, coins + 1):
        actual = float((told >= correct).mean())
        bound = p_value(correct, coins, coins, epsilon=epsilon, delta=delta)
        assert actual <= bound + 4 * math.sqrt(actual / len(told))


@given(
    st.integers(1, 400),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([0.0, 1e-5, 1e-3]),
)
@settings(max_examples=60, deadline=None)
def test_p_values_fall_with_right_guesses_and_rise_with_epsilon(
    canaries: int, share: float, right: float, delta: float
) -> None:
    guesses = max(1, int(share * canaries))
    correct = int(right * (guesses - 1))
    here = p_value(correct, guesses, canaries, epsilon=1.0, delta=delta)
    assert 0 <= here <= 1
    assert p_value(correct + 1, guesses, canaries, epsilon=1.0, delta=delta) <= here + 1e-12
    assert p_value(correct, guesses, canaries, epsilon=0.5, delta=0.0) <= (
        p_value(correct, guesses, canaries, epsilon=1.0, delta=0.0) + 1e-12
    )


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2 guesses"):
        p_value(3, 2, 10, epsilon=1.0, delta=0.0)


def test_a_bound_is_the_epsilon_at_which_the_p_value_is_the_error() -> None:
    bound = epsilon_lower_bound(90, 100, 1000, delta=1e-5, confidence=0.95)
    assert p_value(90, 100, 1000, epsilon=bound, delta=1e-5) == pytest.approx(0.05, rel=1e-3)
    assert epsilon_lower_bound(50, 100, 1000, delta=1e-5, confidence=0.95) == 0


def test_bounds_are_below_the_truth_of_a_gaussian_as_often_as_promised() -> None:
    """ε of a Gaussian mechanism is known: a bound above it must be rarer than the error."""
    rng, separation, canaries, tries = np.random.default_rng(2), 1.0, 600, 150
    truth, above = gaussian_epsilon(separation, 1e-5), 0
    found = []
    for _ in range(tries):
        inside = rng.random(canaries) < 0.5
        scores = rng.normal(size=canaries) + separation * inside
        found.append(guess(scores, inside, delta=1e-5, confidence=0.9).epsilon)
        above += found[-1] > truth
    assert above <= 0.1 * tries
    assert np.mean(found) > 0.8  # and they do say something


def test_bounds_of_pure_epsilon_are_tight_where_they_can_be() -> None:
    """Randomised response is the worst mechanism: with many coins the bound comes near its ε."""
    rng, epsilon = np.random.default_rng(3), 1.5
    inside = rng.random(20_000) < 0.5
    flipped = rng.random(20_000) > math.exp(epsilon) / (1 + math.exp(epsilon))
    scores = (inside ^ flipped) + rng.random(20_000) * 1e-3
    found = guess(scores, inside, delta=0.0, confidence=0.95)
    assert 1.35 < found.epsilon <= 1.5


def test_what_can_be_proven_is_what_all_right_guesses_prove() -> None:
    inside = np.arange(1000) % 2 == 0
    perfect = guess(inside.astype(float), inside, delta=1e-5, confidence=0.95)
    assert perfect.epsilon == largest_provable(1000, delta=1e-5, confidence=0.95)
    assert largest_provable(4000, delta=0.0, confidence=0.95) > perfect.epsilon


@given(st.floats(0.05, 6.0), st.sampled_from([1e-6, 1e-5, 1e-3]))
@settings(max_examples=25, deadline=None)
def test_the_epsilon_of_two_normals_is_the_gaussian_mechanism_s(
    separation: float, delta: float
) -> None:
    found = gaussian_epsilon(separation, delta)
    exact = GaussianPrivacyLoss(1 / separation).get_delta_for_epsilon(found)
    assert exact == pytest.approx(delta, rel=1e-3) or (found == 0 and exact < delta)
    if found > 0:
        assert gaussian_separation(found, delta) == pytest.approx(separation, rel=1e-4)


def test_no_separation_is_no_epsilon() -> None:
    assert gaussian_epsilon(0.0, 1e-5) == 0
    assert gaussian_separation(0.0, 1e-5) == 0


def test_the_interval_of_an_estimate_holds_as_often_as_promised() -> None:
    rng, separation, tries, low, high = np.random.default_rng(4), 1.2, 300, 0, 0
    truth = gaussian_epsilon(separation, 1e-5)
    for _ in range(tries):
        inside = rng.random(400) < 0.5
        scores = 3.0 * rng.normal(size=400) + 3.0 * separation * inside - 5
        found = gaussian_estimate(scores, inside, delta=1e-5, confidence=0.95)
        low, high = low + (found.low > truth), high + (found.high < truth)
    # 5% on either side; 4 deviations of a binomial of 300 are 15.
    assert low <= 30
    assert high <= 30
    assert low + high >= 5


def test_scores_that_tell_for_certain_are_beyond_any_epsilon() -> None:
    inside = np.arange(40) % 2 == 0
    found = gaussian_estimate(inside.astype(float), inside, delta=1e-5, confidence=0.95)
    assert found.epsilon == found.low == 1000


def test_two_coins_of_a_kind_are_too_few() -> None:
    found = gaussian_estimate(np.zeros(3), np.ones(3, bool), delta=1e-5, confidence=0.95)
    assert (found.low, found.high) == (0, 1000)


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (3, 20), (20, 20), (0, 0)])
def test_binomial_intervals_hold_at_their_ends(hits: int, trials: int) -> None:
    low, high = binomial_interval(hits, trials, 0.9)
    draws = np.arange(trials + 1)
    chances = [math.comb(trials, int(k)) for k in draws]
    for end, tail in ((low, draws >= hits), (high, draws <= hits)):
        mass = sum(
            c * end**k * (1 - end) ** (trials - k)
            for c, k, inside in zip(chances, draws.tolist(), tail, strict=True)
            if inside
        )
        assert mass == pytest.approx(0.05) or end in (0.0, 1.0)
