"""Both sources give what they claim; the cryptographic one never gives it twice."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from shared.privacy.noise import RandomSource, SeededRandom, SystemRandom

UNLIKELY = 1e-6
"""Chance that a sound generator fails a statistical test."""

sources = pytest.mark.parametrize(
    "make", [SystemRandom, lambda: SeededRandom(7, 1, 2)], ids=["system", "seeded"]
)
Maker = Callable[[], RandomSource]
few = settings(max_examples=30, deadline=None)


def normals(random: RandomSource, count: int) -> NDArray[np.float64]:
    return random.normal((count,)).double().numpy()


# --- distribution ------------------------------------------------------------------------------


@sources
def test_normals_are_standard_normal(make: Maker) -> None:
    values = normals(make(), 2_000_001)
    assert stats.kstest(values, "norm").pvalue > UNLIKELY
    # Sharper on the scale and in the tails.
    assert UNLIKELY < stats.chi2(len(values)).cdf(np.square(values).sum()) < 1 - UNLIKELY
    beyond_four = stats.binom(len(values), 2 * stats.norm.sf(4)).cdf((np.abs(values) > 4).sum())
    assert UNLIKELY < beyond_four <= 1 - UNLIKELY


@sources
def test_normals_of_many_small_draws_are_standard_normal(make: Maker) -> None:
    random = make()
    values = np.concatenate([normals(random, count) for count in [1, 2, 3, 5] * 2000])
    assert stats.kstest(values, "norm").pvalue > UNLIKELY
    firsts = values[:: 1 + 2 + 3 + 5]
    assert stats.kstest(firsts, "norm").pvalue > UNLIKELY


@sources
def test_normals_are_independent_of_each_other(make: Maker) -> None:
    """Box & Muller make two normals of two uniforms: the halves must not depend."""
    values = normals(make(), 200_000)
    halves = values.reshape(2, -1)
    for one, other in [(values[:-1], values[1:]), (halves[0], halves[1])]:
        for power in (1, 2):
            correlation = np.corrcoef(one**power, other**power)[0, 1]
            assert abs(correlation) * len(one) ** 0.5 < stats.norm.isf(UNLIKELY / 2)


@sources
def test_uniforms_are_uniform(make: Maker) -> None:
    values = make().uniform(200_000)
    assert values.dtype == np.float64
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > UNLIKELY
    # The lowest bits too: a sample rate may be very small.
    assert stats.kstest(values * 2**20 % 1, "uniform").pvalue > UNLIKELY


def test_the_largest_and_smallest_words_stay_inside() -> None:
    """All bits set must round to below 1, none set to 0 with a finite normal."""

    class Stream:
        def __init__(self, byte: bytes) -> None:
            self.byte = byte

        def update(self, data: bytes) -> bytes:
            return self.byte * len(data)

    for byte, expected in [(b"\xff", 1 - 2**-53), (b"\x00", 0.0)]:
        random = SystemRandom()
        vars(random)["_stream"] = Stream(byte)
        assert random.uniform(3).tolist() == [expected] * 3
        assert random.normal((3,)).isfinite().all()


@sources
@few
@given(shape=st.lists(st.integers(0, 4), max_size=3).map(tuple))
def test_any_shape_comes_back(make: Maker, shape: tuple[int, ...]) -> None:
    values = make().normal(shape)
    assert tuple(values.shape) == shape
    assert (values.dtype, values.device.type) == (torch.float32, "cpu")
    assert values.isfinite().all()
    if values.numel() > 1:
        assert len(set(values.flatten().tolist())) == values.numel()


@sources
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_any_count_comes_back(make: Maker, count: int) -> None:
    assert make().uniform(count).shape == (count,)


# --- the cryptographic source never repeats itself ---------------------------------------------


def draws(random: RandomSource) -> tuple[float, ...]:
    return (*random.uniform(4).tolist(), *random.normal((5,)).tolist())


def assert_all_different(*drawn: tuple[float, ...]) -> None:
    for one, other in itertools.combinations(drawn, 2):
        assert not set(one) & set(other)


def test_no_two_objects_and_no_two_draws_share_a_stream() -> None:
    one, other = SystemRandom(), SystemRandom()
    assert_all_different(draws(one), draws(one), draws(other), draws(other))


@pytest.mark.parametrize("size", [32, 16])
def test_key_and_counter_are_the_operating_systems(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An AES-256 key and a first counter block; another of either is another stream."""
    drawn = []
    for byte in (b"a", b"b", b"b"):
        monkeypatch.setattr(os, "urandom", lambda n, byte=byte: (byte if n == size else b"0") * n)
        drawn.append(draws(SystemRandom()))
    assert_all_different(*drawn[:2])
    assert drawn[1] == drawn[2]


def test_no_seed_reaches_it() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        drawn.append(draws(SystemRandom()))
    assert_all_different(*drawn)


@pytest.mark.parametrize(
    "copied",
    [lambda r: pickle.loads(pickle.dumps(r)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_a_copy_draws_its_own_key(copied: Callable[[SystemRandom], SystemRandom]) -> None:
    random = SystemRandom()
    random.uniform(3)
    again = copied(random)
    assert isinstance(again, SystemRandom)
    assert_all_different(draws(random), draws(again), draws(copied(random)))


def test_a_pickle_holds_no_key() -> None:
    assert pickle.dumps(SystemRandom()) == pickle.dumps(SystemRandom())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_draws_its_own_key() -> None:
    random = SystemRandom()
    random.uniform(3)
    children = forked_draws(random), forked_draws(random)
    assert_all_different(draws(random), *children, draws(random))


def forked_draws(random: RandomSource) -> tuple[float, ...]:
    """What a child that inherits `random` draws from it."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(draws(random)))
    child.start()
    assert receiver.poll(60)
    drawn: tuple[float, ...] = receiver.recv()
    child.join()
    return drawn


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_seeded_source_shows_that_the_test_above_can_fail() -> None:
    random = SeededRandom(1)
    assert forked_draws(random) == forked_draws(random)


# --- the seeded source repeats itself and nothing else -----------------------------------------


def test_a_seed_and_a_path_repeat() -> None:
    assert draws(SeededRandom(3, 1, 2)) == draws(SeededRandom(3, 1, 2))


@few
@given(
    st.lists(
        st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple),
        min_size=2,
        max_size=5,
        unique=True,
    )
)
def test_another_seed_or_path_is_another_stream(paths: list[tuple[int, ...]]) -> None:
    """Also where one is the other followed by zeros."""
    assert_all_different(*(draws(SeededRandom(*path)) for path in paths))


@pytest.mark.parametrize("path", [(-1,), (0, -1)])
def test_a_negative_seed_or_path_is_refused(path: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        SeededRandom(*path)
