from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2

from simulations.report.numbers.shares import NORMAL_QUANTILE, Share, differ, hits, ndcg, paired_p


@given(st.integers(1, 400), st.floats(0, 1))
def test_wilsons_interval_holds_those_shares_that_the_count_does_not_rule_out(
    users: int, part: float
) -> None:
    share = Share(round(part * users), users)
    reference = binomtest(share.count, users).proportion_ci(0.95, method="wilson")
    assert share.interval == pytest.approx((reference.low, reference.high), abs=1e-9)
    # By its definition: what lies a normal quantile away, by its own deviation.
    for end in share.interval:
        deviation = math.sqrt(end * (1 - end) / users)
        assert abs(share.value - end) == pytest.approx(NORMAL_QUANTILE * deviation, abs=1e-6)


def test_a_share_of_no_users_is_zero_with_the_widest_interval() -> None:
    assert Share(0, 0).value == 0
    assert Share(0, 0).interval == (0, 1)


def test_hits_and_ndcg_are_the_sums_of_their_users() -> None:
    ranks = np.array([1, 2, 10, 11, 400])
    assert hits(ranks) == Share(3, 5)
    assert ndcg(ranks) == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 5)
    assert ndcg(np.array([], np.int64)) == 0


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 5))
def test_the_paired_test_counts_all_tosses_as_rare_as_this_one(
    wins: int, losses: int, both: int
) -> None:
    first = np.array([1] * wins + [50] * losses + [1] * both + [99], np.int64)
    second = np.array([50] * wins + [1] * losses + [1] * both + [99], np.int64)
    tosses = list(product((0, 1), repeat=wins + losses))
    middle = (wins + losses) / 2
    far = sum(abs(sum(toss) - middle) >= abs(wins - middle) for toss in tosses)
    assert paired_p(first, second) == pytest.approx(far / len(tosses))


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([Share(50, 100), Share(50, 100)], False),
        ([Share(20, 100), Share(60, 100)], True),
        ([Share(50, 100), Share(0, 0), Share(49, 100)], False),
        ([Share(1, 10), Share(3, 10)], None),  # two hits expected in each
        ([Share(0, 1000), Share(0, 1000)], None),
        ([Share(9, 9), Share(8, 8)], None),
        ([Share(10, 100)], None),
        ([], None),
    ],
)
def test_groups_differ_only_beyond_chance(shares: list[Share], expected: bool | None) -> None:
    assert differ(shares) is expected


@given(st.lists(st.tuples(st.integers(20, 80), st.integers(100, 200)), min_size=2, max_size=4))
def test_the_chi_square_test_is_pearsons(groups: list[tuple[int, int]]) -> None:
    shares = [Share(count, users) for count, users in groups]
    rate = sum(count for count, _ in groups) / sum(users for _, users in groups)
    statistic = sum(
        (count - users * rate) ** 2 / (users * rate * (1 - rate)) for count, users in groups
    )
    p = float(chi2.sf(statistic, len(groups) - 1))
    if abs(p - 0.05) > 1e-9:
        assert differ(shares) is (p < 0.05)
