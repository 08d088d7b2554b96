"""Numerical composition of Poisson-subsampled Gaussian sums: an upper bound on ε, on a grid.

Dominating pair: for neighbours that differ by one user, a sum with noise multiplier σ and sample
rate q is dominated by P = (1-q) N(0, σ²) + q N(1, σ²) against Q = N(0, σ²) if the user is removed,
and by Q against P if the user is added (Zhu, Dong & Wang 2022, arXiv:2106.08567). Both directions
are composed.

Discretisation: each grid cell splits its mass between its two ends so that its masses under P and
under Q are both preserved. The discrete pair dominates at every ε ("connect the dots": Doroshenko
et al. 2022, arXiv:2207.04380), and dominating pairs compose.

Error: no step rounds ε down. The mass beyond the finite grid is bounded by Chernoff's inequality
and subtracted from δ. The result is therefore an upper bound, up to floating-point rounding of
about 1e-16 per step.

Speed: the distribution of a sum of losses is a product of spectra, so hundreds of distinct
releases need one short Fourier transform each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import logsumexp, ndtr, ndtri, roots_hermitenorm

__all__ = ["SLACK", "Form", "composed_epsilon"]

Form = tuple[float, float, int]
"""Noise multiplier > 0, sample rate in (0, 1], steps >= 1."""
Array = NDArray[np.float64]

RELATIVE_MESH = 0.002
"""Squared mesh over the average loss's variance. ε is too large by a relative sixth of it."""
SLACK = 1e-4
"""Share of δ reserved for losses beyond the grid."""
MAX_POINTS = 2**20
"""Largest number of grid points. Where more are needed, the mesh is coarser and ε larger."""

_NEGLIGIBLE = 1e-24
"""Amplitude below which a frequency is dropped; further factors only make it smaller."""


def composed_epsilon(forms: Sequence[Form], delta: float, *, reach: float, tilt: float) -> float:
    """Return the ε of the composed pair at `delta`, the larger of both directions.

    Args:
        forms: distinct releases, each as (noise multiplier, sample rate, steps).
        delta: in (0, 1).
        reach: estimate of the largest relevant loss; bounds the mesh from below.
        tilt: exponent > 0 of Chernoff's bound on the tail. Any value gives a valid bound; a tight
            one is close to the best Rényi order minus one.

    Returns:
        An upper bound on ε, >= 0.
    """
    with np.errstate(divide="ignore", over="ignore"):  # log(0) = -inf is intended
        return _composed(forms, delta, reach, tilt)


def _composed(forms: Sequence[Form], delta: float, reach: float, tilt: float) -> float:
    total = sum(steps for *_, steps in forms)
    variance = sum(steps * _variance(noise, rate) for noise, rate, steps in forms)
    deviations = -float(ndtri(SLACK * delta / (4 * total)))
    spans = [_span(noise, rate, deviations) for noise, rate, _ in forms]
    longest = max(2 * reach, *(high - low for low, high in spans))
    mesh = max(math.sqrt(RELATIVE_MESH * variance / total), longest / MAX_POINTS)
    removed = [
        _loss(noise, rate, mesh, span) for (noise, rate, _), span in zip(forms, spans, strict=True)
    ]
    steps = [count for *_, count in forms]
    pairs = removed, [loss.reversed(mesh) for loss in removed]
    ends = [_upper_end(losses, steps, mesh, tilt, SLACK * delta / 4) for losses in pairs]
    length = max(math.ceil(sum(ends) / mesh) + 2, *(len(loss.mass) for loss in removed))
    length = next_fast_len(length, real=True)
    return max(
        _Sum.of(losses, steps, length, below=math.ceil(below / mesh)).epsilon(mesh, delta)
        for losses, below in zip(pairs, reversed(ends), strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Loss:
    """Distribution of one loss: masses at grid points from `first` on, and at infinity."""

    first: int
    mass: Array
    infinite: float

    def points(self, mesh: float) -> Array:
        return np.arange(self.first, self.first + len(self.mass), dtype=np.float64) * mesh

    def reversed(self, mesh: float) -> _Loss:
        """Return the loss of Q against P: mass e^-t · mass(t) at -t, and the rest at infinity."""
        mass = self.mass * np.exp(-self.points(mesh))
        last = self.first + len(mass) - 1
        return _Loss(-last, mass[::-1].copy(), max(0.0, 1.0 - float(mass.sum())))


@lru_cache(maxsize=4096)
def _variance(noise: float, rate: float) -> float:
    """Approximate the variance of one loss under P by Gauss-Hermite quadrature."""
    nodes, weights = roots_hermitenorm(60)
    x = np.concatenate([noise * nodes, 1 + noise * nodes])
    weight = np.concatenate([(1 - rate) * weights, rate * weights]) / weights.sum()
    loss = np.logaddexp(np.log1p(-rate), math.log(rate) + (x - 0.5) / noise**2)
    mean = float(weight @ loss)
    return float(weight @ (loss - mean) ** 2)


def _span(noise: float, rate: float, deviations: float) -> tuple[float, float]:
    """Return the range of one sum's loss for noise within `deviations` standard deviations."""
    far = np.array([-1, 1]) * (deviations * noise + 0.5) / noise**2
    low, high = np.logaddexp(np.log1p(-rate), math.log(rate) + far)
    return float(low), float(high)


def _loss(noise: float, rate: float, mesh: float, span: tuple[float, float]) -> _Loss:
    """Discretise one sum's loss for a removed user; losses above the span count as infinite."""
    first, last = math.floor(span[0] / mesh), math.ceil(span[1] / mesh)
    t = mesh * np.arange(first, last + 1)
    # The loss at x = σ² y + 1/2 is t = log(1-q + q e^y). For every σ and q, t = 0 is x = 1/2.
    y = np.log1p(np.maximum(np.expm1(t) / rate, -1.0))
    y[0] = -np.inf
    x = noise**2 * y + 0.5
    base = _cells(x / noise, -first)
    shifted = _cells((x - 1) / noise, -first)
    mass_p = (1 - rate) * base + rate * shifted
    # A cell [t, t + h] moves the mass (P - e^t Q) / (1 - e^-h) to its upper end, the rest to t.
    upper = (mass_p - np.exp(t[:-1]) * base) / -math.expm1(-mesh)
    upper = np.clip(upper, 0.0, mass_p)
    mass = np.zeros(len(t))
    mass[:-1] += mass_p - upper
    mass[1:] += upper
    beyond = (1 - rate) * ndtr(-x[-1] / noise) + rate * ndtr((1 - x[-1]) / noise)
    return _Loss(first, mass, float(beyond))


def _cells(edges: Array, middle: int) -> Array:
    """Return the standard normal mass of each cell, computed from the nearer tail for accuracy."""
    below, above = ndtr(edges[: middle + 1]), ndtr(-edges[middle:])
    return np.concatenate([np.diff(below), -np.diff(above)])


def _upper_end(
    losses: Sequence[_Loss], steps: Sequence[int], mesh: float, tilt: float, mass: float
) -> float:
    """Return the point above which the summed loss has at most `mass` (Chernoff's bound)."""
    logs = [logsumexp(tilt * loss.points(mesh), b=loss.mass) for loss in losses]
    return float((np.dot(logs, steps) - math.log(mass)) / tilt)


@dataclass(frozen=True, slots=True)
class _Sum:
    """Distribution of the summed loss: masses from grid point `-below` on, and at infinity."""

    below: int
    mass: Array
    infinite: float

    @classmethod
    def of(cls, losses: Sequence[_Loss], steps: Sequence[int], length: int, *, below: int) -> _Sum:
        """Convolve the losses by FFT.

        The transform is circular: mass below the grid appears at its top, as a larger loss. This
        only increases ε.
        """
        spectrum = np.ones(length // 2 + 1, dtype=np.complex128)
        kept = len(spectrum)  # leading frequencies that are not negligible
        for loss, count in zip(losses, steps, strict=True):
            spectrum[:kept] *= rfft(loss.mass, length)[:kept] ** count
            significant = np.flatnonzero(np.abs(spectrum[:kept]) > _NEGLIGIBLE)
            kept = int(significant[-1]) + 1 if len(significant) else 1
            spectrum[kept:] = 0.0
        shift = sum(loss.first * count for loss, count in zip(losses, steps, strict=True))
        mass = np.roll(irfft(spectrum, length), (shift + below) % length)
        finite = sum(c * math.log1p(-loss.infinite) for loss, c in zip(losses, steps, strict=True))
        return cls(below, np.maximum(mass, 0.0), -math.expm1(finite))

    def epsilon(self, mesh: float, delta: float) -> float:
        """Return the ε at which the hockey-stick divergence is `delta`, less the grid's slack."""
        mass = self.mass[self.below :]
        t = mesh * np.arange(len(mass))
        allowed = delta * (1 - SLACK / 2) - self.infinite

        def excess(epsilon: float) -> float:
            above = slice(min(len(t), math.ceil(epsilon / mesh)), None)
            return float(mass[above] @ -np.expm1(epsilon - t[above])) - allowed

        if excess(0.0) <= 0:
            return 0.0
        if allowed <= 0:
            return math.inf
        from scipy.optimize import brentq  # noqa: PLC0415 many processes of a node need no root

        return float(brentq(excess, 0.0, t[-1] + mesh, xtol=1e-12, rtol=1e-10))
