"""ε against another implementation, closed forms and cheaper bounds; noise against its target."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from functools import cache

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import GaussianAccountant, PRVAccountant, RDPAccountant
from opacus.accountants.analysis import prv
from scipy.optimize import brentq
from scipy.special import log_ndtr

from shared.errors import AccountingError
from shared.privacy import accounting
from shared.privacy.accounting import SMALLEST_NOISE, epsilon, noise_multiplier_for
from shared.privacy.release import Release, ReleaseKind

DELTA = 1e-5
Form = tuple[float, float, int]
"""Noise multiplier, sample rate, steps."""

few = settings(max_examples=8, deadline=None)
forms = st.tuples(st.floats(0.7, 20), st.floats(0.01, 1), st.integers(1, 100))

GRID: list[Form] = [
    (0.5, 0.01, 200),
    (0.8, 0.1, 60),
    (1.0, 0.05, 1000),
    (1.0, 1.0, 1),
    (3.0, 0.1, 60),
    (3.0, 0.5, 2000),
    (5.0, 1.0, 40),
    (11.0, 0.05, 1000),
    (20.0, 1.0, 60),
    (23.0, 0.5, 5000),
    (30.0, 0.2, 10),
]


def release(noise_multiplier: float, sample_rate: float, steps: int) -> Release:
    return Release(
        kind=ReleaseKind.TRAIN,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )


def cost(*forms: Form, delta: float = DELTA) -> float:
    return epsilon([release(*form) for form in forms], delta)


@cache
def by_loss_distributions(*forms: Form, delta: float = DELTA) -> float:
    """The ε that Google's accountant reports, an upper bound too."""
    mesh = 1e-4 if forms[0][0] > 10 else 5e-4  # losses are small where noise is large
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=mesh
    )
    for noise_multiplier, sample_rate, steps in forms:
        event = dp_accounting.GaussianDpEvent(noise_multiplier)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(sample_rate, event), steps)
    return float(accountant.get_epsilon(delta))


def by_opacus(accountant: type, *forms: Form, delta: float = DELTA) -> float:
    asked = accountant()
    asked.history = list(forms)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(asked.get_epsilon(delta))


def of_gaussian(noise_multiplier: float, steps: int, delta: float) -> float:
    """The exact ε of `steps` sums of everybody (Balle & Wang 2018, arXiv:1805.06530)."""
    shift = math.sqrt(steps) / noise_multiplier

    def excess(eps: float) -> float:
        low, high = log_ndtr(shift / 2 - eps / shift), log_ndtr(-shift / 2 - eps / shift)
        return math.exp(low) - math.exp(eps + high) - delta

    return float(brentq(excess, 0, 20_000, xtol=1e-9))


# --- agreement ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "delta"),
    [*((form, DELTA) for form in GRID), *itertools.product(GRID[2:7:2], [1e-3, 1e-8])],
    ids=str,
)
def test_epsilon_agrees_with_another_implementation(form: Form, delta: float) -> None:
    expected = by_loss_distributions(form, delta=delta)
    assert cost(form, delta=delta) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "different",
    [
        [(1.0, 0.05, 500), (2.0, 0.05, 500)],
        [(1.5, 0.2, 30), (5.0, 1.0, 10), (0.7, 0.01, 100)],
        [(3.0, 0.1, 60), (3.0, 0.2, 60), (4.0, 0.1, 60), (4.0, 0.2, 60), (9.0, 0.5, 200)],
        [(3.0, 1.0, 1), (0.8, 0.1, 5)],
    ],
    ids=len,
)
def test_epsilon_of_different_releases_agrees_with_another_implementation(
    different: list[Form],
) -> None:
    expected = by_loss_distributions(*different)
    assert cost(*different) == pytest.approx(expected, rel=0.01)
    assert cost(*different) > 1.02 * max(cost(form) for form in different)


@pytest.mark.parametrize("delta", [0.1, 1e-3, 1e-6, 1e-9, 1e-11])
@pytest.mark.parametrize(
    "form", [(20.0, 60), (3.0, 60), (0.5, 1), (200.0, 10_000), (500.0, 50_000)], ids=str
)
def test_epsilon_is_never_below_the_exact_one(form: tuple[float, int], delta: float) -> None:
    """With everybody in every sum there is a closed form."""
    exact = of_gaussian(*form, delta)
    got = cost((form[0], 1.0, form[1]), delta=delta)
    assert exact * 1.0005 <= got  # the numerical error is on top
    # Where rounding would count, the Rényi bound is reported.
    assert got <= exact * (1.06 if delta < 100 * form[1] * 2.3e-16 else 1.01)


@pytest.mark.parametrize("form", [(0.15, 10), (0.1, 30), (0.06, 50)], ids=str)
def test_a_very_large_epsilon_is_bounded_too(form: tuple[float, int]) -> None:
    """Beyond 709 the exponential of ε is no number."""
    exact = of_gaussian(*form, DELTA)
    assert exact > 300
    assert exact <= cost((form[0], 1.0, form[1])) <= 1.2 * exact


def test_the_grid_is_as_fine_as_opacus_would_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    make = accounting._domain

    def recording(reach: float, mesh: float) -> prv.Domain:
        asked.append((reach, mesh))
        return make(reach, mesh)

    monkeypatch.setattr(accounting, "_domain", recording)
    some = [(1.375, 0.05, 300), (2.0, 0.1, 50)]
    got = cost(*some)
    error = got - by_loss_distributions(*some)
    opacus = PRVAccountant()._get_domain(
        prvs=[prv.PoissonSubsampledGaussianPRV(rate, noise) for noise, rate, _ in some],
        num_self_compositions=[steps for *_, steps in some],
        eps_error=error,
        delta_error=DELTA / 1000,
    )
    ((reach, mesh),) = asked
    assert mesh == pytest.approx(opacus.dt, rel=0.1)
    assert reach == pytest.approx(opacus.t_max, rel=0.1)
    domain = make(reach, mesh)
    assert domain.dt == pytest.approx(mesh)
    assert domain.t_max >= reach
    assert domain.t_min <= -reach


@pytest.mark.parametrize("fault", [RuntimeError, ValueError])
def test_where_composition_fails_the_renyi_bound_stands_in(
    fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise fault

    form = (1.0, 0.05, 777)
    sharp = by_loss_distributions(form)
    monkeypatch.setattr(accounting, "_loss", failing)
    accounting._upper_bound.cache_clear()
    loose = cost(form)
    accounting._upper_bound.cache_clear()
    assert 1.05 * sharp < loose <= 1.05 * by_opacus(RDPAccountant, form)


@few
@given(st.lists(forms, min_size=1, max_size=3))
def test_epsilon_is_within_other_bounds(some: list[Form]) -> None:
    got, ceiling = cost(*some), by_opacus(RDPAccountant, *some)
    assert got <= ceiling * 1.05  # it tries more orders
    if 0.3 < ceiling < 50:
        assert got == pytest.approx(by_opacus(PRVAccountant, *some), rel=0.01, abs=0.011)


@pytest.mark.parametrize("form", [(1.0, 0.05, 1000), (0.8, 0.1, 60)])
def test_opacus_gdp_accountant_understates(form: Form) -> None:
    """Why it is never used for a claim."""
    with pytest.warns(UserWarning, match="underestimate"):
        understated = by_opacus(GaussianAccountant, form)
    assert understated < 0.97 * by_loss_distributions(form)
    assert understated < 0.97 * cost(form)


# --- what must hold ----------------------------------------------------------------------------


def test_nothing_released_costs_nothing_and_nothing_noised_costs_everything() -> None:
    assert epsilon([], DELTA) == 0
    assert cost((0.0, 0.1, 1)) == math.inf
    assert cost((3.0, 0.1, 60), (0.0, 0.001, 1)) == math.inf


def test_a_release_that_reaches_delta_alone_costs_nothing_at_it() -> None:
    assert cost((1e4, 0.001, 1), delta=1e-3) == 0


@settings(max_examples=4, deadline=None)
@given(forms, st.data())
def test_more_steps_less_noise_more_users_and_less_delta_cost_more(
    form: Form, data: st.DataObject
) -> None:
    noise, rate, steps = form
    more = data.draw(st.floats(1.02, 3))
    base = cost(form)
    assert base <= cost((noise, rate, math.ceil(steps * more)))
    assert base <= cost((noise / more, rate, steps))
    assert base <= cost((noise, min(1.0, rate * more), steps))
    assert base <= cost(form, delta=DELTA / more)
    assert base <= cost(form, (noise * more, rate, 1)) * (1 + 1e-9)


@pytest.mark.parametrize("form", [(1.0, 0.05, 400), (3.0, 0.1, 60), (40.0, 0.5, 3000)])
def test_each_step_costs(form: Form) -> None:
    """A site asks before every round: the answers must never fall."""
    noise, rate, steps = form
    costs = [cost((noise, rate, steps + more)) for more in range(6)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_equal_releases_cost_the_same_in_any_order_and_any_split() -> None:
    whole = cost((1.1, 0.05, 30), (2.0, 0.1, 20))
    pieces = [(1.1, 0.05, 10), (2.0, 0.1, 5), (1.1, 0.05, 20), (2.0, 0.1, 15)]
    for order in itertools.permutations(pieces):
        assert cost(*order) == whole


def test_a_long_alternating_history_is_fast() -> None:
    """Opacus alone takes minutes: it merges neighbours only."""
    history = [(1.3, 0.05, 1), (1.7, 0.05, 1)] * 150
    begin = time.perf_counter()
    assert cost(*history) == cost((1.3, 0.05, 150), (1.7, 0.05, 150))
    assert time.perf_counter() - begin < 5


def test_many_different_releases_are_bounded_in_time() -> None:
    """A coordinator that changes the noise in every round must not stall a site."""
    begin = time.process_time()
    got = cost(*((1.3 + 0.01 * i, 0.05, 1) for i in range(40)))
    assert cost((1.7, 0.05, 40)) < got < cost((1.3, 0.05, 40))
    assert cost(*((60 + 0.1 * i, 0.05, 1) for i in range(40))) < 0.1
    assert time.process_time() - begin < 20


@pytest.mark.parametrize("noise", [1e-300, 1e-160, 1e-5, 0.01, 1e6, 1e300])
@pytest.mark.parametrize("rate", [5e-324, 1e-12, 0.5, 1 - 2**-53, 1.0])
@pytest.mark.parametrize("steps", [1, 10**12, 10**30])
def test_absurd_parameters_have_a_bound_all_the_same(noise: float, rate: float, steps: int) -> None:
    """Quickly, in little memory, without a warning; infinity is a bound."""
    begin = time.perf_counter()
    got = cost((noise, rate, steps))
    assert time.perf_counter() - begin < 10
    assert got >= 0
    if noise <= 1e-5 and rate >= 0.5:
        assert got > 1e9


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan, math.inf])
def test_a_delta_outside_is_refused(delta: float) -> None:
    with pytest.raises(AccountingError, match="delta must be in"):
        cost((1.0, 0.1, 1), delta=delta)
    with pytest.raises(AccountingError, match="delta must be in"):
        epsilon([], delta)
    with pytest.raises(AccountingError, match="delta must be in"):
        noise_multiplier_for(1.0, delta, sample_rate=0.1, steps=1)


# --- the noise for a target --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "sample_rate", "steps", "delta"),
    [
        (0.05, 1.0, 10, 1e-5),
        (0.05, 1e-4, 20, 1e-6),
        (0.5, 0.05, 300, 1e-5),
        (1.0, 0.1, 60, 1e-5),
        (3.0, 0.01, 500, 1e-6),
        (8.0, 0.1, 60, 1e-5),
        (8.0, 0.5, 5000, 1e-6),
        (8.0, 1.0, 60, 1e-5),
        (100.0, 1e-4, 10, 1e-6),
        (100.0, 1.0, 1000, 1e-9),
    ],
)
def test_the_noise_meets_its_target_and_hardly_more(
    target: float, sample_rate: float, steps: int, delta: float
) -> None:
    noise = noise_multiplier_for(target, delta, sample_rate=sample_rate, steps=steps)
    assert 0.999 * target <= cost((noise, sample_rate, steps), delta=delta) <= target
    assert cost((0.99 * noise, sample_rate, steps), delta=delta) > target


@settings(max_examples=4, deadline=None)
@given(st.floats(0.3, 30), st.floats(0.005, 1), st.integers(1, 500))
def test_the_noise_is_on_the_private_side(target: float, sample_rate: float, steps: int) -> None:
    noise = noise_multiplier_for(target, DELTA, sample_rate=sample_rate, steps=steps)
    got = cost((noise, sample_rate, steps))
    assert got <= target
    assert got >= 0.999 * target or noise == SMALLEST_NOISE


def test_finding_the_noise_is_fast() -> None:
    begin = time.process_time()
    noise_multiplier_for(7.9, DELTA, sample_rate=0.1, steps=61)
    assert time.process_time() - begin < 1.5


def test_a_target_that_any_noise_meets_gets_the_smallest() -> None:
    got = noise_multiplier_for(8.0, 1e-3, sample_rate=1e-6, steps=1)
    assert got == SMALLEST_NOISE
    assert cost((got, 1e-6, 1), delta=1e-3) <= 8.0


@pytest.mark.parametrize("target", [300.0, 2000.0])
def test_beyond_the_usual_range_the_noise_is_still_private(target: float) -> None:
    noise = noise_multiplier_for(target, DELTA, sample_rate=0.1, steps=60)
    assert cost((noise, 0.1, 60)) <= target


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_a_target_that_is_no_positive_number_is_refused(target: float) -> None:
    with pytest.raises(AccountingError, match="positive number"):
        noise_multiplier_for(target, DELTA, sample_rate=0.1, steps=1)


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(AccountingError, match=r"no noise multiplier up to 10000.*fewer steps"):
        noise_multiplier_for(0.01, 1e-9, sample_rate=1.0, steps=10**8)
