"""Caps on what one user adds to counts: brute force, and nothing changes where nothing repeats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.histories import Histories
from shared.models.influence import CAPS, NO_CAPS, InfluenceCaps, capped_item_counts
from shared.models.recent_counts import count_transitions

ITEMS, WEIGHTS = 5, (1.0, 0.7, 0.49)
histories = st.lists(st.lists(st.integers(1, ITEMS), max_size=12), min_size=1, max_size=4)
some_caps = st.builds(
    InfluenceCaps, item=st.sampled_from([0, 1, 2]), transition=st.sampled_from([0, 1, 3])
)


def counts(lists: list[list[int]], caps: InfluenceCaps) -> np.ndarray:
    given = Histories.from_lists(lists)
    dense: np.ndarray = count_transitions(given, ITEMS, WEIGHTS, caps).toarray()
    return dense


@settings(max_examples=60, deadline=None)
@given(histories, some_caps)
def test_no_user_adds_more_than_the_caps_and_each_adds_by_itself(
    lists: list[list[int]], caps: InfluenceCaps
) -> None:
    together, popular = (
        counts(lists, caps),
        capped_item_counts(Histories.from_lists(lists), ITEMS, caps),
    )
    for n, own in enumerate(lists):
        others = [*lists[:n], [], *lists[n + 1 :]]
        added = together - counts(others, caps)
        assert added == pytest.approx(counts([own], caps), abs=1e-12)
        assert added.max() <= (caps.transition or np.inf) + 1e-9
        of_item = (caps.item or np.inf) * sum(WEIGHTS) + 1e-9
        assert added.sum(0).max() <= of_item
        assert added.sum(1).max() <= of_item
        without = capped_item_counts(Histories.from_lists(others), ITEMS, caps)
        assert (popular - without).max() <= (caps.item or np.inf)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.permutations(range(1, ITEMS + 1)), min_size=1, max_size=6))
def test_without_repeats_every_bit_is_as_it_was(lists: list[list[int]]) -> None:
    assert (counts(lists, CAPS) == counts(lists, NO_CAPS)).all()


def test_a_spammer_outweighs_many_without_caps_and_is_one_of_many_with_them() -> None:
    honest, spam = [[1, 2]] * 5, [1, 3] * 400
    free, capped = counts([*honest, spam], NO_CAPS), counts([*honest, spam], CAPS)
    assert free[1, 3 - 1] > 300 > free[1, 2 - 1] == 5
    assert capped[1, 3 - 1] <= 1 + 1e-9 < capped[1, 2 - 1] == 5
