"""ε against another implementation, closed forms and cheaper bounds; noise against its target."""

from __future__ import annotations

import ast
import itertools
import math
import time
import warnings
from functools import cache
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import GaussianAccountant, PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr

from shared.errors import AccountingError
from shared.privacy.accounting import accountant as accounting
from shared.privacy.accounting.accountant import (
    MAX_STEPS,
    SMALLEST_NOISE,
    epsilon,
    noise_multiplier_for,
    renyi_epsilon,
    steps_for,
)
from shared.privacy.release import Release, ReleaseKind

DELTA = 1e-5
Form = tuple[float, float, int]
"""Noise multiplier, sample rate, steps."""

few = settings(max_examples=8, deadline=None)
forms = st.tuples(st.floats(0.7, 20), st.floats(0.01, 1), st.integers(1, 100))

GRID: list[Form] = [
    (0.3, 1e-4, 1),
    (0.3, 1e-4, 10_000),
    (0.3, 0.01, 100),
    (0.5, 0.01, 200),
    (0.8, 0.1, 60),
    (1.0, 0.05, 1000),
    (1.0, 1.0, 1),
    (1.0, 0.001, 10_000),
    (3.0, 0.1, 60),
    (3.0, 0.5, 2000),
    (5.0, 1.0, 40),
    (11.0, 0.05, 1000),
    (20.0, 1.0, 60),
    (23.0, 0.5, 5000),
    (30.0, 0.2, 10),
    (50.0, 0.01, 10_000),
    (50.0, 1.0, 1),
    (50.0, 1.0, 10_000),
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
    total = sum(steps for *_, steps in forms)
    scale = by_opacus(RDPAccountant, *forms, delta=delta)  # its error grows with the steps
    mesh = float(np.clip(5e-3 * scale / math.sqrt(total), 1e-6, 1e-3))
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
    [*((form, DELTA) for form in GRID), *itertools.product(GRID[3:9:2], [1e-3, 1e-8])],
    ids=str,
)
def test_epsilon_agrees_with_another_implementation(form: Form, delta: float) -> None:
    expected = by_loss_distributions(form, delta=delta)
    assert 0.999 * expected <= cost(form, delta=delta) <= 1.002 * expected


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
    assert 0.999 * expected <= cost(*different) <= 1.002 * expected
    assert cost(*different) > 1.02 * max(cost(form) for form in different)


@pytest.mark.parametrize(
    "form", [(20.0, 60), (3.0, 60), (0.5, 1), (200.0, 10_000), (500.0, 50_000)], ids=str
)
def test_epsilon_is_never_below_the_exact_one(form: tuple[float, int]) -> None:
    """At sample rate 1 there is a closed form."""
    for delta in (0.1, 1e-3, 1e-6, 1e-9, 1e-11):
        exact = of_gaussian(*form, delta)
        got = cost((form[0], 1.0, form[1]), delta=delta)
        assert exact <= got, delta
        # Where rounding would matter, the Rényi bound is reported.
        assert got <= exact * (1.06 if delta < 100 * form[1] * 2.3e-16 else 1.001), delta


@pytest.mark.parametrize("form", [(0.15, 10), (0.1, 30), (0.06, 50)], ids=str)
def test_a_very_large_epsilon_is_bounded_too(form: tuple[float, int]) -> None:
    """Beyond 709 the exponential of ε is no number."""
    exact = of_gaussian(*form, DELTA)
    assert exact > 300
    assert exact <= cost((form[0], 1.0, form[1])) <= 1.2 * exact


@few
@given(st.lists(forms, min_size=1, max_size=3))
def test_epsilon_is_within_other_bounds(some: list[Form]) -> None:
    got, ceiling = cost(*some), by_opacus(RDPAccountant, *some)
    assert got <= cheap(*some) <= ceiling * 1.15  # Opacus tries more orders below 2
    if 0.3 < ceiling < 50:
        composed = by_opacus(PRVAccountant, *some)
        assert got == pytest.approx(composed, rel=0.005, abs=0.011)  # its own error is 0.01
        assert got <= composed * 1.0005


@pytest.mark.parametrize("form", [(0.05, 1.0, 10), (1.0, 0.1, 10**7), (2.0, 0.1, 100)], ids=str)
def test_the_renyi_bound_is_never_below(form: Form) -> None:
    """And is what is reported where ε is very large."""
    assert cost(form) <= cheap(form)
    if form[0] != 2.0:
        assert cost(form) == cheap(form)


def cheap(*forms: Form, delta: float = DELTA) -> float:
    return renyi_epsilon([release(*form) for form in forms], delta)


@pytest.mark.parametrize("form", [(1.0, 0.05, 1000), (0.8, 0.1, 60)])
def test_opacus_gdp_accountant_understates_epsilon_and_is_not_used(form: Form) -> None:
    with pytest.warns(UserWarning, match="underestimate"):
        understated = by_opacus(GaussianAccountant, form)
    assert understated < 0.97 * by_loss_distributions(form)
    assert understated < 0.97 * cost(form)


def test_no_optimiser_hook_feeds_the_accounting() -> None:
    """Opacus's accountants learn of steps from a hook that a second hook silently replaces; and
    they alias a history that they load. Only pure functions of the releases are used."""
    folder = Path(accounting.__file__).parent
    taken = {
        (node.module, alias.name)
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("opacus")
        for alias in node.names
    }
    assert taken == {("opacus.accountants.analysis", "rdp")}
    history = [release(1.0, 0.1, 1)] * 3
    epsilon(history, DELTA)
    assert history == [release(1.0, 0.1, 1)] * 3


# --- what must hold ----------------------------------------------------------------------------


def test_no_release_costs_zero_and_a_release_without_noise_infinity() -> None:
    assert epsilon([], DELTA) == 0
    assert cost((0.0, 0.1, 1)) == math.inf
    assert cost((3.0, 0.1, 60), (0.0, 0.001, 1)) == math.inf


def test_a_release_within_delta_costs_no_epsilon() -> None:
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
    assert base <= cost((noise, min(1.0, rate * more), steps)) * (1 + 1e-9)  # a rate of almost 1
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


def test_ten_thousand_equal_releases_are_fast() -> None:
    history = [release(1.31, 0.01, 1)] * 10_000
    begin = time.process_time()
    assert epsilon(history, DELTA) == cost((1.31, 0.01, 10_000))
    assert time.process_time() - begin < 1


def test_many_different_releases_are_fast_and_sharp() -> None:
    """A coordinator that changes noise and rate in every round must not stall a site."""
    rng = np.random.default_rng(0)
    forms = [
        (float(noise), float(rate), 50)
        for noise, rate in zip(rng.uniform(0.8, 3, 200), rng.uniform(0.005, 0.05, 200), strict=True)
    ]
    begin = time.process_time()
    got = cost(*forms)
    assert time.process_time() - begin < 2
    assert 0.85 * cheap(*forms) < got < cheap(*forms)
    # As much as the middle of 200 equal forms lies between the best and the worst.
    alike = [cost((1.5 + wobble, 0.02, 10_000)) for wobble in (0.002, 0.0, -0.002)]
    spread = [(1.498 + 0.004 * i / 199, 0.02, 50) for i in range(200)]
    assert alike[0] < cost(*spread) < alike[2]
    assert cost(*spread) == pytest.approx(alike[1], rel=1e-3)


@pytest.mark.parametrize("noise", [1e-300, 1e-160, 1e-5, 0.01, 1e6, 1e300])
def test_extreme_parameters_have_a_bound(noise: float) -> None:
    """Quickly, in little memory, without a warning; infinity is a bound."""
    for rate, steps in itertools.product(
        [5e-324, 1e-12, 0.5, 1 - 2**-53, 1.0], [1, 10**12, 10**30]
    ):
        begin = time.perf_counter()
        got = cost((noise, rate, steps))
        assert time.perf_counter() - begin < 10, (rate, steps)
        assert got >= 0, (rate, steps)
        if noise <= 1e-5 and rate >= 0.5:
            assert got > 1e9, (rate, steps)


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
def test_the_noise_meets_its_target_closely(
    target: float, sample_rate: float, steps: int, delta: float
) -> None:
    noise = noise_multiplier_for(target, delta, sample_rate=sample_rate, steps=steps)
    assert 0.999 * target <= cost((noise, sample_rate, steps), delta=delta) <= target
    assert cost((0.99 * noise, sample_rate, steps), delta=delta) > target


@settings(max_examples=4, deadline=None)
@given(st.floats(0.3, 30), st.floats(0.005, 1), st.integers(1, 500))
def test_the_noise_never_exceeds_its_target(target: float, sample_rate: float, steps: int) -> None:
    noise = noise_multiplier_for(target, DELTA, sample_rate=sample_rate, steps=steps)
    got = cost((noise, sample_rate, steps))
    assert got <= target
    assert got >= 0.999 * target or noise == SMALLEST_NOISE


def test_finding_the_noise_is_fast() -> None:
    begin = time.process_time()
    noise_multiplier_for(7.9, DELTA, sample_rate=0.1, steps=61)
    assert time.process_time() - begin < 1.5


def test_a_target_that_any_noise_meets_gets_the_smallest_noise() -> None:
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


# --- what is left of a budget ------------------------------------------------------------------

SPENT = [release(3.0, 0.1, 40), release(1.5, 0.05, 30)]


@pytest.mark.parametrize(("target", "rate", "steps"), [(4.0, 0.1, 60), (8.0, 0.01, 1000)])
def test_the_noise_accounts_for_earlier_releases(target: float, rate: float, steps: int) -> None:
    noise = noise_multiplier_for(target, DELTA, sample_rate=rate, steps=steps, spent=SPENT)
    total = epsilon([*SPENT, release(noise, rate, steps)], DELTA)
    assert 0.999 * target <= total <= target
    fresh = noise_multiplier_for(target, DELTA, sample_rate=rate, steps=steps)
    assert noise > 1.002 * fresh
    assert epsilon([*SPENT, release(fresh, rate, steps)], DELTA) > target


def test_the_noise_for_what_is_left_is_what_another_implementation_finds() -> None:
    noise = noise_multiplier_for(4.0, DELTA, sample_rate=0.1, steps=60, spent=SPENT)
    spent = [(r.noise_multiplier, r.sample_rate, r.steps) for r in SPENT]
    together = by_loss_distributions(*spent, (noise, 0.1, 60))
    assert together == pytest.approx(4.0, rel=0.002)


@few
@given(forms, st.floats(0.5, 10))
def test_as_many_steps_fit_as_the_budget_buys(form: Form, target: float) -> None:
    noise, rate, _ = form
    spent = [release(5.0, 0.1, 20)]
    steps = steps_for(target, DELTA, noise_multiplier=noise, sample_rate=rate, spent=spent)
    if steps:
        assert epsilon([*spent, release(noise, rate, steps)], DELTA) <= target
    if steps < MAX_STEPS:
        assert epsilon([*spent, release(noise, rate, steps + 1)], DELTA) > target


def test_steps_and_noise_agree() -> None:
    noise = noise_multiplier_for(8.0, DELTA, sample_rate=0.1, steps=600)
    assert steps_for(8.0, DELTA, noise_multiplier=noise, sample_rate=0.1) in range(600, 603)


@pytest.mark.parametrize(
    ("target", "noise", "rate", "spent", "expected"),
    [
        (1.0, 0.3, 1.0, [], 0),
        (1.0, 0.0, 0.1, [], 0),
        (1e6, 1e4, 1e-4, [], MAX_STEPS),
        (1.0, 3.0, 0.1, [release(0.5, 0.5, 10)], 0),
        (1.0, 3.0, 0.1, [release(0.0, 0.5, 10)], 0),
    ],
)
def test_steps_at_the_edges(
    target: float, noise: float, rate: float, spent: list[Release], expected: int
) -> None:
    got = steps_for(target, DELTA, noise_multiplier=noise, sample_rate=rate, spent=spent)
    assert got == expected


def test_many_steps_after_a_long_history_are_found_in_time() -> None:
    spent = [release(2 - 0.005 * i, 0.01, 20) for i in range(100)]
    begin = time.process_time()
    steps = steps_for(4.0, DELTA, noise_multiplier=1.5, sample_rate=0.01, spent=spent)
    assert time.process_time() - begin < 5
    assert steps > 100


def test_a_spent_budget_is_an_error() -> None:
    used = epsilon(SPENT, DELTA)
    with pytest.raises(AccountingError, match=r"spent already, and the target is 1: nothing"):
        noise_multiplier_for(1.0, DELTA, sample_rate=0.1, steps=1, spent=SPENT)
    with pytest.raises(AccountingError, match="after what is spent: take fewer steps"):
        noise_multiplier_for(used * 1.0001, 1e-5, sample_rate=1.0, steps=10**8, spent=SPENT)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_steps_need_a_target(target: float) -> None:
    with pytest.raises(AccountingError, match="positive number"):
        steps_for(target, DELTA, noise_multiplier=1.0, sample_rate=0.1)
    with pytest.raises(AccountingError, match="delta must be in"):
        steps_for(1.0, 0.0, noise_multiplier=1.0, sample_rate=0.1)
