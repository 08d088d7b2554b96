"""The split of a budget, against another accountant."""

import math

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.privacy.accounting.accountant import epsilon
from shared.privacy.accounting.planning import noise_for_part, noise_plan
from shared.privacy.release import Release, ReleaseKind

DELTA = 1e-5


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize(("rate", "steps"), [(1.0, 4), (0.1, 60)])
def test_all_together_cost_what_was_asked_for(share: float, rate: float, steps: int) -> None:
    plan = noise_plan(4.0, DELTA, share=share, sample_rate=rate, steps=steps)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    if share:
        accountant.compose(GaussianDpEvent(plan.statistics))
        assert accountant.get_epsilon(DELTA) == pytest.approx(4.0 * share, rel=0.01)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(plan.training)), steps)
    assert accountant.get_epsilon(DELTA) == pytest.approx(4.0, rel=0.01)
    assert (plan.statistics > 0) is (share > 0)


def test_statistics_alone_may_cost_it_all() -> None:
    plan = noise_plan(4.0, DELTA, share=1.0, sample_rate=1.0, steps=0)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(GaussianDpEvent(plan.statistics))
    assert accountant.get_epsilon(DELTA) == pytest.approx(4.0, rel=0.01)
    assert plan.training == 0


@pytest.mark.parametrize("parts", [(0.5, 0.5), (0.05, 0.95), (0.2, 0.3, 0.5)])
def test_a_divided_release_costs_what_the_whole_one_does_by_another_accountant(
    parts: tuple[float, ...],
) -> None:
    whole, divided = (PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE) for _ in range(2))
    whole.compose(GaussianDpEvent(1.3))
    for part in parts:
        divided.compose(GaussianDpEvent(noise_for_part(1.3, part)))
    assert divided.get_epsilon(DELTA) == pytest.approx(whole.get_epsilon(DELTA), rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.3, 30.0), st.integers(0, 4))
def test_a_ledger_that_is_full_at_the_whole_takes_the_parts(
    part: float, noise: float, steps: int
) -> None:
    """A cap that is the planned ε to the last digit is not exceeded by how it was divided."""
    training = [released(4 * noise, steps)] if steps else []
    planned = epsilon([released(noise), *training], DELTA)
    each = [released(noise_for_part(noise, share)) for share in (part, 1 - part)]
    assert math.isclose(epsilon([*each, *training], DELTA), planned, rel_tol=1e-9)


def released(noise: float, steps: int = 1) -> Release:
    return Release(
        kind=ReleaseKind.STATISTICS, noise_multiplier=noise, sample_rate=1.0, steps=steps
    )
