"""From a score to a probability, and from a probability to a decision, on held-out users.

Both are exact functions of those users: they stay where the users' data are. A partner fits them at
home; the lab fits them on users that neither training nor the test has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

__all__ = ["best_threshold", "fit_platt", "platt"]

Floats = NDArray[np.float64]


def platt(scores: Floats, slope: float, offset: float) -> Floats:
    """Return sigmoid(slope * score + offset)."""
    result: Floats = 1 / (1 + np.exp(-np.clip(slope * scores + offset, -700, 700)))
    return result


def fit_platt(scores: Floats, labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the slope (>= 0) and offset with which `platt` fits the labels best.

    Platt, "Probabilistic Outputs for Support Vector Machines", 1999, with that paper's targets
    (n₁ + 1) / (n₁ + 2) and 1 / (n₀ + 2), so that separable scores stay finite. A slope below 0
    would turn the order round on the word of few users; it is fitted as 0.

    Args:
        scores: finite, [users].
        labels: who over-used, [users].

    >>> slope, offset = fit_platt(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 1]) > 0)
    >>> slope > 0, bool(abs(platt(np.array([1.5]), slope, offset)[0] - 0.5) < 1e-3)
    (True, True)
    """
    positives = int(labels.sum())
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    spread = float(scores.std()) or 1.0
    standard = (scores - scores.mean()) / spread

    def loss(at: Floats) -> tuple[float, Floats]:
        logits = at[0] * standard + at[1]
        residual = 1 / (1 + np.exp(-np.clip(logits, -700, 700))) - target
        value = float((np.logaddexp(0, logits) - target * logits).sum())
        return value, np.array([(residual * standard).sum(), residual.sum()])

    fit = minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=[(0, None), (None, None)])
    slope = float(fit.x[0]) / spread
    return slope, float(fit.x[1]) - slope * float(scores.mean())


def best_threshold(risk: Floats, labels: NDArray[np.bool_]) -> float:
    """Return the risk from which on to say "at risk" for the highest F1; 1 if nobody over-used.

    >>> best_threshold(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]) > 0)
    0.35
    """
    if not labels.any():
        return 1.0
    order = np.argsort(-risk, kind="stable")
    hits, said = np.cumsum(labels[order]), np.arange(1, len(order) + 1)
    scores = 2 * hits / (said + labels.sum())
    last_of_equal = np.append(np.diff(risk[order]) != 0, True)
    best = int(np.argmax(np.where(last_of_equal, scores, -1)))
    return float(risk[order][best])
