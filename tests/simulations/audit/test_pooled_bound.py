"""The bound against mechanisms whose wrong guesses have an exactly known distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from simulations.audit.epsilon_bounds import gaussian_epsilon, guess
from simulations.audit.pooled_bound import (
    exposure_tail,
    guess_pooled,
    largest_pooled,
    planned_guesses,
    pooled_lower_bound,
)

Floats = NDArray[np.float64]

ERROR = 0.05


def rejected(epsilon: float, *, releases: int, guesses: int, users: int, delta: float) -> int:
    """How many wrong guesses at most prove more than ε; -1 if none do."""
    arguments = {"releases": releases, "guesses": guesses, "users": users, "delta": delta}
    low, high = -1, releases * guesses
    while high - low > 1:
        middle = (low + high) // 2
        bound = pooled_lower_bound(middle, confidence=1 - ERROR, **arguments)  # type: ignore[arg-type]
        low, high = (middle, high) if bound > epsilon else (low, middle)
    return low


def false_alarm(most: int, epsilon: float, exposed: Floats, guesses: int) -> float:
    """P[at most `most` wrong], where the others are told by randomised response of exactly ε.

    Args:
        most: wrong guesses.
        epsilon: of the response.
        exposed: chance of 0, 1, ... guesses in all that are certainly right.
        guesses: in all.
    """
    kept = guesses - np.arange(len(exposed))
    return float((exposed * binom.cdf(most, kept, 1 / (1 + math.exp(epsilon)))).sum())


def sums(single: Floats, times: int) -> Floats:
    """The distribution of a sum of independent numbers of one distribution on 0, 1, ..."""
    total = np.ones(1)
    for _ in range(times):
        total = np.convolve(total, single)
    return total


@pytest.mark.parametrize(("releases", "guesses"), [(300, 1), (40, 6), (1, 200)])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_without_delta_the_bound_is_exact_for_randomised_response(
    releases: int, guesses: int, epsilon: float
) -> None:
    most = rejected(epsilon, releases=releases, guesses=guesses, users=guesses, delta=0.0)
    alone = np.ones(1)
    assert false_alarm(most, epsilon, alone, releases * guesses) <= ERROR
    assert false_alarm(most + 1, epsilon, alone, releases * guesses) > ERROR


@pytest.mark.parametrize(
    ("releases", "guesses", "users", "delta"),
    [(200, 2, 100, 1e-4), (50, 8, 40, 2e-3), (400, 4, 400, 1e-4), (20, 10, 10, 5e-3)],
)
@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_users_who_are_given_away_do_not_break_the_bound(
    releases: int, guesses: int, users: int, delta: float, epsilon: float
) -> None:
    """Each mechanism is (ε, δ)-private for each user, and gives away as much as δ lets it.

    With chance δ it says a user's coin, and that it is certain; else the coin by randomised
    response. Who is given away may be independent, or all at once, or as many as are guessed.
    """
    most = rejected(epsilon, releases=releases, guesses=guesses, users=users, delta=delta)
    number = np.arange(guesses + 1)
    singly = binom.pmf(number, users, delta)
    singly[-1] = binom.sf(guesses - 1, users, delta)
    together = np.where(number == guesses, delta, 0.0)
    together[0] = 1 - delta
    as_guessed = np.where(number == guesses, users * delta / guesses, 0.0)
    as_guessed[0] = 1 - users * delta / guesses
    for single in (singly, together, as_guessed):
        exposed = sums(single, releases)
        assert false_alarm(most, epsilon, exposed, releases * guesses) <= ERROR


def test_without_the_part_of_delta_the_bound_would_be_wrong() -> None:
    """The last test can fail: a bound that forgets δ is above ε far more often than promised."""
    releases, guesses, users, delta, epsilon = 200, 2, 100, 5e-3, 3.0
    exposed = sums(np.array([1 - users * delta / guesses, 0, users * delta / guesses]), releases)
    arguments = {"releases": releases, "guesses": guesses, "users": users}
    careless = rejected(epsilon, delta=0.0, **arguments)
    careful = rejected(epsilon, delta=delta, **arguments)
    assert false_alarm(careless, epsilon, exposed, releases * guesses) > 2 * ERROR
    assert false_alarm(careful, epsilon, exposed, releases * guesses) <= ERROR


@pytest.mark.parametrize(("releases", "guesses"), [(30, 1), (30, 4), (1, 5)])
@pytest.mark.parametrize("mean", [0.01, 0.3])
def test_the_tail_covers_the_sums_that_are_most_spread(
    releases: int, guesses: int, mean: float
) -> None:
    """k with chance mean / k, else 0: of numbers in 0..k with this mean, the most spread."""
    tail = exposure_tail(releases, guesses, 10 * guesses, mean / (10 * guesses))
    for exceeded, bound in enumerate(tail.tolist()):
        exact = float(binom.sf(exceeded // guesses, releases, mean / guesses))
        assert exact <= bound + 1e-12
    assert (np.diff(tail) <= 0).all()
    assert tail[0] <= 1


@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.floats(0, 1e-2),
    st.floats(0.5, 0.99),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_more_wrong_guesses_more_delta_and_more_confidence_prove_less(
    releases: int, guesses: int, delta: float, confidence: float, data: st.DataObject
) -> None:
    wrong = data.draw(st.integers(0, releases * guesses - 1))

    def bound(wrong: int, delta: float, confidence: float) -> float:
        return pooled_lower_bound(
            wrong,
            releases=releases,
            guesses=guesses,
            users=10 * guesses,
            delta=delta,
            confidence=confidence,
        )

    here = bound(wrong, delta, confidence)
    assert here >= 0
    assert bound(wrong + 1, delta, confidence) <= here
    assert bound(wrong, delta, (1 + confidence) / 2) <= here
    assert bound(wrong, 0.0, confidence) >= here


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="7 of 6 guesses wrong"):
        pooled_lower_bound(7, releases=3, guesses=2, users=2, delta=0.0, confidence=0.95)


def test_bounds_are_below_the_truth_of_a_gaussian_and_above_those_of_one_release() -> None:
    """The same scores as those of one release's users prove less: there, δ may fail for all."""
    rng, separation, delta, tries = np.random.default_rng(5), 1.0, 1e-5, 12
    truth, above = gaussian_epsilon(separation, delta), 0
    pooled, single = [], []
    for _ in range(tries):
        inside = rng.random((200, 500)) < 0.5
        scores = rng.normal(size=inside.shape) + separation * inside
        pooled.append(guess_pooled(scores, inside, epsilon=4.0, delta=delta, confidence=0.9))
        flat = scores.ravel(), inside.ravel()
        single.append(guess(*flat, delta=delta, confidence=0.9).epsilon)
        above += pooled[-1].epsilon > truth
    assert above <= 0.1 * tries
    assert np.mean([each.epsilon for each in pooled]) > np.mean(single) + 0.2
    assert np.mean([each.epsilon for each in pooled]) > 0.55 * truth


def test_few_guesses_are_planned_and_all_right_ones_prove_most() -> None:
    plan = {"epsilon": 4.0, "delta": 1e-5, "confidence": 0.95}
    planned = planned_guesses(100, 1000, **plan)
    assert planned % 2 == 0
    assert 2 <= planned <= 50
    inside = np.random.default_rng(0).random((20, 30)) < 0.5
    perfect = guess_pooled(inside.astype(np.float64), inside, **plan)
    assert perfect.epsilon <= largest_pooled(20, 30, **plan)
    # Nothing is known of coins that were not looked at.
    blind = guess_pooled(np.zeros((20, 30)), inside, **plan)
    assert blind.epsilon < 0.5
