"""The ε of releases together, and the noise or the steps that fit a budget.

Mechanism: the Poisson-subsampled Gaussian. ε is the upper bound of numerical composition
(`shared.privacy.accounting.composition`). The Rényi bound (`shared.privacy.accounting.renyi`) is
used instead where rounding would dominate the composition: at very large ε, very small δ, or very
many releases. Gaussian DP's central limit theorem ("GDP") understates ε and is never used.

The guarantee covers releases whose noise, sample rate and number do not depend on earlier releases,
as in a run whose parameters are fixed at its start. For a coordinator that chooses them from
earlier answers, numerical composition is not proven to hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared.errors import AccountingError
from shared.privacy.accounting.composition import SLACK, Form, composed_epsilon
from shared.privacy.accounting.renyi import ORDERS, Renyi
from shared.privacy.release import Release, ReleaseKind

__all__ = [
    "MAX_STEPS",
    "divergences",
    "epsilon",
    "noise_multiplier_for",
    "renyi_epsilon",
    "rounds_for",
    "steps_for",
]

LARGEST_EPSILON = 500.0
"""Above it exp(ε) approaches the end of the floating range, and the Rényi bound is returned."""
SMALLEST_NOISE, LARGEST_NOISE = 0.05, 1e4
"""Range of noise multipliers that are searched: below it no user is protected, above it nothing
can be learned."""
MIN_ACCOUNTED_RATE, MAX_ACCOUNTED_NOISE = 1e-12, 1e6
"""Values beyond these are accounted as these, which only overstates their cost."""
MAX_SIGNAL = 1e15
"""Largest accounted signal-to-noise ratio of sums over all users; its ε is infinite already."""
MAX_STEPS = 1_000_000
"""Largest result of `steps_for`; no training takes more steps."""
TOLERANCE = 0.001
"""Relative tolerance on ε within which noise is fitted to a target."""

_TINY = 1e-12


def epsilon(releases: Sequence[Release], delta: float) -> float:
    """Return the ε of `releases` together at `delta`.

    Returns:
        An upper bound on ε, >= 0; 0 for no release, infinity if one has no noise. It is within 1%
        of the true value for ε up to 100, δ of at least 1e-9 and up to 10,000 steps.

    Raises:
        AccountingError: delta is not in (0, 1).
    """
    return _bound(releases, delta, _epsilon)


def renyi_epsilon(releases: Sequence[Release], delta: float) -> float:
    """Return the looser ε of Rényi accounting. `epsilon` is never above it.

    Raises:
        AccountingError: delta is not in (0, 1).
    """
    return _bound(releases, delta, lambda forms, delta: Renyi(forms).epsilon(delta))


def divergences(releases: Sequence[Release]) -> NDArray[np.float64]:
    """Return upper bounds on the Rényi divergences of releases together, at `renyi.ORDERS`.

    The bounds are 0 for no release, and infinite if one has no noise.
    """
    if not releases:
        return np.zeros(len(ORDERS))
    if not all(release.private for release in releases):
        return np.full(len(ORDERS), np.inf)
    return Renyi(_forms(releases)).curve


def _bound(
    releases: Sequence[Release], delta: float, bound: Callable[[tuple[Form, ...], float], float]
) -> float:
    _check(delta)
    if not releases:
        return 0.0
    if not all(release.private for release in releases):
        return math.inf
    return bound(_forms(releases), delta)


def _check(delta: float) -> None:
    if not 0 < delta < 1:
        raise AccountingError(f"delta must be in (0, 1), not {delta}: choose one below 1/users.")


def _forms(releases: Sequence[Release]) -> tuple[Form, ...]:
    """Merge equal releases of any kind, and all releases with sample rate 1.

    Gaussian releases over all users with multipliers σ_i are together one release with
    1 / σ = ||(1 / σ_i)_i||_2 (Dong, Roth & Su 2019, arXiv:1905.02383, corollary 3.3).
    """
    steps: dict[tuple[float, float], int] = {}
    signal = 0.0
    for release in releases:
        noise = min(release.noise_multiplier, MAX_ACCOUNTED_NOISE)
        rate = max(release.sample_rate, MIN_ACCOUNTED_RATE)
        if rate == 1:
            signal = math.hypot(signal, math.sqrt(release.steps) / noise)
        else:
            steps[noise, rate] = steps.get((noise, rate), 0) + release.steps
    if signal:
        # Split into equal pieces of signal at most 1, so that each one's loss fits the grid.
        signal = min(signal, MAX_SIGNAL)
        pieces = math.ceil(max(signal, 1.0) ** 2)
        steps[math.sqrt(pieces) / signal, 1.0] = pieces
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
    """Return the least noise with which `steps` sums at `sample_rate`, after `spent`, fit a target.

    The ε of all together is never above the target. It is not below 0.999 of the target, except
    where the noise is `SMALLEST_NOISE` or the target is above 100.

    Args:
        target_epsilon: largest ε of all releases together, > 0.
        delta: in (0, 1).
        sample_rate: of each sum, in (0, 1].
        steps: number of sums, >= 1.
        spent: earlier releases.

    Returns:
        The noise multiplier, in [SMALLEST_NOISE, LARGEST_NOISE].

    Raises:
        AccountingError: the target is not a positive number, delta is not in (0, 1), `spent`
            already costs the target, or even `LARGEST_NOISE` is too little.
    """
    _check_target(target_epsilon, spent, delta)

    def cost(noise: float, bound: Callable[[Sequence[Release], float], float] = epsilon) -> float:
        return bound([*spent, _release(noise, sample_rate, steps)], delta)

    if cost(LARGEST_NOISE) > target_epsilon:
        after = " after what is spent" if spent else ""
        raise AccountingError(
            f"no noise multiplier up to {LARGEST_NOISE:g} meets ε = {target_epsilon} at "
            f"δ = {delta} over {steps} steps at sample rate {sample_rate}{after}: "
            "take fewer steps, a smaller sample rate, or a larger ε."
        )
    # Bracket by powers of 2: first with the cheap Rényi bound, then with the tight one.
    high = LARGEST_NOISE
    while high > SMALLEST_NOISE and cost(high / 2, renyi_epsilon) <= target_epsilon:
        high /= 2
    low = high / 2
    while low > SMALLEST_NOISE and cost(low) <= target_epsilon:
        high, low = low, low / 2
    if low <= SMALLEST_NOISE and cost(SMALLEST_NOISE) <= target_epsilon:
        return SMALLEST_NOISE
    return _fit_noise(cost, target_epsilon, max(low, SMALLEST_NOISE), high)


def _fit_noise(cost: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Find the noise between `low`, which exceeds the target's cost, and `high`, which does not."""
    from scipy.optimize import brentq  # noqa: PLC0415 as in `composition`

    def excess(log_noise: float) -> float:
        aim = (1 - TOLERANCE / 4) * target
        return math.log(max(cost(math.exp(log_noise)), _TINY) / aim)

    if excess(math.log(high)) >= 0:  # within the tolerance below the target
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
    """Return the largest number of sums that, after `spent`, cost at most the target.

    Returns:
        0 if not even one fits; at most `MAX_STEPS`.

    Raises:
        AccountingError: the target is not a positive number, or delta is not in (0, 1).
    """
    _check_target(target_epsilon, (), delta)

    def fits(steps: int) -> bool:
        releases = [*spent, _release(noise_multiplier, sample_rate, steps)]
        # The Rényi bound is cheaper, and often enough.
        return any(bound(releases, delta) <= target_epsilon for bound in (renyi_epsilon, epsilon))

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        if high == MAX_STEPS:
            return high
        low, high = high, min(2 * high, MAX_STEPS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def rounds_for(
    target_epsilon: float, delta: float, like: Release, spent: Sequence[Release]
) -> tuple[int, bool]:
    """Return how many releases like this one fit after `spent`, and whether more fit than counted.

    Raises:
        AccountingError: as `steps_for`.
    """
    steps = steps_for(
        target_epsilon,
        delta,
        noise_multiplier=like.noise_multiplier,
        sample_rate=like.sample_rate,
        spent=spent,
    )
    return steps // like.steps, steps == MAX_STEPS


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
