"""Figures of single users agree with the means, and the paired test knows where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from shared.evaluation.paired import ndcg_gains, paired_p
from shared.evaluation.ranking import ndcg


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_the_mean_of_the_gains_is_ndcg(kind: type) -> None:
    ranks = np.random.default_rng(1).integers(1, 30, 200)
    gains = ndcg_gains(ranks.astype(kind), 10)
    assert gains.mean() == pytest.approx(ndcg(torch.from_numpy(ranks), 10))
    assert ((gains > 0) == (ranks <= 10)).all()


def test_users_are_compared_with_themselves() -> None:
    draw = np.random.default_rng(2)
    one = draw.random(50)
    other = one + 0.01 + 0.01 * draw.random(50)  # hidden by the differences between users
    assert paired_p(one, other) == pytest.approx(ttest_1samp(one - other, 0).pvalue)
    assert paired_p(one, one) is None
    assert paired_p(one[:1], other[:1]) is None
