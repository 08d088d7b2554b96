from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from shared.evaluation.exposure import DECILES, arp, exposure, gini, popularity_deciles


@st.composite
def lists(draw: st.DrawFn) -> tuple[Tensor, NDArray[np.int64]]:
    """Top lists over a small catalogue, with empty places, and training counts."""
    items = draw(st.integers(1, 25))
    rows = draw(st.integers(1, 6))
    top = draw(
        st.lists(
            st.lists(st.integers(0, items), min_size=3, max_size=3), min_size=rows, max_size=rows
        )
    )
    counts = draw(st.lists(st.integers(0, 9), min_size=items, max_size=items))
    return torch.tensor(top), np.array(counts, np.int64)


@given(lists())
def test_every_figure_agrees_with_its_formula(
    given_lists: tuple[Tensor, NDArray[np.int64]],
) -> None:
    top, counts = given_lists
    items, shown = len(counts), [item for row in top.tolist() for item in row if item]

    means = [
        sum(counts[i - 1] for i in row if i) / sum(map(bool, row))
        for row in top.tolist()
        if any(row)
    ]
    assert arp(top, counts, users=7) == pytest.approx(np.mean(means) / 7 if means else 0)

    # Gini as half the mean absolute difference over the mean, scaled to reach 1.
    p = np.array([shown.count(item) for item in range(1, items + 1)], float)
    if shown and items > 1:
        differences = np.abs(p[:, None] - p[None, :]).sum()
        assert gini(top, items) == pytest.approx(
            differences / (2 * items**2 * p.mean()) * items / (items - 1)
        )
    else:
        assert gini(top, items) == 0

    ranked = sorted(range(1, items + 1), key=lambda item: (-counts[item - 1], item))
    shares = exposure(top, counts)
    assert len(shares) == DECILES
    for decile in range(DECILES):
        members = [i for place, i in enumerate(ranked) if place * DECILES // items == decile]
        wanted = sum(shown.count(i) for i in members) / len(shown) if shown else 0
        assert shares[decile] == pytest.approx(wanted)


def test_deciles_differ_by_one_item_at_most() -> None:
    sizes = np.bincount(popularity_deciles(np.arange(1234)))
    assert len(sizes) == DECILES
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("top", "counts"),
    [([[4]], [1, 1, 1]), ([[-1]], [1, 1, 1]), ([[1]], [-1, 1]), ([[1]], [[1, 1]])],
)
def test_ids_and_counts_out_of_range_are_refused(top: list[list[int]], counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"outside|expected"):
        exposure(torch.tensor(top), np.array(counts))
    with pytest.raises(ValueError, match=r"outside|expected"):
        arp(torch.tensor(top), np.array(counts), users=1)
