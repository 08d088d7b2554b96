"""What it costs to release only the best of K runs, where K is drawn at random.

Papernot & Steinke, "Hyperparameter Tuning with Rényi Differential Privacy" (arXiv:2110.03620v2):
theorem 2 for the truncated negative binomial distribution, theorem 6 for the Poisson one.

| K is drawn          | P[K = k]                 | least K | the best of K costs about     |
|---------------------|--------------------------|---------|-------------------------------|
| geometric (η = 1)   | γ (1 - γ)^(k-1)          | 1       | 3 runs, and log E[K]          |
| logarithmic (η = 0) | (1 - γ)^k / (k log(1/γ)) | 1       | 2 runs, and log E[K]          |
| Poisson (μ)         | μ^k exp(-μ) / k!         | 0       | 1 run, where one costs little |

What must hold, else there is no such bound: the distribution of K is public and fixed before, and
so is that of a run's parameters; every run draws its own, knowing nothing of the others, and is as
private as the divergences say, with the score by which it is compared; nothing but the best run,
with its score, ever leaves; K itself stays secret, and so do the other runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from shared.errors import AccountingError
from shared.privacy.accounting.accountant import divergences
from shared.privacy.accounting.renyi import ORDERS, epsilon_of
from shared.privacy.release import Release

__all__ = ["TrialLaw", "best_of", "draw_trials", "selection_epsilon"]

Curve = NDArray[np.float64]


class TrialLaw(StrEnum):
    """How the number of runs K is drawn."""

    GEOMETRIC = "geometric"
    LOGARITHMIC = "logarithmic"
    POISSON = "poisson"


def selection_epsilon(
    forms: Sequence[Sequence[Release]], delta: float, *, law: TrialLaw, mean: float
) -> float:
    """The ε of releasing the best of K runs alone.

    Args:
        forms: what a run may release, for each choice of parameters that it may draw; the worst
            counts, order by order.
        delta: in (0, 1).
        law: how K is drawn.
        mean: of K, >= 1.

    Returns:
        An upper bound, by way of Rényi divergences; infinity where a run is not private.

    Raises:
        AccountingError: the mean or delta is out of range.
    """
    if not 0 < delta < 1:
        raise AccountingError(f"delta must be in (0, 1), not {delta}: choose one below 1/users.")
    curves = [divergences(releases) for releases in forms]
    return epsilon_of(best_of(np.max(curves, axis=0), law, mean), delta)


def best_of(curve: Curve, law: TrialLaw, mean: float) -> Curve:
    """The Rényi divergences, at `ORDERS`, of the best of K runs.

    Args:
        curve: those of one run, at `ORDERS`; >= 0.
        law: how K is drawn.
        mean: E[K], >= 1.

    Raises:
        AccountingError: the mean is below 1 or not finite.
    """
    if not 1 <= mean < math.inf:
        raise AccountingError(f"{mean} trials on average: choose a number of 1 or more.")
    more = _poisson(curve, mean) if law is TrialLaw.POISSON else _truncated(curve, law, mean)
    found = curve + more + math.log(mean) / (ORDERS - 1)
    # A divergence grows with its order: what bounds a higher one bounds all below.
    return np.asarray(np.minimum.accumulate(found[::-1])[::-1])


def _truncated(curve: Curve, law: TrialLaw, mean: float) -> float:
    """Theorem 2's (1 + η) ((1 - 1/α) ε(α) + log(1/γ) / α), at the best order α >= 1."""
    shape = 1 if law is TrialLaw.GEOMETRIC else 0
    surprise = -math.log(_gamma(law, mean))
    at_one = surprise  # ε(1) counts (1 - 1/1) times
    return (1 + shape) * min(at_one, float(np.min((1 - 1 / ORDERS) * curve + surprise / ORDERS)))


def _poisson(curve: Curve, mean: float) -> Curve:
    """Theorem 6's μ δ(ε), where exp(ε) = 1 + 1 / (α - 1) and one run is (ε, δ(ε))-private."""
    return np.array([mean * _delta(curve, -math.log1p(-1 / order)) for order in ORDERS])


def _delta(curve: Curve, epsilon: float) -> float:
    """The δ at ε, by the conversion of `epsilon_of`; at most 1."""
    logs = (ORDERS - 1) * (curve + np.log1p(-1 / ORDERS) - epsilon) - np.log(ORDERS)
    return math.exp(min(0.0, float(np.min(logs))))


def _gamma(law: TrialLaw, mean: float) -> float:
    """The γ in (0, 1] with which K has this mean; never above it by rounding."""
    if law is TrialLaw.GEOMETRIC:
        return 1 / mean
    if mean == 1:
        return 1.0

    def excess(log_odds: float) -> float:
        odds = math.exp(log_odds)  # 1 / γ - 1, whose mean is odds / log(1 + odds)
        return odds / math.log1p(odds) - mean

    high = math.log(2 * mean * math.log(2 * mean + 3) + 3)
    return (1 - 1e-9) / (1 + math.exp(brentq(excess, -40.0, high)))


def draw_trials(law: TrialLaw, mean: float, random: np.random.Generator) -> int:
    """Draws K.

    Raises:
        AccountingError: the mean is below 1 or not finite.
    """
    if not 1 <= mean < math.inf:
        raise AccountingError(f"{mean} trials on average: choose a number of 1 or more.")
    if law is TrialLaw.POISSON:
        return int(random.poisson(mean))
    if law is TrialLaw.GEOMETRIC:
        return int(random.geometric(1 / mean))
    share = 1 - _gamma(law, mean)
    return int(random.logseries(share)) if share > 0 else 1
