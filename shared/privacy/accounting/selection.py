"""The ε of releasing only the best of K runs, where K is random.

Papernot & Steinke, "Hyperparameter Tuning with Rényi Differential Privacy" (arXiv:2110.03620v2):
theorem 2 for the truncated negative binomial distribution, theorem 6 for the Poisson one.

| distribution of K   | P[K = k]                 | least K | the best of K costs about     |
|---------------------|--------------------------|---------|-------------------------------|
| geometric (η = 1)   | γ (1 - γ)^(k-1)          | 1       | 3 runs, and log E[K]          |
| logarithmic (η = 0) | (1 - γ)^k / (k log(1/γ)) | 1       | 2 runs, and log E[K]          |
| Poisson (μ)         | μ^k exp(-μ) / k!         | 0       | 1 run, where one costs little |

The bound requires all of the following:

- The distribution of K and the distribution of a run's parameters are public and fixed in advance.
- Each run draws its own parameters independently of the other runs.
- Each run, together with the score by which it is compared, satisfies the given divergences.
- Only the best run and its score are released; K and the other runs stay secret.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from shared.errors import AccountingError
from shared.privacy.accounting.accountant import divergences
from shared.privacy.accounting.renyi import ORDERS, epsilon_of
from shared.privacy.release import Release

__all__ = ["TrialLaw", "best_of", "draw_trials", "selection_epsilon"]

Curve = NDArray[np.float64]


class TrialLaw(StrEnum):
    """Distribution of the number of runs K."""

    GEOMETRIC = "geometric"
    LOGARITHMIC = "logarithmic"
    POISSON = "poisson"


def selection_epsilon(
    forms: Sequence[Sequence[Release]], delta: float, *, law: TrialLaw, mean: float
) -> float:
    """Return the ε of releasing only the best of K runs.

    Args:
        forms: the releases of a run, for each choice of parameters that it may draw; the worst
            divergence counts at each order.
        delta: in (0, 1).
        law: distribution of K.
        mean: E[K], >= 1.

    Returns:
        An upper bound from Rényi divergences; infinite if a run is not private.

    Raises:
        AccountingError: the mean or delta is out of range.
    """
    if not 0 < delta < 1:
        raise AccountingError(f"delta must be in (0, 1), not {delta}: choose one below 1/users.")
    curves = [divergences(releases) for releases in forms]
    return epsilon_of(best_of(np.max(curves, axis=0), law, mean), delta)


def best_of(curve: Curve, law: TrialLaw, mean: float) -> Curve:
    """Return the Rényi divergences, at `ORDERS`, of the best of K runs.

    Args:
        curve: the divergences of one run at `ORDERS`, >= 0.
        law: distribution of K.
        mean: E[K], >= 1.

    Raises:
        AccountingError: the mean is below 1 or not finite.
    """
    if not 1 <= mean < math.inf:
        raise AccountingError(f"{mean} trials on average: choose a number of 1 or more.")
    extra = _poisson(curve, mean) if law is TrialLaw.POISSON else _truncated(curve, law, mean)
    bounds = curve + extra + math.log(mean) / (ORDERS - 1)
    # Divergence grows with the order, so a bound at a higher order holds at all lower orders.
    return np.asarray(np.minimum.accumulate(bounds[::-1])[::-1])


def _truncated(curve: Curve, law: TrialLaw, mean: float) -> float:
    """Return theorem 2's (1 + η) ((1 - 1/α) ε(α) + log(1/γ) / α) at the best order α >= 1."""
    eta = 1 if law is TrialLaw.GEOMETRIC else 0
    log_inverse_gamma = -math.log(_gamma(law, mean))
    at_one = log_inverse_gamma  # at α = 1 the factor of ε(α) is 0
    at_orders = (1 - 1 / ORDERS) * curve + log_inverse_gamma / ORDERS
    return (1 + eta) * min(at_one, float(np.min(at_orders)))


def _poisson(curve: Curve, mean: float) -> Curve:
    """Return theorem 6's μ δ(ε), where exp(ε) = 1 + 1 / (α - 1) and one run is (ε, δ(ε))-DP."""
    return np.array([mean * _delta(curve, -math.log1p(-1 / order)) for order in ORDERS])


def _delta(curve: Curve, epsilon: float) -> float:
    """Return the δ <= 1 at ε, by the conversion of `epsilon_of`."""
    logs = (ORDERS - 1) * (curve + np.log1p(-1 / ORDERS) - epsilon) - np.log(ORDERS)
    return math.exp(min(0.0, float(np.min(logs))))


def _gamma(law: TrialLaw, mean: float) -> float:
    """Return the γ in (0, 1] for which E[K] is `mean`, rounded down: a smaller γ is safe."""
    if law is TrialLaw.GEOMETRIC:
        return 1 / mean
    if mean == 1:
        return 1.0
    from scipy.optimize import brentq  # noqa: PLC0415 as in `composition`

    def excess(log_odds: float) -> float:
        odds = math.exp(log_odds)  # 1 / γ - 1; then E[K] = odds / log(1 + odds)
        return odds / math.log1p(odds) - mean

    high = math.log(2 * mean * math.log(2 * mean + 3) + 3)
    return (1 - 1e-9) / (1 + math.exp(brentq(excess, -40.0, high)))


def draw_trials(law: TrialLaw, mean: float, random: np.random.Generator) -> int:
    """Draw K.

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
