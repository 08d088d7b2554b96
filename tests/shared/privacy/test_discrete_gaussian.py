"""The sampler's distribution, also where long comparisons decide, and at the grid's scale."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from shared.privacy import discrete_gaussian as module
from shared.privacy.discrete_gaussian import FARTHEST, LARGEST_DEVIATION, discrete_gaussian
from shared.privacy.noise import RandomSource, SeededRandom, SystemRandom

UNLIKELY = 1e-6
"""Chance that a sound sampler fails a statistical test."""
SOURCES: list[Callable[[], RandomSource]] = [SystemRandom, lambda: SeededRandom(3, 1)]


def goodness(values: NDArray[np.int64], deviation: int) -> float:
    """Chi-square p-value of samples against the exact chances; rare values are pooled."""
    edge = 6 * deviation
    z = np.arange(-edge, edge + 1)
    chances = np.exp(-(z**2) / (2 * deviation**2))
    chances /= chances.sum()
    counts = np.bincount(np.clip(values, -edge, edge) + edge, minlength=len(z))
    often = chances * len(values) >= 10
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(chances[often], chances[~often].sum()) * len(values)
    return float(stats.chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("make", SOURCES, ids=["system", "seeded"])
@pytest.mark.parametrize("deviation", [1, 2, 3, 8, 21])
def test_chances_are_those_of_the_discrete_gaussian(
    make: Callable[[], RandomSource], deviation: int
) -> None:
    assert goodness(discrete_gaussian(200_000, deviation, make()), deviation) > UNLIKELY


def test_the_test_of_chances_can_fail() -> None:
    rounded = np.rint(SystemRandom().normal((200_000,)).numpy() * 1).astype(np.int64)
    assert goodness(rounded, 1) < UNLIKELY  # a rounded Gaussian is not a discrete one


def test_long_comparisons_alone_give_the_same_chances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MARGIN", 2.0)
    values = discrete_gaussian(15_000, 2, SeededRandom(11))
    assert goodness(values, 2) > UNLIKELY
    monkeypatch.undo()
    assert goodness(values + 1, 2) < UNLIKELY


@settings(max_examples=200, deadline=None)
@given(st.integers(0, FARTHEST - 1), st.integers(2, LARGEST_DEVIATION), st.data())
def test_floating_point_errs_less_than_its_margin(
    k: int, deviation: int, data: st.DataObject
) -> None:
    j = data.draw(st.integers(0, deviation - 1))
    x = np.array([j]) / deviation
    chance = Decimal(float(np.exp(-0.5 * x * (2 * k + x))[0]))
    with localcontext(prec=60):
        exact = (-Decimal(j * (2 * k * deviation + j)) / (2 * deviation**2)).exp()
        assert abs(chance - exact) < Decimal(module._MARGIN) / 8


class _Words:
    """Gives the words that it was told, in order; a source of nothing else."""

    def __init__(self, *words: int) -> None:
        self.left = list(words)

    def words(self, count: int) -> NDArray[np.uint64]:
        given, self.left = self.left[:count], self.left[count:]
        return np.array(given, np.uint64)


@pytest.mark.parametrize("block", range(FARTHEST - 1))
def test_a_word_that_equals_a_threshold_is_lengthened(block: int) -> None:
    threshold = module._TABLE[block]
    word, rest = threshold >> 128, threshold & (2**128 - 1)
    for extra, expected in ((rest - 1, block), (rest, block + 1)):
        random = _Words(extra >> 64, extra & (2**64 - 1))
        found = module._blocks(np.array([word], np.uint64), random)  # type: ignore[arg-type]
        assert found.tolist() == [expected]
        assert not random.left


def test_the_table_has_the_chances_of_the_blocks() -> None:
    k = np.arange(FARTHEST)
    expected = np.cumsum(np.exp(-(k**2) / 2) / np.exp(-(k**2) / 2).sum())[:-1]
    assert np.array(module._TABLE, np.float64) / 2.0**192 == pytest.approx(expected, rel=1e-14)
    assert sorted(set(module._TABLE)) == module._TABLE


@pytest.mark.parametrize("deviation", [2**20, 2**30, 2**30 + 1, 3 * 2**40 + 7, LARGEST_DEVIATION])
def test_at_the_grids_scale_it_is_a_normal(deviation: int) -> None:
    values = discrete_gaussian(300_000, deviation, SystemRandom())
    scaled = values / deviation
    assert stats.kstest(scaled, "norm").pvalue > UNLIKELY
    assert abs(stats.norm.ppf(stats.chi2(len(values)).cdf(np.square(scaled).sum()))) < 5
    low_bits = np.bincount(values & 15, minlength=16)
    assert stats.chisquare(low_bits).pvalue > UNLIKELY


def test_a_million_take_about_a_second() -> None:
    started = time.process_time()
    discrete_gaussian(1_000_000, 2**30 + 1, SystemRandom())
    assert time.process_time() - started < 4


def test_a_seed_repeats_and_counts_are_kept() -> None:
    one, other = (discrete_gaussian(1000, 77, SeededRandom(5, 2)) for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, discrete_gaussian(1000, 77, SeededRandom(5, 3)))
    assert [len(discrete_gaussian(n, 5, SystemRandom())) for n in (0, 1, 70_000)] == [0, 1, 70_000]


@pytest.mark.parametrize("deviation", [0, -1, LARGEST_DEVIATION + 1])
def test_a_deviation_out_of_range_is_refused(deviation: int) -> None:
    with pytest.raises(ValueError, match="deviation"):
        discrete_gaussian(1, deviation, SystemRandom())
