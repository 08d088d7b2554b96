"""Both sources give what they claim; the cryptographic one never gives it twice."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from shared.privacy import noise
from shared.privacy.noise import _PAIRS, RandomSource, SeededRandom, SystemRandom, noised

UNLIKELY = 1e-6
"""Chance that a sound generator fails a statistical test."""

sources = pytest.mark.parametrize(
    "make", [SystemRandom, lambda: SeededRandom(7, 1, 2)], ids=["system", "seeded"]
)
Maker = Callable[[], RandomSource]
few = settings(max_examples=30, deadline=None)


def normals(random: RandomSource, count: int) -> NDArray[np.float64]:
    return random.normal((count,)).numpy()


# --- distribution ------------------------------------------------------------------------------


def scale_chance(values: NDArray[np.float64]) -> float:
    """Chance of a sum of squares at least as far from its mean, were they standard normal."""
    below = stats.chi2(len(values)).cdf(np.square(values).sum())
    return float(2 * min(below, 1 - below))


def tail_chance(values: NDArray[np.float64], beyond: float) -> float:
    """Chance of a number of values beyond `beyond` at least as far from what is expected."""
    count = stats.binom(len(values), 2 * stats.norm.sf(beyond))
    found = int((np.abs(values) > beyond).sum())
    return float(2 * min(count.cdf(found), count.sf(found - 1)))


def correlation_chance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Chance of so much correlation, of the values or of their squares."""
    found = [np.corrcoef(one**power, other**power)[0, 1] for power in (1, 2)]
    return float(4 * stats.norm.sf(np.max(np.abs(found)) * len(one) ** 0.5))


def least_chance(values: NDArray[np.float64]) -> float:
    """Of all tests of standard normals drawn one after another."""
    middle = len(values) // 2
    return min(
        float(stats.kstest(values, "norm").pvalue),
        scale_chance(values),
        *(tail_chance(values, beyond) for beyond in (3, 4)),
        correlation_chance(values[:-1], values[1:]),
        # Box & Muller make two normals of two uniforms, half a chunk apart.
        *(
            correlation_chance(values[:-lag], values[lag:])
            for lag in (2, min(_PAIRS, middle), middle)
        ),
    )


@sources
def test_normals_are_standard_normal_and_independent(make: Maker) -> None:
    assert least_chance(normals(make(), 1_000_001)) > UNLIKELY


@sources
def test_normals_of_many_small_draws_are_standard_normal(make: Maker) -> None:
    random = make()
    values = np.concatenate([normals(random, count) for count in [1, 2, 3, 5] * 12_000])
    assert least_chance(values) > UNLIKELY
    assert least_chance(values[:: 1 + 2 + 3 + 5]) > UNLIKELY  # the first of each


@sources
def test_two_draws_are_independent(make: Maker) -> None:
    random = make()
    assert correlation_chance(normals(random, 200_000), normals(random, 200_000)) > UNLIKELY


@pytest.mark.parametrize(
    "others",
    [(SystemRandom(), SystemRandom()), (SeededRandom(1, 1, 1), SeededRandom(1, 2, 1))],
    ids=["system", "seeded"],
)
def test_two_clients_noise_is_independent(others: tuple[RandomSource, RandomSource]) -> None:
    one, other = (normals(random, 200_000) for random in others)
    assert correlation_chance(one, other) > UNLIKELY


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x * 1.02,
        lambda x: x / 1.02,
        lambda x: x + 0.02,
        lambda x: np.clip(x, -4, 4),
        lambda x: np.where(np.abs(x) > 3, 0.9 * x, x),
        lambda x: np.append(0.99 * x[1:] + 0.14 * x[:-1], 0.0),
        lambda x: np.concatenate([x[: len(x) // 2]] * 2),
        lambda x: np.concatenate([x[: len(x) // 2], -x[: len(x) // 2]]),
    ],
    ids=["2% more", "2% less", "shift", "no tail", "light tail", "lag", "repeat", "cancel"],
)
def test_the_tests_above_can_fail(
    spoil: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    assert least_chance(spoil(normals(SystemRandom(), 1_000_000))) < UNLIKELY


def test_the_tail_reaches_as_far_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest words of 63 bits give radii to 9.4, evenly in probability."""
    for word, survival in [(0, 2.0**-64), (1, 1.5 * 2.0**-63), (2**20, 2.0**-43)]:
        monkeypatch.setattr(noise, "_key_stream", lambda word=word: Repeating(word))
        radius = float(SystemRandom().normal((2,)).norm())
        assert radius == pytest.approx(np.sqrt(-2 * np.log(survival)), rel=1e-6)
    assert np.sqrt(-2 * np.log(2.0**-64)) == pytest.approx(9.42, abs=0.005)


class Repeating:
    """A key stream that says the same word again and again."""

    def __init__(self, word: int) -> None:
        self.word = word.to_bytes(8, "little")

    def update(self, data: bytes) -> bytes:
        return self.word * (len(data) // 8)

    def update_into(self, data: bytes, into: bytearray) -> int:
        into[: len(data)] = self.update(data)
        return len(data)


@sources
def test_uniforms_are_uniform(make: Maker) -> None:
    values = make().uniform(200_000)
    assert values.dtype == np.float64
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > UNLIKELY
    # The lowest bits too: a sample rate may be very small.
    assert stats.kstest(values * 2**20 % 1, "uniform").pvalue > UNLIKELY


@pytest.mark.parametrize(("word", "uniform"), [(2**64 - 1, 1 - 2**-53), (0, 0.0), (2**63, 0.5)])
def test_extreme_words_stay_inside(
    word: int, uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bits set must round to below 1, none set to 0 with a finite normal."""
    monkeypatch.setattr(noise, "_key_stream", lambda: Repeating(word))
    assert SystemRandom().uniform(3).tolist() == [uniform] * 3
    assert SystemRandom().normal((3,)).isfinite().all()


@sources
@few
@given(shape=st.lists(st.integers(0, 4), max_size=3).map(tuple))
def test_any_shape_comes_back(make: Maker, shape: tuple[int, ...]) -> None:
    values = make().normal(shape)
    assert tuple(values.shape) == shape
    assert (values.dtype, values.device.type) == (torch.float64, "cpu")
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


def test_fresh_generators_never_share_a_stream() -> None:
    one, other = SystemRandom(), SystemRandom()
    assert_all_different(draws(one), draws(one), draws(other), draws(other))


def test_the_key_is_the_operating_systems_and_of_256_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    drawn = []
    for byte in (b"a", b"b", b"b"):

        def urandom(n: int, byte: bytes = byte) -> bytes:
            asked.append(n)
            return byte * n

        monkeypatch.setattr(os, "urandom", urandom)
        drawn.append(SystemRandom().normal((5,)).tolist())
    assert_all_different(*map(tuple, drawn[:2]))
    assert drawn[1] == drawn[2]
    assert asked == [32] * 3


def test_the_stream_is_aes_in_counter_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """NIST's FIPS 197 gives a block of AES-256 under this key."""
    monkeypatch.setattr(os, "urandom", lambda n: bytes(range(n)))
    encrypt = Cipher(algorithms.AES(bytes(range(32))), modes.ECB()).encryptor().update
    assert encrypt(bytes.fromhex("00112233445566778899aabbccddeeff")).hex() == (
        "8ea2b7ca516745bfeafc49904b496089"
    )
    blocks = b"".join(encrypt(counter.to_bytes(16, "big")) for counter in range(3))
    words = np.frombuffer(blocks, "<u8")
    assert SystemRandom().uniform(6).tolist() == [float(int(w) >> 11) / 2**53 for w in words]


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


def test_threads_that_draw_at_once_never_share_a_stream() -> None:
    random, start = SystemRandom(), threading.Barrier(4)

    def draw(_: int) -> list[float]:
        start.wait()
        return [x for _ in range(40) for x in random.normal((501,)).tolist()]

    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(draw, range(4)))
    assert len({x for values in drawn for x in values}) == 4 * 40 * 501


def test_spawned_processes_never_share_a_stream() -> None:
    """As a Ray worker gets it: pickled, into a process that starts afresh."""
    random = SystemRandom()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        children = pool.map(random.uniform, [4, 4, 4])
    assert_all_different(draws(random), *(tuple(child.tolist()) for child in children))


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


def test_a_fresh_torch_generator_always_starts_alike() -> None:
    """Why none is used: two clients that make one each have the same noise."""
    one, other = (torch.randn(5, generator=torch.Generator()) for _ in range(2))
    assert torch.equal(one, other)


def test_cryptographic_noise_needs_no_slow_or_missing_library() -> None:
    """Opacus's secure mode needs torchcsprng, which no registry has."""

    def seconds(draw: Callable[[], object]) -> float:
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            draw()
            times.append(time.perf_counter() - begin)
        return min(times)

    random, count = SystemRandom(), 500_000
    plain = seconds(lambda: torch.randn(count, dtype=torch.float64))
    assert seconds(lambda: random.normal((count,))) < 4 * plain


# --- noised sums -------------------------------------------------------------------------------


class Fixed:
    """Normals from a list."""

    def __init__(self, *values: float) -> None:
        self.values = torch.tensor(values, dtype=torch.float64)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return self.values.clone().reshape(shape)

    def uniform(self, count: int) -> NDArray[np.float64]:
        raise AssertionError("noise needs no uniforms")

    def words(self, count: int) -> NDArray[np.uint64]:
        raise AssertionError("no words are needed here")

    def key(self) -> bytes:
        raise AssertionError("no key is needed here")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 7.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_noised_sum_has_the_stated_noise(scale: float, dtype: torch.dtype) -> None:
    total = torch.linspace(-50, 50, 300_000, dtype=dtype).reshape(300, 1000)
    before = total.clone()
    got = noised(total, scale, SystemRandom())
    assert torch.equal(total, before)
    assert (got.shape, got.dtype) == (total.shape, dtype)
    noise = ((got.double() - total.double()) / scale).flatten().numpy()
    if dtype == torch.float64 or scale >= 1:  # beside float32's rounding of the sum itself
        assert least_chance(noise) > UNLIKELY
    assert scale_chance(noise) > UNLIKELY
    assert scale_chance(1.02 * noise) < UNLIKELY


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-1e3, 1e3),
    st.floats(-1e3, 1e3),
    st.floats(-9, 9),
    st.floats(1e-6, 1e6),
)
def test_a_noised_sum_depends_on_an_integer_alone(
    one: float, other: float, normal: float, scale: float
) -> None:
    """What one sum can become, another can, by noise that is a whole number of meshes away."""
    one, other = one * scale, other * scale
    mesh = 2.0 ** np.floor(np.log2(scale)) / 2**30
    got = noised(torch.tensor([one], dtype=torch.float64), scale, Fixed(normal)).item()
    points = round(one / mesh) + round(normal * scale / mesh)
    assert got == float(points * mesh)
    needed = (points - round(other / mesh)) * mesh / scale
    again = noised(torch.tensor([other], dtype=torch.float64), scale, Fixed(needed)).item()
    assert again == got


def test_plain_addition_tells_sums_apart_and_a_noised_one_does_not() -> None:
    """Mironov's attack: the floats that two sums can become hardly overlap."""
    sums = (torch.full((200_000,), 1 / 3), torch.full((200_000,), 0.3))
    fine = 2.0**-32  # finer than the mesh at scale 1
    plain = [(s.double() + normals_of(SystemRandom())) / fine % 4 for s in sums]
    assert all((p != 0).float().mean() > 0.9 for p in plain)
    gridded = [noised(s.double(), 1.0, SystemRandom()) / fine % 4 for s in sums]
    assert all((g == 0).all() for g in gridded)


def normals_of(random: RandomSource) -> Tensor:
    return random.normal((200_000,))


@pytest.mark.parametrize("scale", [1e-6, 0.9, 1.0, 3.0, 1e4])
def test_the_mesh_is_far_below_the_noise(scale: float) -> None:
    """And moves neighbouring sums by no more than is said."""
    total = torch.rand(10_000, dtype=torch.float64) * 100 * scale
    moved = noised(total, scale, Fixed(*[0.0] * 10_000)) - total
    assert moved.abs().max() <= scale * 2.0**-31
    assert moved.abs().max() > scale * 2.0**-34


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3), (2**17 + 3,)])
def test_a_sum_of_any_shape_is_noised(shape: tuple[int, ...]) -> None:
    got = noised(torch.zeros(shape), 2.0, SystemRandom())
    assert got.shape == shape
    assert (got != 0).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="positive number"):
        noised(torch.zeros(3), scale, SystemRandom())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_sum_on_a_gpu_is_noised_from_the_cpus_stream() -> None:
    total = torch.zeros(300_000, device="cuda")
    got = noised(total, 1.0, SystemRandom())
    assert got.device == total.device
    assert least_chance(got.double().cpu().numpy()) > UNLIKELY
