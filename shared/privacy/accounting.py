"""What releases cost together: (ε, δ) by numerical composition of privacy loss variables.

Mechanism: the Poisson-subsampled Gaussian. Composition: Gopi, Lee & Wutschitz 2021
(arXiv:2106.02848) as Opacus implements it; its upper bound is what is reported. Opacus's GDP
accountant understates ε and is never used.

The guarantee is for releases whose noise, rate and number do not depend on what was released
before, as in a run whose parameters stand from the start. For a coordinator that chooses them
from earlier answers, numerical composition is not proven to hold.

The Rényi bound (Mironov, Talwar & Zhang 2019, arXiv:1908.10530) is cheap and never below the
truth. It sets the scale of the numerical error, and stands in where ε is so large, δ so small or
the releases so many that the composition would drown in rounding or not fit in memory.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from opacus.accountants.analysis import prv, rdp
from scipy.fft import next_fast_len
from scipy.optimize import brentq

from shared.errors import AccountingError
from shared.privacy.release import Release, ReleaseKind

__all__ = ["epsilon", "noise_multiplier_for"]

RELATIVE_ERROR = 0.001
"""Error allowed to the numerical composition, as a share of the Rényi bound; added to ε."""
LARGEST_GRID = 4_000_000
"""Points of a privacy loss variable; more error is allowed where it would take more."""
LARGEST_EPSILON = 500.0
"""Beyond it exp(ε) leaves the floating range, and the Rényi bound is reported."""
SMALLEST_NOISE, LARGEST_NOISE = 0.05, 1e4
"""Less noise hides nobody; with more, nothing could be learned."""
TOLERANCE, ATTEMPTS, COARSER = 0.001, 5, 10.0
"""How closely noise is fitted to a target, how often that is tried, and on what grid first."""

_TINY = 1e-12
_WHOLE = [*range(2, 16), *range(16, 32, 2), *range(32, 64, 4), 64, 96, 128, 192, 256, 512, 1024]
_BELOW_TWO = [1.05, 1.15, 1.35, 1.65]
_ORDERS = [*_BELOW_TWO, *_WHOLE]
"""Rényi orders."""

Forms = tuple[tuple[float, float, int], ...]
"""Distinct (noise multiplier, sample rate, steps), sorted."""


def epsilon(releases: Sequence[Release], delta: float) -> float:
    """The ε that `releases` cost together at `delta`.

    Returns:
        An upper bound on ε, >= 0; 0 for no release, infinity if one carried no noise. Never
        below the truth; within 1% of it for ε from 0.05 to 100, δ from 1e-9 and up to 10,000 steps.

    Raises:
        AccountingError: delta is not in (0, 1).
    """
    _check(delta)
    if not releases:
        return 0.0
    if not all(release.private for release in releases):
        return float("inf")
    return _upper_bound(_forms(releases), delta)


def _check(delta: float) -> None:
    if not 0 < delta < 1:
        raise AccountingError(f"delta must be in (0, 1), not {delta}: choose one below 1/users.")


def _forms(releases: Sequence[Release]) -> Forms:
    """Equal releases added up, across kinds: what a sum was for does not change its cost."""
    steps: dict[tuple[float, float], int] = {}
    for release in releases:
        form = (release.noise_multiplier, release.sample_rate)
        steps[form] = steps.get(form, 0) + release.steps
    return tuple(sorted((*form, count) for form, count in steps.items()))


@lru_cache(maxsize=256)
def _upper_bound(forms: Forms, delta: float) -> float:
    composed = _compose(forms, delta)
    return max(0.0, composed.value + composed.error)


@dataclass(frozen=True, slots=True)
class _Composed:
    """ε is at most `value + error`, and about `value`."""

    value: float
    error: float


def _compose(forms: Forms, delta: float, *, coarser: float = 1.0) -> _Composed:
    delta_error = delta / 1000
    total = sum(steps for _, _, steps in forms)
    with _numerics():
        renyi = _Renyi(forms)
        ceiling, reach = renyi.epsilon(delta), renyi.reach(delta_error)
        # Mesh over error, from theorem 5.5 of Gopi et al.
        scale = math.sqrt(total * math.log(12 / delta_error) / 2)
        error = max(RELATIVE_ERROR * ceiling, 2 * reach * scale * len(forms) / LARGEST_GRID)
        rounding = np.finfo(float).eps * total
        if not (reach < LARGEST_EPSILON and error < ceiling / 2 and 100 * rounding < delta):
            return _Composed(ceiling, 0.0)
        error *= coarser
        domain = _domain(reach, error / scale)
        try:
            *_, bound = _loss(forms, domain).compute_epsilon(delta, delta_error, error)
        except (RuntimeError, ValueError):  # Opacus found the grid too coarse after all
            bound = math.inf
    return _Composed(float(bound) - error, error) if bound < ceiling else _Composed(ceiling, 0.0)


def _domain(reach: float, mesh: float) -> prv.Domain:
    """At least [-reach, reach], of a size that a Fourier transform is fast at."""
    half = next_fast_len(math.ceil(reach / mesh) + 1) - 1
    return prv.Domain.create_aligned(-half * mesh, half * mesh, mesh)


def _loss(forms: Forms, domain: prv.Domain) -> prv.DiscretePRV:
    """The privacy loss of all the releases, on a grid."""
    losses = [prv.PoissonSubsampledGaussianPRV(rate, noise) for noise, rate, _ in forms]
    parts = [
        prv.discretize(prv.TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max), domain)
        for loss in losses
    ]
    return prv.compose_heterogeneous(parts, [steps for _, _, steps in forms])


class _Renyi:
    """The Rényi divergences of the releases, singly and together."""

    def __init__(self, forms: Forms) -> None:
        self._steps = [steps for _, _, steps in forms]
        self._curves = [_renyi_curve(noise, rate) for noise, rate, _ in forms]

    def epsilon(self, delta: float) -> float:
        """An upper bound on the ε of all releases together."""
        together = [s * c for s, c in zip(self._steps, self._curves, strict=True)]
        return _converted(np.sum(together, axis=0), delta)

    def reach(self, delta_error: float) -> float:
        """How far from 0 a privacy loss must be known (remark 5.6 of Gopi et al.)."""
        single = delta_error / (8 * sum(self._steps))
        parts = [_converted(curve, single) for curve in self._curves]
        return max(self.epsilon(delta_error / 4), *parts) + 3


@lru_cache(maxsize=1024)
def _renyi_curve(noise: float, rate: float) -> NDArray[np.float64]:
    try:
        whole = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=_WHOLE)
        # A divergence grows with its order, so the second bounds the fractions below it. With
        # little noise that is too much; with more, Opacus's series for a fraction takes seconds.
        below = np.full(len(_BELOW_TWO), whole[0])
        if noise < 0.7 or rate == 1:
            below = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=_BELOW_TWO)
    except (ArithmeticError, ValueError):  # a parameter at the edge of the floating range
        return np.full(len(_ORDERS), np.inf)
    curve = np.concatenate([below, whole])
    return np.where(np.isnan(curve), np.inf, curve)


def _converted(curve: NDArray[np.float64], delta: float) -> float:
    return float(rdp.get_privacy_spent(orders=_ORDERS, rdp=curve, delta=delta)[0])


@contextmanager
def _numerics() -> Iterator[None]:
    """Logarithms of 0 and overflows in the tails are meant; Opacus does not silence them."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def noise_multiplier_for(
    target_epsilon: float, delta: float, *, sample_rate: float, steps: int
) -> float:
    """The least noise with which `steps` sums at `sample_rate` cost at most `target_epsilon`.

    What it costs is never above the target, and not below 0.999 of it, unless the noise is
    `SMALLEST_NOISE` or the target is beyond 100.

    Raises:
        AccountingError: the target is not a positive number, delta is not in (0, 1), or no usable
            noise meets the target.
    """
    if not 0 < target_epsilon < float("inf"):
        raise AccountingError(
            f"epsilon must be a positive number, not {target_epsilon}: "
            "8 is a loose budget, 1 a strict one; 'none' trains without privacy."
        )
    _check(delta)
    return _Search(target=target_epsilon, delta=delta, rate=sample_rate, steps=steps).least()


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Solves with a coarse grid, whose margin is known, and corrects the aim with the fine one."""

    target: float
    delta: float
    rate: float
    steps: int

    def least(self) -> float:
        best = self._surely_enough()
        highest, aim = 2 * best, self.target
        for _ in range(ATTEMPTS):
            noise = self._solve(aim, highest)
            cost = epsilon([self._release(noise)], self.delta)
            if cost <= self.target:
                best = min(best, noise)
                if cost >= (1 - TOLERANCE) * self.target or noise == SMALLEST_NOISE:
                    break
            aim *= (1 - TOLERANCE / 3) * self.target / max(cost, _TINY)
        return best

    def _surely_enough(self) -> float:
        """The least LARGEST_NOISE / 2^n that meets the target by the Rényi bound."""
        noise = LARGEST_NOISE
        if self._renyi(noise) > self.target:
            raise AccountingError(
                f"no noise multiplier up to {LARGEST_NOISE:g} meets ε = {self.target} at "
                f"δ = {self.delta} over {self.steps} steps at sample rate {self.rate}: "
                "take fewer steps, a smaller sample rate, or a larger ε."
            )
        while noise > SMALLEST_NOISE and self._renyi(noise / 2) <= self.target:
            noise = max(noise / 2, SMALLEST_NOISE)
        return noise

    def _solve(self, aim: float, high: float) -> float:
        low = max(high / 4, SMALLEST_NOISE)
        while self._rough(low) <= aim:
            if low == SMALLEST_NOISE:
                return low
            low = max(low / 2, SMALLEST_NOISE)

        def excess(log_noise: float) -> float:
            return math.log(max(self._rough(math.exp(log_noise)), _TINY) / aim)

        return math.exp(brentq(excess, math.log(low), math.log(high), xtol=1e-5))

    def _rough(self, noise: float) -> float:
        """About what will be reported: the same mean, and the margin of the finer grid."""
        composed = _compose(_forms([self._release(noise)]), self.delta, coarser=COARSER)
        return composed.value + composed.error / COARSER

    def _renyi(self, noise: float) -> float:
        with _numerics():
            return _Renyi(_forms([self._release(noise)])).epsilon(self.delta)

    def _release(self, noise: float) -> Release:
        return Release(
            kind=ReleaseKind.TRAIN,
            noise_multiplier=noise,
            sample_rate=self.rate,
            steps=self.steps,
        )
