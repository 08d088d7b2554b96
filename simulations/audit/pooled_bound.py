"""A lower bound of ε from guesses about many users in each of many independent releases.

In each of R releases, m users are in by a fair coin of their own. From everything that was
released, k coins of each release are guessed; of these r = R k guesses, w are wrong. If every
release is (ε, δ)-private for each of its users, and the releases' randomness is independent, then
for every b

    P[w <= x]  <=  P[Binomial(r - b, 1 / (1 + e^ε)) <= x]  +  P[B > b],

where B is a sum of R independent numbers in 0..k with mean at most min(k, m δ). By Hoeffding (1963,
10.1080/01621459.1963.10500830, theorem 1), P[B > b] <= exp(-R KL((b + 1) / r || m δ / k)) where
(b + 1) / r is above m δ / k; KL is the divergence of two coins with these chances.

Proof, after Steinke, Nasr & Jagielski (2023, arXiv:2305.08846, section 5). Reveal the coins one by
one. Let p1 and p0 be the densities of a release's output y if its i-th coin is 1 or 0, given the
coins before it, over the coins after it: mixtures of (ε, δ)-close distributions, so (ε, δ)-close.
The excesses (p1 - e^ε p0)+ and (p0 - e^ε p1)+ have mass δ at most. Call user i *exposed* with
chance (excess of its coin's density) / (that density), by a coin of its own. Whatever came before,
that happens with probability δ/2 + δ/2 at most. Given y, what came before, and that user i is not
exposed, the odds of its coin are min(p1, e^ε p0) : min(p0, e^ε p1), between e^-ε and e^ε. So every
guess about it that is a function of the outputs is wrong with chance at least 1 / (1 + e^ε).
Other releases' outputs do not change these odds: they are independent of this one's coins.
B counts the exposed users among the guesses, at most k a release; it is at most the sum over
releases of min(k, exposed users), which are independent and have mean m δ at most. If B <= b, at
least r - b guesses are about users who are not exposed, and among the first r - b of these the
number of wrong guesses dominates the binomial.

Compared with their theorem 5.2 (`simulations.audit.epsilon_bounds.p_value`), which holds for one
release: there all failures of probability δ may happen together, and cost up to 1 / error times
their mean; over independent releases they cannot, and cost little more than their mean.

No distribution of scores is assumed. Only the choice of k (`planned_guesses`) is made for Gaussian
noise, and before anything is seen.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import xlogy
from scipy.stats import beta, norm

from simulations.audit.epsilon_bounds import Guesses, gaussian_separation

__all__ = [
    "exposure_tail",
    "guess_pooled",
    "largest_pooled",
    "planned_guesses",
    "pooled_lower_bound",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_LARGEST = 50.0
"""Largest ε that a bound reports."""
_PLANNED_SHARE = 0.9
"""Of the error: for the planned number of guesses; the rest is for guesses about all users."""
_NEGLIGIBLE = 1e-3
"""Share of the error below which the exposed users' part is not made smaller."""
_TRIED = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Numbers of guesses a release among which the plan chooses."""


def exposure_tail(releases: int, guesses: int, users: int, delta: float) -> Floats:
    """Bound P[B > b] for b = 0, 1, ..., r - 1: how many guesses δ may give away.

    Args:
        releases: R, >= 1.
        guesses: k a release, >= 1.
        users: m of a release, >= k.
        delta: in [0, 1].

    >>> exposure_tail(2, 1, 1, 0.0).tolist()
    [0.0, 0.0]
    """
    total = releases * guesses
    reached = np.arange(1, total + 1) / total
    mean = min(users * delta / guesses, 1.0)
    if mean in (0.0, 1.0):
        return np.full(total, mean)
    divergence = (
        xlogy(reached, reached / mean)
        + xlogy(1 - reached, 1 - reached)
        - (1 - reached) * math.log1p(-mean)
    )
    return np.where(reached > mean, np.exp(-releases * divergence), 1.0)


def pooled_lower_bound(
    wrong: int, *, releases: int, guesses: int, users: int, delta: float, confidence: float
) -> float:
    """Return the smallest ε that is consistent with so few wrong guesses; 0 proves nothing.

    Args:
        wrong: w, in 0..r.
        releases: R, >= 1; fixed beforehand, as are the next two.
        guesses: k a release, >= 1.
        users: m of a release, >= k.
        delta: of the claim.
        confidence: probability at least that the true ε is not below the result, in (0, 1).

    >>> arguments = {"releases": 100, "guesses": 1, "users": 1, "confidence": 0.95}
    >>> round(pooled_lower_bound(0, delta=0.0, **arguments), 2)
    3.49
    """
    total = releases * guesses
    if not 0 <= wrong <= total:
        raise ValueError(f"{wrong} of {total} guesses wrong: not possible")
    tail, allowed = exposure_tail(releases, guesses, users, delta), 1 - confidence
    # A larger b than the first with a negligible tail only costs guesses.
    tail = tail[: 1 + np.count_nonzero(tail > _NEGLIGIBLE * allowed)]  # it does not rise with b
    exposed = np.arange(len(tail))  # b
    useful = (tail < allowed) & (total - exposed > wrong)
    if not useful.any():
        return 0.0
    error, kept = allowed - tail[useful], total - exposed[useful]
    # The largest chance of a wrong guess at which so few are not too rare (Clopper & Pearson 1934).
    highest = beta.isf(error, wrong + 1, kept - wrong)
    return float(np.clip(np.max(np.log1p(-highest) - np.log(highest)), 0.0, _LARGEST))


@lru_cache(maxsize=64)
def planned_guesses(
    releases: int, users: int, *, epsilon: float, delta: float, confidence: float
) -> int:
    """Return the number of guesses a release that would prove most for Gaussian noise at the claim.

    Few guesses are surer, many are more certain to be no accident.

    Args:
        releases: R.
        users: m of a release, >= 2.
        epsilon: claimed, > 0.
        delta: claimed.
        confidence: of the bound.

    Returns:
        An even number in 2..m.
    """
    separation = gaussian_separation(epsilon, delta)

    def proven(guesses: int) -> float:
        share = _wrong_share(guesses / users, separation)
        wrong = math.ceil(share * releases * guesses)
        return pooled_lower_bound(
            wrong,
            releases=releases,
            guesses=guesses,
            users=users,
            delta=delta,
            confidence=confidence,
        )

    return max((k for k in _TRIED if k <= users), key=proven)


def guess_pooled(
    scores: Floats, inside: Bools, *, epsilon: float, delta: float, confidence: float
) -> Guesses:
    """Guess that the highest scores of each release are in and the lowest out.

    A planned number of guesses is tried, and guesses about all; each has its share of the error.

    Args:
        scores: higher for a user who is likelier to be in, [R, m]; compared within a release.
        inside: the coins, [R, m].
        epsilon: claimed; it decides how many are guessed.
        delta: claimed.
        confidence: of the result, over both tries.

    Returns:
        The better of both.
    """
    releases, users = scores.shape
    order = np.argsort(scores, axis=1, kind="stable")
    sorted_coins = np.take_along_axis(inside, order, axis=1)
    best = Guesses(guesses=0, correct=0, epsilon=0.0)
    for guesses, each in _tries(releases, users, epsilon, delta, confidence):
        half = guesses // 2
        wrong = int(sorted_coins[:, :half].sum() + (~sorted_coins[:, users - half :]).sum())
        bound = pooled_lower_bound(
            wrong, releases=releases, guesses=guesses, users=users, delta=delta, confidence=each
        )
        if bound > best.epsilon or not best.guesses:
            total = releases * guesses
            best = Guesses(guesses=total, correct=total - wrong, epsilon=bound)
    return best


def largest_pooled(
    releases: int, users: int, *, epsilon: float, delta: float, confidence: float
) -> float:
    """Return what `guess_pooled` proves if every guess is right."""
    return max(
        pooled_lower_bound(
            0, releases=releases, guesses=guesses, users=users, delta=delta, confidence=each
        )
        for guesses, each in _tries(releases, users, epsilon, delta, confidence)
    )


def _tries(
    releases: int, users: int, epsilon: float, delta: float, confidence: float
) -> list[tuple[int, float]]:
    """Return each number of guesses a release, with the confidence of its bound."""
    error = 1 - confidence
    planned = 1 - _PLANNED_SHARE * error
    chosen = planned_guesses(releases, users, epsilon=epsilon, delta=delta, confidence=planned)
    return [(chosen, planned), (users - users % 2, 1 - (1 - _PLANNED_SHARE) * error)]


def _wrong_share(share: float, separation: float) -> float:
    """Return how often guesses about the most extreme `share` of the users are wrong.

    Scores are unit normals, `separation` apart for users in and out; half of the guesses are about
    the highest scores, half about the lowest.
    """

    def excess(threshold: float) -> float:
        return float(norm.sf(threshold) + norm.sf(threshold - separation)) - share

    # Guesses about all users are the highest half and the lowest half.
    threshold = float(brentq(excess, separation / 2, 40.0)) if share < 1 else separation / 2
    out, within = norm.logsf(threshold), norm.logsf(threshold - separation)
    return float(1 / (1 + math.exp(within - out)))
