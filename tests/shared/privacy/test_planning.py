"""The split of a budget, against another accountant."""

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from shared.privacy.planning import STATISTICS_ASKED, noise_plan

DELTA = 1e-5


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize(("rate", "steps"), [(1.0, 4), (0.1, 60)])
def test_all_together_cost_what_was_asked_for(share: float, rate: float, steps: int) -> None:
    plan = noise_plan(4.0, DELTA, share=share, sample_rate=rate, steps=steps)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    if share:
        accountant.compose(GaussianDpEvent(plan.statistics), STATISTICS_ASKED)
        assert accountant.get_epsilon(DELTA) == pytest.approx(4.0 * share, rel=0.01)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(plan.training)), steps)
    assert accountant.get_epsilon(DELTA) == pytest.approx(4.0, rel=0.01)
    assert (plan.statistics > 0) is (share > 0)


def test_statistics_alone_may_cost_it_all() -> None:
    plan = noise_plan(4.0, DELTA, share=1.0, sample_rate=1.0, steps=0)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(GaussianDpEvent(plan.statistics), STATISTICS_ASKED)
    assert accountant.get_epsilon(DELTA) == pytest.approx(4.0, rel=0.01)
    assert plan.training == 0
