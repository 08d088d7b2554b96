"""Poisson samples: every user by itself, exactly as many samples as asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from shared.privacy.noise import RandomSource, SeededRandom, SystemRandom
from shared.privacy.sampling import poisson_samples

UNLIKELY = 1e-6
USERS, STEPS = 200, 400


class Listed:
    """Uniforms from a list, so that the comparison at the rate itself is seen."""

    def __init__(self, *values: float) -> None:
        self.values = np.array(values)

    def uniform(self, count: int) -> NDArray[np.float64]:
        assert count == len(self.values)
        return self.values

    def words(self, count: int) -> NDArray[np.uint64]:
        raise AssertionError("no words are needed here")

    def key(self) -> bytes:
        raise AssertionError("no key is needed here")

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        raise AssertionError("sampling needs no normals")


def drawn(rate: float, random: RandomSource) -> NDArray[np.bool_]:
    """Who was in which sample, [STEPS, USERS]."""
    present = np.zeros((STEPS, USERS), dtype=bool)
    samples = poisson_samples(USERS, sample_rate=rate, steps=STEPS, random=random)
    for row, sample in zip(present, samples, strict=True):
        row[sample] = True
    return present


@pytest.mark.parametrize("rate", [0.003, 0.1, 0.9])
@pytest.mark.parametrize("random", [SystemRandom(), SeededRandom(4)], ids=["system", "seeded"])
def test_each_user_is_drawn_with_the_stated_chance(rate: float, random: RandomSource) -> None:
    present = drawn(rate, random)
    within = stats.binom(present.size, rate).cdf(present.sum())
    assert UNLIKELY < within < 1 - UNLIKELY
    # By itself: the counts of users and of samples scatter as binomials do.
    for axis, trials in [(0, STEPS), (1, USERS)]:
        counts = present.sum(axis)
        expected = trials * rate * (1 - rate)
        scatter = ((counts - trials * rate) ** 2).sum() / expected
        assert stats.chi2(len(counts)).sf(scatter) > UNLIKELY
        assert stats.chi2(len(counts)).cdf(scatter) > UNLIKELY


def test_users_and_steps_are_drawn_independently() -> None:
    present = drawn(0.5, SeededRandom(9)).astype(float)
    for other in (np.roll(present, 1, axis=0), np.roll(present, 1, axis=1)):
        correlation = np.corrcoef(present.ravel(), other.ravel())[0, 1]
        assert abs(correlation) * present.size**0.5 < stats.norm.isf(UNLIKELY / 2)


def test_the_size_of_a_sample_is_not_fixed() -> None:
    assert len(set(drawn(0.5, SeededRandom(2)).sum(1))) > 10


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.floats(1e-6, 1), st.integers(1, 30))
def test_exactly_the_stated_number_of_samples_is_yielded(
    users: int, rate: float, steps: int
) -> None:
    samples = list(
        poisson_samples(users, sample_rate=rate, steps=steps, random=SeededRandom(users, steps))
    )
    assert len(samples) == steps
    for sample in samples:
        assert sample.dtype == np.int64
        assert sample.tolist() == sorted(set(sample.tolist()))
        assert set(sample.tolist()) <= set(range(users))


@pytest.mark.parametrize("users", [0, 1, 7, 1001])
@pytest.mark.parametrize("rate", [0.3, 1 / 3, 1.0])
def test_no_step_is_lost_and_the_rate_is_not_derived_from_the_users(
    users: int, rate: float
) -> None:
    """A loader over N users steps N / B times, loses the rest, and samples at 1 / its length."""
    steps = 500
    samples = poisson_samples(users, sample_rate=rate, steps=steps, random=SystemRandom())
    sizes = [len(sample) for sample in samples]
    assert len(sizes) == steps
    total = stats.binom(users * steps, rate)
    assert min(total.cdf(sum(sizes)), total.sf(sum(sizes) - 1)) > UNLIKELY


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_two_users_are_together_no_more_often_than_by_chance(rate: float) -> None:
    present = drawn(rate, SystemRandom())
    pairs = present[:, ::2] & present[:, 1::2]
    within = stats.binom(pairs.size, rate**2).cdf(pairs.sum())
    assert UNLIKELY < within <= 1 - UNLIKELY or pairs.sum() == 0 < (1 - rate**2) ** pairs.size


def test_empty_samples_are_yielded_like_any_other() -> None:
    random = SeededRandom(1)
    sizes = [len(s) for s in poisson_samples(2, sample_rate=0.2, steps=50, random=random)]
    assert len(sizes) == 50
    assert {0, 1} <= set(sizes)
    nobody = [s.tolist() for s in poisson_samples(0, sample_rate=0.5, steps=3, random=random)]
    assert nobody == [[], [], []]


def test_at_rate_one_everybody_is_in_every_sample() -> None:
    almost_one = Listed(0.0, 1 - 2**-53, 0.5)
    samples = poisson_samples(3, sample_rate=1.0, steps=2, random=almost_one)
    assert [s.tolist() for s in samples] == [[0, 1, 2]] * 2


def test_a_uniform_draw_equal_to_the_rate_is_not_sampled() -> None:
    """A uniform in [0, 1) is below the rate with just that chance; one that equals it is not."""
    at_the_rate = Listed(0.25, np.nextafter(0.25, 0), 0.0)
    (sample,) = poisson_samples(3, sample_rate=0.25, steps=1, random=at_the_rate)
    assert sample.tolist() == [1, 2]


def test_each_sample_is_drawn_when_it_is_asked_for() -> None:
    samples = poisson_samples(5, sample_rate=0.5, steps=10**9, random=SeededRandom(1))
    assert isinstance(samples, Iterator)
    next(samples)
