"""The price of releasing the best of K runs, against enumeration and another accountant."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logsumexp

from shared.errors import AccountingError
from shared.privacy.accounting.accountant import divergences, renyi_epsilon
from shared.privacy.accounting.renyi import ORDERS
from shared.privacy.accounting.selection import TrialLaw, best_of, draw_trials, selection_epsilon
from shared.privacy.release import Release, ReleaseKind

Floats = NDArray[np.float64]
MOST = 600
"""Trials beyond which no law here has any weight."""
LAWS = pytest.mark.parametrize("law", list(TrialLaw))


def release(noise: float, rate: float = 1.0, steps: int = 1) -> Release:
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=steps)


def weights(law: TrialLaw, mean: float) -> Floats:
    """P[K = k] for k = 0, 1, ..., as SciPy has the distribution."""
    k = np.arange(MOST)
    if law is TrialLaw.POISSON:
        return np.asarray(stats.poisson(mean).pmf(k))
    if law is TrialLaw.GEOMETRIC:
        return np.asarray(stats.geom(1 / mean).pmf(k))
    low, high = 1e-12, 1 - 1e-12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if stats.logser(middle).mean() < mean else (low, middle)
    return np.asarray(stats.logser(low).pmf(k))


def best_outcome(one: Floats, law: TrialLaw, mean: float) -> Floats:
    """How the best of K draws from `one` is spread; the first place stands for no draw at all."""
    below = np.concatenate([[0.0], np.cumsum(one)])
    powers = below[None, :] ** np.arange(MOST)[:, None]  # all of k draws are at most that good
    each = np.diff(powers, axis=1)  # [k, outcome]
    by_count = weights(law, mean)
    return np.concatenate([[by_count[0]], by_count[1:] @ each[1:]])


def divergence(p: Floats, q: Floats, order: float) -> float:
    there = (p > 0) & (q > 0)
    terms = order * np.log(p[there]) + (1 - order) * np.log(q[there])
    return float(logsumexp(terms)) / (order - 1)


def exact(p: Floats, q: Floats) -> Floats:
    """The divergences at `ORDERS`, the worse of both directions."""
    return np.array([max(divergence(p, q, a), divergence(q, p, a)) for a in ORDERS])


MECHANISMS = {
    "response, ε = 1, the better answer likelier": ([0.2689, 0.7311], [0.7311, 0.2689]),
    "response, ε = .1": ([0.475, 0.525], [0.525, 0.475]),
    "response, ε = 4.6: what K is costs less than a run": ([0.99, 0.01], [0.01, 0.99]),
    "a rare best answer": ([0.99, 0.01], [0.98, 0.02]),
    "three answers": ([0.5, 0.3, 0.2], [0.3, 0.3, 0.4]),
    "four answers, one all but revealing": ([0.4, 0.3, 0.29, 0.01], [0.3, 0.3, 0.3, 0.1]),
}


@LAWS
@pytest.mark.parametrize("mean", [1.5, 4.0, 20.0])
@pytest.mark.parametrize("name", MECHANISMS)
def test_the_bound_holds_for_mechanisms_small_enough_to_enumerate(
    name: str, law: TrialLaw, mean: float
) -> None:
    p, q = (np.array(values) for values in MECHANISMS[name])
    truth = exact(best_outcome(p, law, mean), best_outcome(q, law, mean))
    bound = best_of(exact(p, q), law, mean)
    assert np.all(truth <= bound * (1 + 1e-9) + 1e-12)


@LAWS
def test_the_bound_is_reasonably_tight(law: TrialLaw) -> None:
    p, q = (np.array(values) for values in MECHANISMS["response, ε = .1"])
    truth = exact(best_outcome(p, law, 20.0), best_outcome(q, law, 20.0))
    bound = best_of(exact(p, q), law, 20.0)
    assert truth[-1] > 0.6 * bound[-1]


@LAWS
def test_selection_costs_more_than_one_run(law: TrialLaw) -> None:
    """So the bound is about something: choosing the best does leak."""
    p, q = np.array([0.99, 0.01]), np.array([0.98, 0.02])
    truth = exact(best_outcome(p, law, 20.0), best_outcome(q, law, 20.0))
    assert np.max(truth / exact(p, q)) > 1.05


@LAWS
@pytest.mark.parametrize("mean", [2.0, 10.0, 100.0])
@pytest.mark.parametrize(("noise", "rate", "steps"), [(2.0, 1.0, 2), (1.0, 0.1, 60), (20.0, 1, 2)])
def test_selection_agrees_with_another_accountant(
    law: TrialLaw, mean: float, noise: float, rate: float, steps: int
) -> None:
    shape = {TrialLaw.GEOMETRIC: 1.0, TrialLaw.LOGARITHMIC: 0.0, TrialLaw.POISSON: math.inf}[law]
    event = (
        PoissonSampledDpEvent(rate, GaussianDpEvent(noise)) if rate < 1 else GaussianDpEvent(noise)
    )
    accountant = RdpAccountant(ORDERS[ORDERS >= 2], NeighboringRelation.ADD_OR_REMOVE_ONE)
    one = ComposedDpEvent([SelfComposedDpEvent(event, steps)])
    accountant.compose(RepeatAndSelectDpEvent(one, mean, shape))
    found = selection_epsilon([[release(noise, rate, steps)]], 1e-5, law=law, mean=mean)
    theirs = accountant.get_epsilon(1e-5)
    # Its series fails below order 2 here, where we have an order or two more.
    assert theirs * 0.95 <= found <= theirs * 1.001


@pytest.mark.parametrize(("law", "shape"), [(TrialLaw.GEOMETRIC, 1), (TrialLaw.LOGARITHMIC, 0)])
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_a_purely_private_run_costs_two_plus_eta_times_as_much(
    law: TrialLaw, shape: int, epsilon: float
) -> None:
    """Corollary 3 of the paper: the limit of high orders."""
    mean, order = 8.0, ORDERS[-1]
    found = best_of(np.full(len(ORDERS), epsilon), law, mean)
    room = (2 * math.log(100 * mean) + math.log(mean)) / (order - 1)
    assert (2 + shape) * epsilon * (1 - 2 / order) <= found[-1] <= (2 + shape) * epsilon + room


@LAWS
def test_more_trials_and_less_noise_cost_more(law: TrialLaw) -> None:
    def cost(noise: float, mean: float) -> float:
        return selection_epsilon([[release(noise)]], 1e-5, law=law, mean=mean)

    by_mean = [cost(2.0, mean) for mean in (1, 1.01, 2, 5, 20, 100)]
    assert by_mean == sorted(by_mean)
    assert renyi_epsilon([release(2.0)], 1e-5) <= by_mean[0]
    by_noise = [cost(noise, 5.0) for noise in (8.0, 4.0, 2.0, 1.0)]
    assert by_noise == sorted(by_noise)


@LAWS
def test_the_worst_choice_counts(law: TrialLaw) -> None:
    cheap, dear = [release(4.0)], [release(1.0)]
    both = selection_epsilon([cheap, dear], 1e-5, law=law, mean=5)
    assert both == selection_epsilon([dear], 1e-5, law=law, mean=5)
    assert both > selection_epsilon([cheap], 1e-5, law=law, mean=5)


@LAWS
def test_a_run_without_noise_costs_infinity(law: TrialLaw) -> None:
    assert selection_epsilon([[release(0.0)]], 1e-5, law=law, mean=3) == math.inf


def test_no_release_has_zero_divergence() -> None:
    assert not divergences([]).any()


@LAWS
@pytest.mark.parametrize("mean", [1.0, 1.2, 6.0, 40.0])
def test_trials_are_drawn_as_the_law_says(law: TrialLaw, mean: float) -> None:
    random = np.random.default_rng(5)
    drawn = np.array([draw_trials(law, mean, random) for _ in range(4000)])
    assert drawn.min() >= (0 if law is TrialLaw.POISSON else 1)
    spread = drawn.std() / math.sqrt(len(drawn))
    assert abs(drawn.mean() - mean) <= 5 * spread + 1e-12
    if mean > 1:
        expected = weights(law, mean)
        assert abs(np.mean(drawn == 1) - expected[1]) < 5 * math.sqrt(expected[1] / len(drawn))


@LAWS
@pytest.mark.parametrize("mean", [0.0, 0.99, math.nan, math.inf])
def test_a_mean_below_one_is_refused(law: TrialLaw, mean: float) -> None:
    with pytest.raises(AccountingError, match="choose a number of 1 or more"):
        selection_epsilon([[release(1.0)]], 1e-5, law=law, mean=mean)
    with pytest.raises(AccountingError, match="choose a number of 1 or more"):
        draw_trials(law, mean, np.random.default_rng(0))


def test_delta_must_be_in_range() -> None:
    with pytest.raises(AccountingError, match="delta must be in"):
        selection_epsilon([[release(1.0)]], 0.0, law=TrialLaw.POISSON, mean=3)
