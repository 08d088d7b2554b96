"""Directions of equal strength have one basis, whichever a library returns."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.item_features.whitening import fixed_rotation


def orthonormal(rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.linalg.qr(rng.normal(size=(columns, rows)))[0].T


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 2**32))
def test_any_basis_of_equal_directions_becomes_the_same(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    directions = orthonormal(total, total + 3, rng)
    strength = np.repeat(np.arange(len(sizes), 0, -1.0), sizes)
    mixed, start = directions.copy(), 0
    for size in sizes:
        mixed[start : start + size] = orthonormal(size, size, rng) @ mixed[start : start + size]
        start += size
    one, other = (fixed_rotation(each, strength) for each in (directions, mixed))
    if max(sizes) == 1:
        assert one is None
        assert other is None
        return
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one @ one.T, np.eye(total), atol=1e-9)
    again = other @ mixed
    alone = np.repeat(np.array(sizes) == 1, sizes)  # their sign is fixed by `signs`
    np.testing.assert_allclose((one @ directions)[~alone], again[~alone], atol=1e-7)
    np.testing.assert_allclose((one @ directions)[alone], directions[alone])


def test_directions_of_distinct_strength_are_left_alone() -> None:
    assert fixed_rotation(np.eye(3), np.array([3.0, 2.0, 1.0])) is None
    assert fixed_rotation(np.eye(3), np.array([3.0, 1e-12, 0.0])) is None
