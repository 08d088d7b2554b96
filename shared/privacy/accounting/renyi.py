"""The Rényi bound on ε: cheap, never below the true value, and loose by about ten percent.

Rényi divergence of the Poisson-subsampled Gaussian: Mironov, Talwar & Zhang 2019
(arXiv:1908.10530). Conversion to ε: Balle et al. 2020 (arXiv:1905.09982), theorem 21.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from shared.privacy.accounting.composition import Form

__all__ = ["ORDERS", "Renyi", "epsilon_of"]

_WHOLE = np.array(
    [*range(2, 16), *range(16, 32, 2), *range(32, 64, 4), 64, 96, 128, 192, 256, 512, 1024]
)
_BELOW_TWO = [1.02, 1.05, 1.1, 1.15, 1.2, 1.27, 1.35, 1.5, 1.65, 1.8]
ORDERS = np.concatenate([_BELOW_TWO, _WHOLE])
"""Orders α > 1, ascending, at which divergences are bounded."""

# All terms of Mironov et al.'s sum, concatenated over the integer orders.
_TERM = np.concatenate([np.arange(order + 1.0) for order in _WHOLE])
_ORDER = np.repeat(_WHOLE, _WHOLE + 1).astype(float)
_LOG_BINOMIAL = gammaln(_ORDER + 1) - gammaln(_TERM + 1) - gammaln(_ORDER - _TERM + 1)
_STARTS = np.concatenate([[0], np.cumsum(_WHOLE + 1)[:-1]])

_ROUNDING = 1e-14
"""Larger than the sum's rounding error at any order; it is added, so that the bound holds."""


class Renyi:
    """The Rényi divergences of several releases together.

    Args:
        forms: distinct releases, at least one, each as (noise multiplier, sample rate, steps).

    Attributes:
        curve: an upper bound on the divergence at each of `ORDERS`, >= 0.
    """

    def __init__(self, forms: Sequence[Form]) -> None:
        self.curve: NDArray[np.float64] = np.zeros(len(ORDERS))
        for noise, rate, steps in forms:
            with np.errstate(all="ignore"):
                self.curve += steps * _curve(noise, rate)

    def epsilon(self, delta: float) -> float:
        """Return an upper bound >= 0 on ε at `delta` in (0, 1); infinite if no order has one."""
        return epsilon_of(self.curve, delta)

    def best_order(self, delta: float) -> float:
        """Return the order > 1 with the smallest bound at `delta`."""
        return float(ORDERS[np.argmin(_bounds(self.curve, delta))])


def epsilon_of(curve: NDArray[np.float64], delta: float) -> float:
    """Convert divergences at `ORDERS` to ε >= 0 at `delta` in (0, 1), or to infinity."""
    return max(0.0, float(np.min(_bounds(curve, delta))))


def _bounds(curve: NDArray[np.float64], delta: float) -> NDArray[np.float64]:
    # Balle et al. 2020, theorem 21: ε = D_α + log(1 - 1/α) - (log δ + log α) / (α - 1).
    gain = np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return np.asarray(curve + gain)


@lru_cache(maxsize=4096)
def _curve(noise: float, rate: float) -> NDArray[np.float64]:
    if noise**2 == 0:  # underflow
        return np.full(len(ORDERS), np.inf)
    if rate == 1:
        return np.asarray(ORDERS / (2 * noise**2))
    at_integers = _integer_orders(noise, rate)
    # Divergence grows with the order, so the value at order 2 bounds all orders below 2. For little
    # noise this bound is too loose, and Opacus's series for fractional orders is used; for more
    # noise that series takes seconds.
    below = np.full(len(_BELOW_TWO), at_integers[0])
    if noise < 0.7:
        # torch and much else come with it, which few processes need.
        from opacus.accountants.analysis import rdp  # noqa: PLC0415

        try:
            exact = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=_BELOW_TWO)
            below = np.fmin(below, exact)
        except (ArithmeticError, ValueError):  # a parameter at the edge of the floating range
            pass
    return np.concatenate([below, at_integers])


def _integer_orders(noise: float, rate: float) -> NDArray[np.float64]:
    """Evaluate equation 30 of Mironov et al. at the integer orders; infinite out of range."""
    chosen = _TERM * math.log(rate) + (_ORDER - _TERM) * math.log1p(-rate)
    terms = _LOG_BINOMIAL + chosen + _TERM * (_TERM - 1) / (2 * noise**2)
    curve = np.logaddexp.reduceat(terms, _STARTS) / (_WHOLE - 1)
    return np.where(np.isfinite(curve), np.maximum(curve, 0.0) + _ROUNDING, np.inf)
