"""The privacy loss of many Poisson-subsampled Gaussian sums together, on a grid, from above.

For neighbours that differ by one user, a sum of noise multiplier σ over samples of rate q is told
apart no better than P = (1-q) N(0, σ²) + q N(1, σ²) from Q = N(0, σ²) (user removed), or Q from P
(user added): Zhu, Dong & Wang 2022 (arXiv:2106.08567). Both directions are composed.

Each cell of the grid hands its mass to its two ends such that its mass under P and under Q both
stay: the resulting pair dominates, at every ε ("connect the dots": Doroshenko et al. 2022,
arXiv:2207.04380), and dominating pairs compose. Nothing rounds down, and what the grid's finite
length loses is bounded by Chernoff's inequality and taken off δ; so the ε is an upper bound, save
for floating-point rounding of about 1e-16 a step. Sums of losses are products of spectra, so a
history of hundreds of different forms costs one short transform for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.optimize import brentq
from scipy.special import logsumexp, ndtr, ndtri, roots_hermitenorm

__all__ = ["SLACK", "Form", "composed_epsilon"]

Form = tuple[float, float, int]
"""Noise multiplier > 0, sample rate in (0, 1], steps >= 1."""
Array = NDArray[np.float64]

FINENESS = 0.002
"""Squared mesh over the variance of one average loss; ε comes out too large by a sixth of it."""
SLACK = 1e-4
"""Share of δ spent on losses beyond the grid."""
LONGEST = 2**20
"""Points of a grid; where it would take more, it is coarser, and ε larger."""

_NEGLIGIBLE = 1e-24
"""A frequency whose amplitude is below it is left out: it cannot grow again."""


def composed_epsilon(forms: Sequence[Form], delta: float, *, reach: float, tilt: float) -> float:
    """The least ε that the composed pair shows at `delta`, over both directions.

    Args:
        forms: distinct releases.
        delta: in (0, 1).
        reach: about the largest loss to be expected; bounds the mesh from below.
        tilt: exponent > 0 of Chernoff's bound on the tail; any is valid, a good one is close to
            the best Rényi order less one.

    Returns:
        An upper bound on ε, >= 0.
    """
    with np.errstate(divide="ignore", over="ignore"):  # logarithms of 0 are meant
        return _composed(forms, delta, reach, tilt)


def _composed(forms: Sequence[Form], delta: float, reach: float, tilt: float) -> float:
    total = sum(steps for *_, steps in forms)
    variance = sum(steps * _variance(noise, rate) for noise, rate, steps in forms)
    deviations = -float(ndtri(SLACK * delta / (4 * total)))
    spans = [_span(noise, rate, deviations) for noise, rate, _ in forms]
    longest = max(2 * reach, *(high - low for low, high in spans))
    mesh = max(math.sqrt(FINENESS * variance / total), longest / LONGEST)
    removed = [
        _loss(noise, rate, mesh, span) for (noise, rate, _), span in zip(forms, spans, strict=True)
    ]
    steps = [count for *_, count in forms]
    pairs = removed, [loss.reversed(mesh) for loss in removed]
    ends = [_end(losses, steps, mesh, tilt, SLACK * delta / 4) for losses in pairs]
    length = max(math.ceil(sum(ends) / mesh) + 2, *(len(loss.mass) for loss in removed))
    length = next_fast_len(length, real=True)
    return max(
        _Sum.of(losses, steps, length, below=math.ceil(below / mesh)).epsilon(mesh, delta)
        for losses, below in zip(pairs, reversed(ends), strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Loss:
    """Masses of one loss at grid points `first`, `first + 1`, ..., and at infinity."""

    first: int
    mass: Array
    infinite: float

    def points(self, mesh: float) -> Array:
        return np.arange(self.first, self.first + len(self.mass), dtype=np.float64) * mesh

    def reversed(self, mesh: float) -> _Loss:
        """The loss of Q against P: e^-t of the mass, at -t; what is missing then is infinite."""
        mass = self.mass * np.exp(-self.points(mesh))
        last = self.first + len(mass) - 1
        return _Loss(-last, mass[::-1].copy(), max(0.0, 1.0 - float(mass.sum())))


@lru_cache(maxsize=4096)
def _variance(noise: float, rate: float) -> float:
    """Of the loss under P, roughly: by Gauss-Hermite quadrature."""
    nodes, weights = roots_hermitenorm(60)
    x = np.concatenate([noise * nodes, 1 + noise * nodes])
    weight = np.concatenate([(1 - rate) * weights, rate * weights]) / weights.sum()
    loss = np.logaddexp(np.log1p(-rate), math.log(rate) + (x - 0.5) / noise**2)
    mean = float(weight @ loss)
    return float(weight @ (loss - mean) ** 2)


def _span(noise: float, rate: float, deviations: float) -> tuple[float, float]:
    """Where one sum's loss lies but for noise further out than `deviations`."""
    far = np.array([-1, 1]) * (deviations * noise + 0.5) / noise**2
    low, high = np.logaddexp(np.log1p(-rate), math.log(rate) + far)
    return float(low), float(high)


def _loss(noise: float, rate: float, mesh: float, span: tuple[float, float]) -> _Loss:
    """One sum's loss when a user is removed; infinite above the span."""
    first, last = math.floor(span[0] / mesh), math.ceil(span[1] / mesh)
    t = mesh * np.arange(first, last + 1)
    # e^t = 1-q + q e^y at x = σ² y + 1/2; t = 0 is y = 0 is x = 1/2, whatever σ and q.
    y = np.log1p(np.maximum(np.expm1(t) / rate, -1.0))
    y[0] = -np.inf
    x = noise**2 * y + 0.5
    base = _cells(x / noise, -first)
    shifted = _cells((x - 1) / noise, -first)
    whole = (1 - rate) * base + rate * shifted
    # The mass that goes up: (P - e^t Q) / (1 - e^-h) from the lower end t.
    up = (whole - np.exp(t[:-1]) * base) / -math.expm1(-mesh)
    up = np.clip(up, 0.0, whole)
    mass = np.zeros(len(t))
    mass[:-1] += whole - up
    mass[1:] += up
    beyond = (1 - rate) * ndtr(-x[-1] / noise) + rate * ndtr((1 - x[-1]) / noise)
    return _Loss(first, mass, float(beyond))


def _cells(edges: Array, middle: int) -> Array:
    """Standard normal mass between edges, from the nearer tail: exact where it is tiny."""
    below, above = ndtr(edges[: middle + 1]), ndtr(-edges[middle:])
    return np.concatenate([np.diff(below), -np.diff(above)])


def _end(
    losses: Sequence[_Loss], steps: Sequence[int], mesh: float, tilt: float, mass: float
) -> float:
    """Beyond it the summed loss has at most `mass` (Chernoff)."""
    logs = [logsumexp(tilt * loss.points(mesh), b=loss.mass) for loss in losses]
    return float((np.dot(logs, steps) - math.log(mass)) / tilt)


@dataclass(frozen=True, slots=True)
class _Sum:
    """The summed loss: finite masses from grid point `-below` on, and at infinity."""

    below: int
    mass: Array
    infinite: float

    @classmethod
    def of(cls, losses: Sequence[_Loss], steps: Sequence[int], length: int, *, below: int) -> _Sum:
        """Mass below the grid comes out at its top, which is on the safe side."""
        spectrum = np.ones(length // 2 + 1, dtype=np.complex128)
        heard = len(spectrum)
        for loss, count in zip(losses, steps, strict=True):
            spectrum[:heard] *= rfft(loss.mass, length)[:heard] ** count
            audible = np.flatnonzero(np.abs(spectrum[:heard]) > _NEGLIGIBLE)
            heard = int(audible[-1]) + 1 if len(audible) else 1
            spectrum[heard:] = 0.0
        shift = sum(loss.first * count for loss, count in zip(losses, steps, strict=True))
        mass = np.roll(irfft(spectrum, length), (shift + below) % length)
        finite = sum(c * math.log1p(-loss.infinite) for loss, c in zip(losses, steps, strict=True))
        return cls(below, np.maximum(mass, 0.0), -math.expm1(finite))

    def epsilon(self, mesh: float, delta: float) -> float:
        """The ε at which the hockey-stick divergence is `delta`, less what the grid may miss."""
        mass = self.mass[self.below :]
        t = mesh * np.arange(len(mass))
        spare = delta * (1 - SLACK / 2) - self.infinite

        def excess(epsilon: float) -> float:
            above = slice(min(len(t), math.ceil(epsilon / mesh)), None)
            return float(mass[above] @ -np.expm1(epsilon - t[above])) - spare

        if excess(0.0) <= 0:
            return 0.0
        if spare <= 0:
            return math.inf
        return float(brentq(excess, 0.0, t[-1] + mesh, xtol=1e-12, rtol=1e-10))
