"""Invented users: reproducible, and their risk is in what they do."""

from __future__ import annotations

import numpy as np

from shared.evaluation.classification import auroc
from shared.over_use.sessions import WEEK
from simulations.over_use.cohort import WEEKS, make_cohort
from simulations.over_use.task import cohort_task


def test_users_are_those_of_the_seed_and_in_order() -> None:
    one, same, other = make_cohort(60, 1), make_cohort(60, 1), make_cohort(60, 2)
    assert len(one.times) == len(one.recommended) == 60
    for times, again in zip(one.times, same.times, strict=True):
        np.testing.assert_array_equal(times, again)
        assert (np.diff(times) >= 0).all()
    assert not np.array_equal(one.risk, other.risk)
    whole = np.concatenate(one.times)
    assert whole.max() - whole.min() < (WEEKS + 1) * WEEK
    assert set(one.groups) == {"age", "work"}


def test_the_latent_risk_decides_more_than_chance() -> None:
    task = cohort_task(600, 3)
    assert task.ceiling is not None
    assert auroc(task.ceiling, task.labels) > 0.9
    assert auroc(make_cohort(600, 3).risk, task.labels) > 0.65
    assert 0.05 < task.labels.mean() < 0.3
