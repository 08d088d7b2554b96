"""Rényi divergences against Opacus's, and against numerical integration."""

from __future__ import annotations

import numpy as np
import pytest
from opacus.accountants.analysis import rdp
from scipy import integrate, stats

from shared.privacy.accounting import renyi
from shared.privacy.accounting.renyi import Renyi


@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("noise", [0.3, 0.6, 1.0, 5.0, 50.0])
def test_divergences_are_those_of_opacus(noise: float, rate: float) -> None:
    orders = [float(order) for order in renyi._WHOLE]
    expected = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders)
    got = renyi._curve(noise, rate)[-len(orders) :]
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-13)
    assert (got >= expected - 1e-13).all()


@pytest.mark.parametrize("form", [(0.5, 0.1), (1.0, 0.3), (3.0, 0.01)], ids=str)
@pytest.mark.parametrize("index", [0, 3, 9, 10, 12])
def test_divergences_are_never_below_their_integral(form: tuple[float, float], index: int) -> None:
    (noise, rate), order = form, float(renyi.ORDERS[index])

    def density(x: float) -> float:
        ratio = 1 - rate + rate * np.exp((x - 0.5) / noise**2)
        return float(stats.norm.pdf(x / noise) / noise * ratio**order)

    whole, _ = integrate.quad(
        density, -12 * noise, order + 12 * noise, limit=400, points=[0, order]
    )
    exact = np.log(whole) / (order - 1)
    got = renyi._curve(noise, rate)[index]
    assert got >= exact - 1e-9
    if order >= 2:
        assert got == pytest.approx(exact, rel=1e-6, abs=1e-9)


def test_the_conversion_is_that_of_opacus() -> None:
    bound = Renyi([(1.0, 0.05, 100), (2.0, 0.1, 30)])
    expected, order = rdp.get_privacy_spent(orders=list(renyi.ORDERS), rdp=bound.curve, delta=1e-5)
    assert bound.epsilon(1e-5) == pytest.approx(expected)
    assert bound.best_order(1e-5) == order
