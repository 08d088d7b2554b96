"""Figures of groups: what an interval promises, and when nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from shared.evaluation.group_figures import TableFigures, table_figures

NAMES = ("a", "b", "c", "other")
TRUE = np.array([0.08, 0.12, 0.20, 0.10])
USERS = np.array([300, 500, 900, 200])


def drawn(random: np.random.Generator, noise: float) -> TableFigures:
    """A sample of users with gains of 0 or 1, and the noised sums of their figures."""
    gains = np.array([random.binomial(n, p) for n, p in zip(USERS, TRUE, strict=True)], float)
    sums = np.stack([gains, gains, USERS.astype(float)], axis=1)
    return table_figures("t", NAMES, sums + noise * random.standard_normal(sums.shape), noise)


@pytest.mark.parametrize("noise", [0.0, 12.0])
def test_the_intervals_of_all_groups_hold_at_once(noise: float) -> None:
    random, failed, gap_failed, lengths = np.random.default_rng(3), 0, 0, []
    for _ in range(800):
        found = drawn(random, noise)
        ends = [(group.low or 0.0, group.high or 0.0) for group in found.groups[:-1]]
        held = [low <= p <= high for (low, high), p in zip(ends, TRUE[:-1], strict=True)]
        failed += not all(held)
        best, worst = (TRUE[NAMES.index(name or "")] for name in (found.best, found.worst))
        gap_failed += not (found.gap_low or 0.0) <= best - worst <= (found.gap_high or 0.0)
        lengths.append(ends[0][1] - ends[0][0])
    assert failed <= 0.08 * 800
    assert gap_failed <= 0.08 * 800
    # And they are not far longer than they must be: 2.39 deviations on either side.
    least = 2 * 2.39 * np.sqrt(TRUE[0] * (1 - TRUE[0]) / USERS[0] + (noise / USERS[0]) ** 2)
    assert np.mean(lengths) == pytest.approx(least, rel=0.1)


def test_a_group_with_too_few_users_for_the_noise_has_no_figures() -> None:
    sums = np.array([[1.0, 0.5, 20.0], [9.0, 4.0, 60.0], [0.0, 0.0, 0.0]])
    found = table_figures("t", ("small", "large", "other"), sums, noise_std=8.0)
    assert found.groups[0].ndcg is None
    assert found.groups[1].ndcg == pytest.approx(4 / 60)
    assert found.worst is None
    assert found.gap is None


def test_the_worst_is_never_those_of_whom_nothing_is_known() -> None:
    sums = np.array([[3.0, 2.0, 10.0], [5.0, 4.0, 10.0], [0.0, 0.0, 10.0]])
    found = table_figures("t", ("a", "b", "other"), sums)
    assert (found.worst, found.best) == ("a", "b")
    assert found.gap == pytest.approx(0.2)
    assert found.as_dict()["groups"][0]["name"] == "a"


def test_known_squares_give_the_samples_own_variance() -> None:
    gains = np.array([1.0, 0.0, 0.5, 0.63])
    sums = np.array([[3, gains.sum(), 4], [0, 0, 0]], float)
    exact = table_figures("t", ("a", "other"), sums, squares=np.array([(gains**2).sum(), 0]))
    one = exact.groups[0]
    assert one.high is not None
    assert one.ndcg is not None
    # The variance counts one more user, whose gain is 1 off.
    assert one.high - one.ndcg == pytest.approx(
        1.959964 * np.sqrt((4 * gains.var() + 1) / 5 / 4), rel=1e-6
    )
