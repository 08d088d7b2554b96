"""Inverse propensity: what is learned from choices, corrected for what was seen.

What is shown at the top is looked at more often, and so it is chosen more often, whatever it is. In
the position-based model a choice at position p has the probability P(look at p) · P(choice | look),
and a look at p the propensity p^-η (Joachims, Swaminathan & Schnabel, "Unbiased Learning-to-Rank
with Biased Feedback", WSDM 2017, doi:10.1145/3018661.3018699). A sum in which each choice is
weighed by 1 / P(look at p) has the expectation that it would have if everything that was shown were
looked at. What is never shown has the propensity 0, and no weight corrects for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["corrected_rate", "look_probabilities", "weighted_mean"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def look_probabilities(positions: Ints, eta: float) -> Floats:
    """Return the probability p^-η of a look at each position.

    Args:
        positions: from 1.
        eta: η >= 0; 0 says that all positions are looked at.

    Raises:
        ValueError: a position is below 1, or η is below 0.

    >>> look_probabilities(np.array([1, 2, 4]), 1.0).tolist()
    [1.0, 0.5, 0.25]
    """
    if not eta >= 0 or (len(positions) and positions.min() < 1):
        raise ValueError(f"eta = {eta} must be at least 0, and positions count from 1")
    return positions.astype(np.float64) ** -eta


def corrected_rate(chosen: NDArray[np.bool_], looks: Floats, users: Ints) -> tuple[float, float]:
    """Return the share of shown items that are chosen if they are looked at, and its error.

    The estimate is (1 / N) Σ chosen / P(look), over N items that were shown (Joachims et al. 2017).

    Args:
        chosen: [N], whether each item that was shown was chosen.
        looks: [N], the probability of a look at it.
        users: [N], whose list it was in, by any number.

    Returns:
        The rate, and its standard error, clustered by user.

    >>> seen = np.array([True, False, True, False]), np.array([1.0, 1.0, 0.5, 0.5])
    >>> corrected_rate(*seen, np.array([0, 1, 2, 3]))[0]  # (1 + 2) / 4
    0.75
    """
    return weighted_mean(chosen / looks, np.ones(len(looks)), users)


def weighted_mean(values: Floats, weights: Floats, users: Ints) -> tuple[float, float]:
    """Return a mean with weights, and its standard error, clustered by user.

    With weights 1 / P(look) it is the self-normalised estimator Σ w x / Σ w (Swaminathan &
    Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NeurIPS 2015; for
    recommendations Schnabel et al., "Recommendations as Treatments", ICML 2016). Its error is that
    of the linearised ratio, with one residual a user: √(Σ_users (Σ_own w (x - mean))²) / Σ w.

    Args:
        values: x, [N].
        weights: w > 0, [N].
        users: [N], whose each one is, by any number.

    Raises:
        ValueError: there is no value.

    >>> mean, error = weighted_mean(np.array([1.0, 0.0]), np.array([3.0, 1.0]), np.array([0, 1]))
    >>> mean, round(error, 4)
    (0.75, 0.2652)
    """
    if not len(values):
        raise ValueError("there is nothing to take the mean of")
    whole = weights.sum()
    mean = float((weights * values).sum() / whole)
    _, own = np.unique(users, return_inverse=True)
    residuals = np.bincount(own, weights * (values - mean))
    return mean, float(np.sqrt((residuals**2).sum()) / whole)
