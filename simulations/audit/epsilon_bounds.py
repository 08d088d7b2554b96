"""Bounds and estimates of ε from guesses and scores. Pure functions of numbers.

A fair coin decides whether a canary is in the data. If the coins of m canaries are guessed from
what was released, and too many guesses are right, the claim is disproved.

| function               | validity                                                                |
|------------------------|-------------------------------------------------------------------------|
| `epsilon_lower_bound`  | for any mechanism, with the stated confidence                           |
| `gaussian_estimate`    | if scores of canaries in and out are normal with the same variance; it  |
|                        | estimates ε, where the bound is only a lower bound                      |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, binom, norm

__all__ = [
    "Estimate",
    "Guesses",
    "binomial_interval",
    "epsilon_lower_bound",
    "gaussian_epsilon",
    "gaussian_estimate",
    "gaussian_separation",
    "guess",
    "largest_provable",
    "p_value",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FRACTIONS = (1 / 32, 1 / 8, 1 / 2)
"""Shares of the canaries that are guessed, the surest first; the error is split among them."""
_LARGEST = 50.0
"""Largest ε that a bound reports."""
_BEYOND = 1000.0
"""Largest ε that an estimate reports: practically no privacy."""
_FAR = 100.0
"""A separation whose ε exceeds `_BEYOND` at any δ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses:
    """The best result of `guess`.

    Attributes:
        guesses: canaries whose coin was guessed, r.
        correct: of these, how many were right, v.
        epsilon: lower bound that they prove, >= 0.
    """

    guesses: int
    correct: int
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An ε under an assumption, with an interval.

    Attributes:
        epsilon: the estimate, in [0, 1000].
        low: the interval's lower end.
        high: its upper end.
    """

    epsilon: float
    low: float
    high: float


def p_value(correct: int, guesses: int, canaries: int, *, epsilon: float, delta: float) -> float:
    """Bound the probability that so many guesses are right under an (ε, δ)-private mechanism.

    Each of m canaries is in with probability 1/2; r coins are guessed from what was released, and
    v guesses are right. Without δ, v is stochastically dominated by Binomial(r, e^ε / (1 + e^ε));
    δ adds at most 2 m δ max_i P[v > Binomial >= v - i] / i (Steinke, Nasr & Jagielski 2023,
    arXiv:2305.08846, theorem 5.2).

    Args:
        correct: v, in 0..r.
        guesses: r, in 0..m.
        canaries: m.
        epsilon: >= 0.
        delta: in [0, 1].

    >>> p_value(1, 1, 1, epsilon=0.0, delta=0.0)
    0.5
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"{correct} of {guesses} guesses about {canaries} canaries: not possible")
    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, chance))
    if delta == 0 or correct == 0:
        return min(tail, 1.0)
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, chance))
    steepest = float((below / np.arange(1, correct + 1)).max())
    return min(tail + 2 * canaries * delta * steepest, 1.0)


def epsilon_lower_bound(
    correct: int, guesses: int, canaries: int, *, delta: float, confidence: float
) -> float:
    """Return the smallest ε that is consistent with so many right guesses; 0 proves nothing.

    Args:
        correct: as in `p_value`; so are the next ones.
        guesses: see there.
        canaries: see there.
        delta: of the claim.
        confidence: probability at least that the true ε is not below the result, in (0, 1).

    >>> round(epsilon_lower_bound(100, 100, 100, delta=0.0, confidence=0.95), 2)
    3.49
    """

    def excess(epsilon: float) -> float:
        chance = p_value(correct, guesses, canaries, epsilon=epsilon, delta=delta)
        return chance - (1 - confidence)

    if guesses == 0 or excess(0.0) > 0:
        return 0.0
    return float(_LARGEST if excess(_LARGEST) < 0 else brentq(excess, 0.0, _LARGEST, xtol=1e-6))


def guess(scores: Floats, inside: Bools, *, delta: float, confidence: float) -> Guesses:
    """Guess that the highest scores are in and the lowest out, and return what that proves.

    The number of guesses does not depend on the outcome: each of `FRACTIONS` is tried at its share
    of the error.

    Args:
        scores: higher for a canary that is likelier to be in, [m].
        inside: the coins, [m].
        delta: of the claim.
        confidence: of the result, over all tries.
    """
    order, canaries = np.argsort(scores, kind="stable"), len(scores)
    each = 1 - (1 - confidence) / len(FRACTIONS)
    best = Guesses(guesses=0, correct=0, epsilon=0.0)
    for fraction in FRACTIONS:
        half = _half(canaries, fraction)
        correct = int(inside[order[canaries - half :]].sum() + (~inside[order[:half]]).sum())
        bound = epsilon_lower_bound(correct, 2 * half, canaries, delta=delta, confidence=each)
        if bound > best.epsilon or not best.guesses:
            best = Guesses(guesses=2 * half, correct=correct, epsilon=bound)
    return best


def largest_provable(canaries: int, *, delta: float, confidence: float) -> float:
    """Return what `guess` proves if every guess is right: a larger ε cannot be detected."""
    each = 1 - (1 - confidence) / len(FRACTIONS)
    return max(
        epsilon_lower_bound(2 * half, 2 * half, canaries, delta=delta, confidence=each)
        for half in (_half(canaries, fraction) for fraction in FRACTIONS)
    )


def gaussian_epsilon(separation: float, delta: float) -> float:
    """Return ε at δ of two unit normals whose means are `separation` >= 0 apart.

    δ(ε) = Φ(μ/2 - ε/μ) - e^ε Φ(-μ/2 - ε/μ) (Balle & Wang 2018, arXiv:1805.06530, theorem 8; Dong,
    Roth & Su 2022, arXiv:1905.02383, corollary 2.13).

    >>> round(gaussian_epsilon(1.0, 1e-5), 3)
    4.377
    """
    if separation <= 0:
        return 0.0

    def excess(epsilon: float) -> float:
        near, far = separation / 2 - epsilon / separation, -separation / 2 - epsilon / separation
        return float(norm.cdf(near) - math.exp(epsilon + norm.logcdf(far))) - delta

    high = separation**2 / 2 + separation * float(norm.isf(delta)) + 1
    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, high, xtol=1e-6))


def gaussian_separation(epsilon: float, delta: float) -> float:
    """Return the separation of means that has this ε at δ: the inverse of `gaussian_epsilon`."""
    if epsilon <= 0:
        return 0.0
    high = 1.0
    while gaussian_epsilon(high, delta) < epsilon:
        high *= 2
    return float(brentq(lambda value: gaussian_epsilon(value, delta) - epsilon, 0.0, high))


def gaussian_estimate(
    scores: Floats, inside: Bools, *, delta: float, confidence: float
) -> Estimate:
    """Estimate ε from normal scores, by the separation of the means of canaries in and out.

    The distance over the pooled deviation is the μ of Gaussian differential privacy (Andrew et al.
    2023, arXiv:2302.03098, estimate the same from one run). Its variance is about
    (n₁ + n₀) / (n₁ n₀) + μ² / (2 (n₁ + n₀)) (Hedges & Olkin 1985, chapter 5, equation 8).

    Args:
        scores: [m].
        inside: [m].
        delta: of the claim.
        confidence: of each end of the interval, separately.
    """
    within, without = scores[inside], scores[~inside]
    n1, n0 = len(within), len(without)
    if min(n1, n0) < 2:
        return Estimate(epsilon=0.0, low=0.0, high=_BEYOND)
    pooled = math.sqrt(
        ((n1 - 1) * within.var(ddof=1) + (n0 - 1) * without.var(ddof=1)) / (n1 + n0 - 2)
    )
    apart = float(within.mean() - without.mean())
    # Constant scores that differ between in and out identify every canary.
    distance = apart / max(pooled, 1e-9 * abs(apart)) if apart else 0.0
    width = math.sqrt((n1 + n0) / (n1 * n0) + distance**2 / (2 * (n1 + n0)))
    reach = float(norm.isf(1 - confidence)) * width
    low, middle, high = (
        min(gaussian_epsilon(min(max(value, 0.0), _FAR), delta), _BEYOND)
        for value in (distance - reach, distance, distance + reach)
    )
    return Estimate(epsilon=middle, low=low, high=high)


def binomial_interval(hits: int, trials: int, confidence: float) -> tuple[float, float]:
    """Return the exact interval of a probability (Clopper & Pearson 1934, 10.1093/biomet/26.4.404).

    Args:
        hits: in 0..trials.
        trials: >= 0; 0 gives (0, 1).
        confidence: that the probability is inside, in (0, 1).
    """
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.isf(tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def _half(canaries: int, fraction: float) -> int:
    """Return how many canaries are guessed to be in, and as many out."""
    return max(1, int(canaries * fraction / 2)) if canaries >= 2 else 0
