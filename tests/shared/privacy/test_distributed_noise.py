"""What a sum of shares reveals: exactly on small grids, by sampling, by another accountant."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from shared.privacy import distributed_noise as module
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.distributed_noise import (
    GRID_BITS,
    LARGEST_POINT,
    LARGEST_SHARE,
    MOST_NUMBERS,
    MOST_ORGANISATIONS,
    SMALLEST_SHARE,
    closeness,
    share_deviation,
    share_for,
    sum_noise,
)
from shared.privacy.noise import SeededRandom, SystemRandom
from shared.privacy.noise_share import from_points, noised_points
from shared.privacy.release import Release, ReleaseKind

Floats = NDArray[np.float64]
DELTA = 1e-5
UNLIKELY = 1e-6


def discrete(deviation: float) -> Floats:
    """Chances of a discrete Gaussian at -R..R, R = 12 deviations."""
    reach = math.ceil(12 * deviation)
    chances = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    return np.asarray(chances / chances.sum())


def summed(deviation: float, organisations: int) -> Floats:
    total = discrete(deviation)
    for _ in range(organisations - 1):
        total = np.convolve(total, discrete(deviation))
    return total


def exact_delta(chances: Floats, shift: int, at: float) -> float:
    """Hockey-stick divergence of noise on the integers from itself, moved by `shift`."""
    moved, still = np.pad(chances, (shift, 0)), np.pad(chances, (0, shift))
    return float(np.maximum(moved - math.exp(at) * still, 0).sum())


def gaussian_delta(noise_multiplier: float, at: float) -> float:
    """Balle & Wang 2018 (arXiv:1805.06530), theorem 8."""
    mean, off = 1 / (2 * noise_multiplier), at * noise_multiplier
    below, above = stats.norm.cdf(mean - off), stats.norm.logcdf(-mean - off)
    return float(below - math.exp(at + above))


def release(noise_multiplier: float, sample_rate: float = 1.0, steps: int = 1) -> Release:
    return Release(
        kind=ReleaseKind.TRAIN,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )


# --- the theorem, on grids that are coarse enough to compute --------------------------------------


@pytest.mark.parametrize("deviation", [0.6, 0.8, 1.0])
@pytest.mark.parametrize("organisations", [2, 3, 6])
def test_a_sum_is_as_close_to_one_discrete_gaussian_as_is_claimed(
    deviation: float, organisations: int
) -> None:
    chances = summed(deviation, organisations)
    z = np.arange(len(chances)) - len(chances) // 2
    one = np.exp(-(z**2) / (2 * organisations * deviation**2))
    one /= one.sum()
    near = np.abs(z) <= 6 * deviation  # beyond, what the convolution cuts off would show
    ratio = np.abs(np.log(chances[near] / one[near])).max()
    assert ratio <= module._sum_closeness(deviation, organisations) * (1 + 1e-9) + 1e-13
    if deviation < 0.7:  # and not empty: the two do differ
        assert ratio > module._sum_closeness(deviation, organisations) / 100


@pytest.mark.parametrize("width", [0.5, 0.6, 0.9])
def test_a_gaussian_rounded_by_the_kernel_is_as_close_as_is_claimed(width: float) -> None:
    spread = 2.0
    deviation = math.hypot(spread, width)
    whole = np.arange(-60, 61)
    chances = np.exp(-(whole**2) / (2 * deviation**2))
    for z in (0, 1, 3, 9):

        def integrand(y: float, z: int = z) -> float:
            weights = np.exp(-((whole - y) ** 2) / (2 * width**2))
            kernel = math.exp(-((z - y) ** 2) / (2 * width**2)) / weights.sum()
            return float(stats.norm.pdf(y, scale=spread) * kernel)

        got = quad(integrand, z - 12 * spread, z + 12 * spread, limit=400, epsabs=1e-14)[0]
        expected = chances[whole == z][0] / chances.sum()
        assert abs(math.log(got / expected)) <= module._kernel_closeness(width)


@pytest.mark.parametrize(
    ("deviation", "organisations", "shift"), [(12, 3, 20), (25, 6, 40), (8, 2, 9)]
)
def test_the_exact_delta_of_a_sum_is_within_the_gaussians(
    deviation: int, organisations: int, shift: int
) -> None:
    chances = summed(deviation, organisations)
    bound = math.sqrt(organisations * deviation**2 - module._KERNEL_WIDTH**2) / shift
    for at in (0.1, 1.0, 3.0, 6.0):
        exact = exact_delta(chances, shift, at)
        assert exact <= gaussian_delta(bound, at) + 1e-13
        plain = gaussian_delta(math.sqrt(organisations) * deviation / shift, at)
        assert exact > 0.9 * plain - 1e-13  # the bound is not loose: there is that much to lose


def test_at_the_grids_scale_the_correction_is_beyond_any_number_that_matters() -> None:
    whole = closeness(SMALLEST_SHARE, MOST_ORGANISATIONS, numbers=MOST_NUMBERS, sums=10**6)
    assert 0 < whole < 1e-190
    assert share_deviation(SMALLEST_SHARE) == 2**20


@cache
def by_another_accountant(
    deviation: int, organisations: int, shift: int, rate: float, steps: int
) -> float:
    """Google's accountant of the discrete Gaussian on a coarser grid."""
    one = pld.from_discrete_gaussian_mechanism(
        sigma=math.sqrt(organisations) * deviation,
        sensitivity=shift,
        sampling_prob=rate,
        value_discretization_interval=1e-4,
        use_connect_dots=True,
    )
    return float(one.self_compose(steps).get_epsilon_for_delta(DELTA))


@pytest.mark.parametrize(
    ("share", "organisations", "rate", "steps"),
    [(0.9, 3, 1.0, 1), (2.0, 6, 1.0, 1), (0.6, 6, 0.1, 40), (0.5, 20, 0.02, 200)],
)
def test_epsilon_of_a_sum_is_what_another_accountant_says(
    share: float, organisations: int, rate: float, steps: int
) -> None:
    shift = 200
    other = by_another_accountant(round(share * shift), organisations, shift, rate, steps)
    ours = epsilon([release(sum_noise(share, organisations), rate, steps)], DELTA)
    assert ours == pytest.approx(other, rel=0.01)


def test_sum_and_share_are_inverse() -> None:
    for organisations in (1, 3, 6, 98):
        share = share_for(2.5, organisations)
        assert sum_noise(share, organisations) == pytest.approx(2.5, rel=1e-15)
        assert 2.5 < share * math.sqrt(organisations) < 2.5 * (1 + 2**-14)


# --- the mechanism as it runs ---------------------------------------------------------------------


def total_of(points: list[Tensor], clip_norm: float) -> Floats:
    """The sum of organisations' points modulo 2^64, as a coordinator gets it."""
    words = sum((p.numpy().view(np.uint64) for p in points), np.zeros(1, np.uint64))
    return from_points(torch.from_numpy(np.asarray(words).view(np.int64)), clip_norm).numpy()


@pytest.mark.parametrize(("share", "clip_norm"), [(0.3, 1.0), (1.7, 0.01), (40.0, 1e3)])
def test_a_sum_modulo_2_64_has_the_noise_of_all_shares(share: float, clip_norm: float) -> None:
    sums = [torch.linspace(-1, 1, 60_000).double() * clip_norm * 50 * k for k in (1, -2, 4)]
    points = [noised_points(total, clip_norm, share, SystemRandom()) for total in sums]
    noise = (total_of(points, clip_norm) - torch.stack(sums).sum(0).numpy()) / clip_norm
    scaled = noise / (share * math.sqrt(3))
    assert stats.kstest(scaled, "norm").pvalue > UNLIKELY
    square = stats.chi2(len(scaled)).cdf(np.square(scaled).sum())
    assert UNLIKELY < square < 1 - UNLIKELY
    assert total_of(points[:1], clip_norm) != pytest.approx(sums[0].numpy())


def attack(honest: int, share: float, user: float, draws: int, seed: int) -> Floats:
    """The sum of honest shares in one dimension, with a user of that part at the first one."""
    totals = [torch.full((draws,), user if k == 0 else 7.0 * k).double() for k in range(honest)]
    points = [noised_points(t, 1.0, share, SeededRandom(seed, k)) for k, t in enumerate(totals)]
    return np.asarray(total_of(points, 1.0) - 7.0 * sum(range(honest)))


@pytest.mark.parametrize(("shares", "sound"), [(4, True), (3, False)], ids=["all", "one-missing"])
def test_no_likelihood_ratio_test_beats_the_promise(shares: int, sound: bool) -> None:
    """Four shares are promised; a missing one is found."""
    draws, share, promised = 400_000, 0.5, 4
    present, absent = attack(shares, share, 1.0, draws, 1), attack(shares, share, 0.0, draws, 2)
    broken = False
    for at in (0.5, 1.0, 2.0):
        delta = gaussian_delta(sum_noise(share, promised), at)
        # The likelihood ratio grows with the sum: the best test of this level is a threshold.
        threshold = 0.5 + at * (share**2 * promised)
        seen = (present > threshold).mean() - math.exp(at) * (absent > threshold).mean()
        error = 5 * math.hypot(1, math.exp(at)) * math.sqrt(0.25 / draws)
        broken |= seen > delta + error
        if sound:
            assert abs(seen - delta) < error
    assert broken is not sound


def test_rounding_moves_a_sum_by_no_more_than_is_accounted() -> None:
    """With noise taken away, neighbours' points differ by the user's part and √d steps at most."""
    numbers, clip_norm = 10_000, 0.37
    generator = np.random.default_rng(3)
    total = torch.from_numpy(generator.normal(0, 1000, numbers))
    user = generator.normal(0, 1, numbers)
    user *= clip_norm / np.linalg.norm(user)
    pair = (total, total + torch.from_numpy(user))
    one, other = (noised_points(t, clip_norm, 1.0, SeededRandom(1)).numpy() for t in pair)
    moved = np.linalg.norm((other - one).astype(np.float64)) / 2**GRID_BITS
    assert moved == pytest.approx(1.0, abs=math.sqrt(numbers) / 2**GRID_BITS)
    assert 1 / (1 + math.sqrt(MOST_NUMBERS) / 2**GRID_BITS + 2.0**-17) > 1 - module._LOSS


def test_nothing_wraps_at_the_largest_values() -> None:
    """Public bounds: clamped sums and the farthest noise of all organisations stay within int64."""
    huge = torch.full((1000,), 1e300, dtype=torch.float64)
    points = noised_points(huge, 1.0, LARGEST_SHARE, SystemRandom())
    farthest = LARGEST_POINT + 17 * share_deviation(LARGEST_SHARE)
    assert int(points.max()) <= farthest
    assert MOST_ORGANISATIONS * farthest < 2**63


def test_a_total_that_is_not_finite_gives_noise_alone() -> None:
    for bad in (math.nan, math.inf):
        total = torch.tensor([1e6, bad]).double()
        got = from_points(noised_points(total, 1.0, 1.0, SystemRandom()), 1.0)
        assert float(got.abs().max()) < 17


@pytest.mark.parametrize(
    ("clip_norm", "share"),
    [
        (0.0, 1.0),
        (math.nan, 1.0),
        (1.0, SMALLEST_SHARE / 2),
        (1.0, LARGEST_SHARE * 2),
        (1.0, math.nan),
    ],
)
def test_values_out_of_range_are_refused(clip_norm: float, share: float) -> None:
    with pytest.raises(ValueError, match="clip norm"):
        noised_points(torch.zeros(1).double(), clip_norm, share, SystemRandom())
