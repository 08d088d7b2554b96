"""What releases cost together, and what a budget buys.

Mechanism: the Poisson-subsampled Gaussian. ε is that of `shared.privacy.accounting.composition`,
numerical and an upper bound; the Rényi bound of `shared.privacy.accounting.renyi` stands in where ε
is so large, δ so small or the releases so many that the composition would drown in rounding. The
Gaussian central limit ("GDP") understates ε and is never used.

The guarantee is for releases whose noise, rate and number do not depend on what was released
before, as in a run whose parameters stand from the start. For a coordinator that chooses them
from earlier answers, numerical composition is not proven to hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from shared.errors import AccountingError
from shared.privacy.accounting.composition import SLACK, Form, composed_epsilon
from shared.privacy.accounting.renyi import ORDERS, Renyi
from shared.privacy.release import Release, ReleaseKind

__all__ = [
    "MOST_STEPS",
    "divergences",
    "epsilon",
    "noise_multiplier_for",
    "renyi_epsilon",
    "steps_for",
]

LARGEST_EPSILON = 500.0
"""Beyond it exp(ε) leaves the floating range, and the Rényi bound is reported."""
SMALLEST_NOISE, LARGEST_NOISE = 0.05, 1e4
"""Less noise hides nobody; with more, nothing could be learned."""
LEAST_RATE, MOST_NOISE = 1e-12, 1e6
"""A smaller sample rate or more noise counts as this much: that only costs more."""
LOUDEST = 1e15
"""All that full sums say, over their noise, at most: its bound is infinity already."""
MOST_STEPS = 1_000_000
"""Nobody trains longer: `steps_for` looks no further."""
TOLERANCE = 0.001
"""How closely noise is fitted to a target."""

_TINY = 1e-12


def epsilon(releases: Sequence[Release], delta: float) -> float:
    """The ε that `releases` cost together at `delta`.

    Returns:
        An upper bound on ε, >= 0; 0 for no release, infinity if one carried no noise. Within 1%
        of the truth for ε up to 100, δ from 1e-9 and up to 10,000 steps.

    Raises:
        AccountingError: delta is not in (0, 1).
    """
    return _bound(releases, delta, _epsilon)


def renyi_epsilon(releases: Sequence[Release], delta: float) -> float:
    """The looser ε of Rényi accounting, to cross-check `epsilon`, which is never above it.

    Raises:
        AccountingError: delta is not in (0, 1).
    """
    return _bound(releases, delta, lambda forms, delta: Renyi(forms).epsilon(delta))


def divergences(releases: Sequence[Release]) -> NDArray[np.float64]:
    """Upper bounds on the Rényi divergences of releases together, at `renyi.ORDERS`.

    Returns:
        Zeros for no release; infinities if one carried no noise.
    """
    if not releases:
        return np.zeros(len(ORDERS))
    if not all(release.private for release in releases):
        return np.full(len(ORDERS), np.inf)
    return Renyi(_forms(releases)).curve


def _bound(
    releases: Sequence[Release], delta: float, of: Callable[[tuple[Form, ...], float], float]
) -> float:
    _check(delta)
    if not releases:
        return 0.0
    if not all(release.private for release in releases):
        return math.inf
    return of(_forms(releases), delta)


def _check(delta: float) -> None:
    if not 0 < delta < 1:
        raise AccountingError(f"delta must be in (0, 1), not {delta}: choose one below 1/users.")


def _forms(releases: Sequence[Release]) -> tuple[Form, ...]:
    """Equal releases added up, across kinds: what a sum was for does not change its cost.

    Releases of all users are one, whose 1 / σ is the length of the vector of theirs (Dong, Roth &
    Su 2019, arXiv:1905.02383, corollary 3.3): however their budget was divided, it costs the same.
    """
    steps: dict[tuple[float, float], int] = {}
    loudness = 0.0
    for release in releases:
        noise = min(release.noise_multiplier, MOST_NOISE)
        rate = max(release.sample_rate, LEAST_RATE)
        if rate == 1:
            loudness = math.hypot(loudness, math.sqrt(release.steps) / noise)
        else:
            steps[noise, rate] = steps.get((noise, rate), 0) + release.steps
    if loudness:
        # In as many equal pieces as keep each one's loss within the grid's reach.
        loudness = min(loudness, LOUDEST)
        pieces = math.ceil(max(loudness, 1.0) ** 2)
        steps[math.sqrt(pieces) / loudness, 1.0] = pieces
    return tuple(sorted((*form, count) for form, count in steps.items()))


@lru_cache(maxsize=256)
def _epsilon(forms: tuple[Form, ...], delta: float) -> float:
    renyi, far = Renyi(forms), delta * SLACK / 4
    ceiling, reach = renyi.epsilon(delta), renyi.epsilon(far)
    rounding = np.finfo(float).eps * sum(steps for *_, steps in forms)
    if ceiling == 0 or reach > LARGEST_EPSILON or 100 * rounding > delta:
        return ceiling
    tilt = renyi.best_order(far) - 1
    return min(ceiling, composed_epsilon(forms, delta, reach=reach, tilt=tilt))


def noise_multiplier_for(
    target_epsilon: float,
    delta: float,
    *,
    sample_rate: float,
    steps: int,
    spent: Sequence[Release] = (),
) -> float:
    """The least noise with which `steps` sums at `sample_rate`, after `spent`, cost the target.

    What all cost together is never above the target, and not below 0.999 of it, unless the noise
    is `SMALLEST_NOISE` or the target is beyond 100.

    Raises:
        AccountingError: the target is not a positive number, delta is not in (0, 1), `spent` has
            used the target up, or no usable noise meets it.
    """
    _check_target(target_epsilon, spent, delta)

    def cost(noise: float, of: Callable[[Sequence[Release], float], float] = epsilon) -> float:
        return of([*spent, _release(noise, sample_rate, steps)], delta)

    if cost(LARGEST_NOISE) > target_epsilon:
        after = " after what is spent" if spent else ""
        raise AccountingError(
            f"no noise multiplier up to {LARGEST_NOISE:g} meets ε = {target_epsilon} at "
            f"δ = {delta} over {steps} steps at sample rate {sample_rate}{after}: "
            "take fewer steps, a smaller sample rate, or a larger ε."
        )
    # The Rényi bound is cheap: between half of the noise that it asks for and all.
    high = LARGEST_NOISE
    while high > SMALLEST_NOISE and cost(high / 2, renyi_epsilon) <= target_epsilon:
        high /= 2
    low = high / 2
    while low > SMALLEST_NOISE and cost(low) <= target_epsilon:
        high, low = low, low / 2
    if low <= SMALLEST_NOISE and cost(SMALLEST_NOISE) <= target_epsilon:
        return SMALLEST_NOISE
    return _fitted(cost, target_epsilon, max(low, SMALLEST_NOISE), high)


def _fitted(cost: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Between `low`, which costs more than the target, and `high`, which does not."""

    def excess(log_noise: float) -> float:
        aim = (1 - TOLERANCE / 4) * target
        return math.log(max(cost(math.exp(log_noise)), _TINY) / aim)

    if excess(math.log(high)) >= 0:  # a hair below the target already
        return high
    noise = math.exp(brentq(excess, math.log(low), math.log(high), xtol=TOLERANCE / 50))
    while cost(noise) > target:
        noise *= 1 + TOLERANCE / 10
    return min(noise, high)


def steps_for(
    target_epsilon: float,
    delta: float,
    *,
    noise_multiplier: float,
    sample_rate: float,
    spent: Sequence[Release] = (),
) -> int:
    """How many more sums fit: the most steps that, after `spent`, cost at most the target.

    Returns:
        0 if not one fits; `MOST_STEPS` if that many or more do.

    Raises:
        AccountingError: the target is not a positive number, or delta is not in (0, 1).
    """
    _check_target(target_epsilon, (), delta)

    def fits(steps: int) -> bool:
        together = [*spent, _release(noise_multiplier, sample_rate, steps)]
        return any(cost(together, delta) <= target_epsilon for cost in (renyi_epsilon, epsilon))

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        if high == MOST_STEPS:
            return high
        low, high = high, min(2 * high, MOST_STEPS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _check_target(target: float, spent: Sequence[Release], delta: float) -> None:
    if not 0 < target < math.inf:
        raise AccountingError(
            f"epsilon must be a positive number, not {target}: "
            "8 is a loose budget, 1 a strict one; 'none' trains without privacy."
        )
    used = epsilon(spent, delta)
    if used >= target:
        raise AccountingError(
            f"ε = {used:.4g} at δ = {delta:g} is spent already, and the target is {target:g}: "
            "nothing is left; only a larger ε leaves something."
        )


def _release(noise: float, rate: float, steps: int) -> Release:
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=steps)
