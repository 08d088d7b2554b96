"""The estimate of engagement: of known sessions, and of planted items."""

from __future__ import annotations

import numpy as np
import pytest

from client.wellbeing.engagement import estimate_engagement
from shared.data.histories import Histories

MINUTE = 60 * 10**6


def test_it_is_further_events_over_those_expected_of_position_and_user() -> None:
    # Sessions: [1, 2, 3] and [4]; then [2, 1]. Further: 2, 1, 0 and 0; then 1, 0.
    times = [[0, 10, 20, 51], [0, 30]]
    own = Histories.from_lists(
        [[1, 2, 3, 4], [2, 1]], times=[[t * MINUTE for t in user] for user in times]
    )
    found = estimate_engagement(own, 4)
    assert found.mean == pytest.approx(4 / 6)
    first, second, third = (2 + 0 + 1) / 3, (1 + 0) / 2, 0.0  # by position
    observed = np.array([0, 2 + 0, 1 + 1, 0, 0])
    prior = 5 * found.mean
    one = (3 + prior) / (first + second + third + first + prior)
    two = (1 + prior) / (first + second + prior)
    of_one, of_two = (first, second, third, first), (second, first)
    expected = one * np.array([0, *of_one]) + two * np.array([0, *of_two, 0, 0])
    prior = 20 * found.mean
    assert found.values == pytest.approx(found.mean * (observed + prior) / (expected + prior))


def test_an_item_that_keeps_people_is_found_wherever_it_stands() -> None:
    draw = np.random.default_rng(1)
    lists, times = list[list[int]](), list[list[int]]()
    for _ in range(3000):
        items = [int(draw.integers(1, 11))]
        while draw.random() < (0.9 if items[-1] == 7 else 0.6) and len(items) < 40:
            items.append(int(draw.integers(1, 11)))
        lists.append(items)
        times.append([n * MINUTE for n in range(len(items))])
    found = estimate_engagement(Histories.from_lists(lists, times=times), 10)
    assert found.values[1:].argmax() == 7 - 1
    assert found.values[7] > 1.3 * np.median(found.values[1:])


def test_an_item_is_not_engaging_for_being_chosen_by_those_who_stay() -> None:
    long = [1, 2] * 15
    lists = [long for _ in range(20)] + [[3, 2] * 30 for _ in range(20)]
    days = [24 * 60 * (n // 2) + n for n in range(60)]  # sessions of two
    times = [[n * MINUTE for n in range(30)]] * 20 + [[t * MINUTE for t in days]] * 20
    found = estimate_engagement(Histories.from_lists(lists, times=times), 3)
    assert found.values[1] < 1.1 * found.values[3]  # about twice without the users


def test_without_sessions_or_events_nothing_is_engaging() -> None:
    alone = Histories.from_lists([[1], [2]], times=[[0], [0]])
    assert not estimate_engagement(alone, 3).values.any()
    none = Histories.from_lists([[], []], times=[[], []])
    assert estimate_engagement(none, 3).values.tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="no times"):
        estimate_engagement(Histories.from_lists([[1]]), 3)
