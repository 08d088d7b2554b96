"""What guesses and scores say about ε. Pure: knows no canary, model or file.

A canary is in the data or not, by a fair coin. Whoever guesses the coins of m canaries from what
was released, and is right too often, disproves the claim.

| what                   | holds                                                                   |
|------------------------|-------------------------------------------------------------------------|
| `epsilon_lower_bound`  | for whatever was run, with the stated confidence                        |
| `gaussian_estimate`    | where scores of canaries in and out are normal and alike in spread; it  |
|                        | says about what ε is, where the bound says only what it is at least     |
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
"""Shares of the canaries that are guessed, the surest first; all are tried, and paid for."""
_LARGEST = 50.0
"""Beyond this e^ε says nothing any more."""
_BEYOND = 1000.0
"""What an estimate is said to be that is larger: there is no privacy to speak of."""
_FAR = 100.0
"""A separation whose ε is beyond that at any δ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses:
    """The best of what `guess` tried.

    Attributes:
        guesses: canaries whose coin was guessed, r.
        correct: of these, how many were right, v.
        epsilon: what they prove, >= 0.
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
    """Chance at most that so many guesses are right, if all is (ε, δ)-private.

    Each of m canaries is in with chance 1/2; whoever sees what was released guesses r coins, and v
    are right. Without δ, v is below a Binomial(r, e^ε / (1 + e^ε)), in distribution; δ adds at
    most 2 m δ max_i P[v > Binomial >= v - i] / i (Steinke, Nasr & Jagielski 2023,
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
    """The least ε that so many right guesses leave possible; 0 where they prove nothing.

    Args:
        correct: as in `p_value`; so are the next ones.
        guesses: see there.
        canaries: see there.
        delta: of the claim.
        confidence: chance at least that the true ε is not below the result, in (0, 1).

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
    """Guesses that the highest scores are in and the lowest out, and what that proves.

    How many are guessed is not chosen by looking: each of `FRACTIONS` is tried at its share of the
    error.

    Args:
        scores: higher where a canary looks as if it were in, [m].
        inside: the coins, [m].
        delta: of the claim.
        confidence: of the result, all tries together.
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
    """What `guess` would prove if every guess were right: a larger ε it cannot see."""
    each = 1 - (1 - confidence) / len(FRACTIONS)
    return max(
        epsilon_lower_bound(2 * half, 2 * half, canaries, delta=delta, confidence=each)
        for half in (_half(canaries, fraction) for fraction in FRACTIONS)
    )


def gaussian_epsilon(separation: float, delta: float) -> float:
    """ε at δ of two normals of deviation 1 whose means are `separation` >= 0 apart.

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
    """How far apart the means are where ε at δ is this: `gaussian_epsilon`, the other way."""
    if epsilon <= 0:
        return 0.0
    high = 1.0
    while gaussian_epsilon(high, delta) < epsilon:
        high *= 2
    return float(brentq(lambda value: gaussian_epsilon(value, delta) - epsilon, 0.0, high))


def gaussian_estimate(
    scores: Floats, inside: Bools, *, delta: float, confidence: float
) -> Estimate:
    """ε if scores are normal: from how far apart the means of canaries in and out are.

    The distance over the pooled deviation is the μ of Gaussian differential privacy (Andrew et al.
    2023, arXiv:2302.03098, estimate the same from one run). Its variance is about
    (n₁ + n₀) / (n₁ n₀) + μ² / (2 (n₁ + n₀)) (Hedges & Olkin 1985, chapter 5, equation 8).

    Args:
        scores: [m].
        inside: [m].
        delta: of the claim.
        confidence: that each end of the interval is on its side of the true ε.
    """
    within, without = scores[inside], scores[~inside]
    n1, n0 = len(within), len(without)
    if min(n1, n0) < 2:
        return Estimate(epsilon=0.0, low=0.0, high=_BEYOND)
    pooled = math.sqrt(
        ((n1 - 1) * within.var(ddof=1) + (n0 - 1) * without.var(ddof=1)) / (n1 + n0 - 2)
    )
    apart = float(within.mean() - without.mean())
    # Scores that do not vary at all tell in from out for certain, if they differ.
    distance = apart / max(pooled, 1e-9 * abs(apart)) if apart else 0.0
    width = math.sqrt((n1 + n0) / (n1 * n0) + distance**2 / (2 * (n1 + n0)))
    reach = float(norm.isf(1 - confidence)) * width
    low, middle, high = (
        min(gaussian_epsilon(min(max(value, 0.0), _FAR), delta), _BEYOND)
        for value in (distance - reach, distance, distance + reach)
    )
    return Estimate(epsilon=middle, low=low, high=high)


def binomial_interval(hits: int, trials: int, confidence: float) -> tuple[float, float]:
    """Where a chance lies, exactly (Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404).

    Args:
        hits: in 0..trials.
        trials: >= 0; none leaves (0, 1).
        confidence: that the chance is inside, in (0, 1).
    """
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.isf(tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def _half(canaries: int, fraction: float) -> int:
    """How many are guessed on either side."""
    return max(1, int(canaries * fraction / 2)) if canaries >= 2 else 0
