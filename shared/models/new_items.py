"""Offsets of items that joined the catalogue after training, estimated from their features.

An offset is an item's learned popularity. That of the trained items is regressed on their features,
with a ridge that generalised cross-validation chooses; new items get what the regression says. It
uses the model and public features alone, so it costs no ε.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["expected_offsets"]

_RIDGES = np.logspace(-4, 3, 29)
"""Ridges that are tried, over the mean eigenvalue of the features' covariance."""

Floats = NDArray[np.float64]


def expected_offsets(
    features: NDArray[np.floating], offsets: NDArray[np.floating], new: NDArray[np.bool_]
) -> Floats:
    """Return what features say of all items' offsets, [V].

    Ridge regression with an intercept; the ridge is that of the least GCV = n RSS / (n - df)²
    (Golub, Heath & Wahba, "Generalized Cross-Validation as a Method for Choosing a Good Ridge
    Parameter", Technometrics 21(2), 1979). An item without features, or any item where features say
    nothing of offsets, is near the mean.

    Args:
        features: of all items, [V, F].
        offsets: [V]; those of new items are not looked at.
        new: whether an item is new, [V]; not all are.

    Raises:
        ValueError: all items are new.

    >>> own = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
    >>> new = np.array([False, False, False, False, True])
    >>> expected_offsets(own, 2 * own[:, 0], new).round(1).tolist()
    [2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if new.all():
        raise ValueError("all items are new: there is nothing to learn their offsets from")
    known = np.asarray(features[~new], np.float64)
    centre, mean = known.mean(0), float(offsets[~new].mean())
    known, target = known - centre, offsets[~new].astype(np.float64) - mean
    values, basis = np.linalg.eigh(known.T @ known)
    values = values.clip(min=0)
    if not values.sum() > 0:
        return np.full(len(features), mean)
    along = basis.T @ (known.T @ target)  # [F]
    ridges = _RIDGES * values.mean()
    shrunk = 1 / (values + ridges[:, None])  # [R, F]
    residual = (target**2).sum() - (along**2 * (2 * shrunk - values * shrunk**2)).sum(1)
    free = len(target) - 1 - (values * shrunk).sum(1)
    scores = np.where(free > 0, residual.clip(min=0) / np.where(free > 0, free, 1) ** 2, np.inf)
    weights = basis @ (shrunk[scores.argmin()] * along)
    expected: Floats = mean + (features - centre) @ weights
    return expected
