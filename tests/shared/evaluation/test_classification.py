"""Figures of a risk, against other ways to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from shared.evaluation.classification import auroc, classify, expected_error


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_a_count_over_all_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    risk = np.round(random.random(60), 1 + seed % 2)  # with ties
    labels = random.random(60) < risk
    wins = [(a > b) + 0.5 * (a == b) for a in risk[labels] for b in risk[~labels]]
    assert auroc(risk, labels) == pytest.approx(np.mean(wins))
    u = mannwhitneyu(risk[labels], risk[~labels]).statistic
    assert auroc(risk, labels) == pytest.approx(u / len(wins))
    one = classify(risk, labels, 0.5)
    pairs = list(zip(risk >= 0.5, labels, strict=True))
    hits, false = pairs.count((True, True)), pairs.count((True, False))
    missed = pairs.count((False, True))
    assert one.precision == hits / (hits + false)
    assert one.recall == hits / (hits + missed)
    assert one.f1 == pytest.approx(2 * one.precision * one.recall / (one.precision + one.recall))


def test_the_calibration_error_is_that_of_the_risk() -> None:
    random = np.random.default_rng(0)
    risk = random.random(50000)
    labels = random.random(50000) < risk
    assert expected_error(risk, labels) < 0.01
    assert expected_error(np.minimum(risk + 0.1, 1), labels) == pytest.approx(0.095, abs=0.01)


def test_what_the_users_do_not_define_is_no_number() -> None:
    nobody = classify(np.array([0.1, 0.2]), np.zeros(2, bool), 0.5)
    assert (nobody.users, nobody.positives, nobody.false_positive_rate) == (2, 0, 0.0)
    for value in (nobody.auroc, nobody.precision, nobody.recall, nobody.f1):
        assert math.isnan(value)
    assert math.isnan(classify(np.zeros(0), np.zeros(0, bool), 0.5).calibration_error)
