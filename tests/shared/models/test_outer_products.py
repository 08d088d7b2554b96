"""The sum of normalised outer products against a plain loop, and one user's share of it."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.models import outer_products
from shared.models.outer_products import OuterProductSum, row_sums

Rows = NDArray[np.float32]
User = tuple[Rows, NDArray[np.int64]]
ITEMS, WIDTH, SIZE = 30, 6, 5


def table(kind: str = "dense") -> Rows:
    random = np.random.default_rng(0)
    if kind == "one-hot":
        return np.eye(ITEMS, SIZE, dtype=np.float32)
    dense = random.standard_normal((ITEMS, SIZE))
    if kind == "scales":
        dense *= 2.0 ** random.integers(-20, 21, (ITEMS, 1))
    return dense.astype(np.float32)


def some_user(random: np.random.Generator, length: int) -> User:
    rows = random.standard_normal((length, WIDTH)).astype(np.float32)
    return rows, random.integers(1, ITEMS + 1, length)


def summed(users: Sequence[User], targets: Rows) -> NDArray[np.float64]:
    total = OuterProductSum(targets, WIDTH, 1e-6)
    for rows, items in users:
        total.add(rows[None], items[None])
    return total.total()


def by_loop(users: Sequence[User], targets: Rows) -> NDArray[np.float64]:
    moments = [rows.T.astype(np.float64) @ targets[items - 1] for rows, items in users]
    norms = [np.linalg.norm(moment) for moment in moments]
    return np.sum([m / n for m, n in zip(moments, norms, strict=True) if n > 1e-6], axis=0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.sampled_from(["dense", "one-hot", "scales"]),
)
def test_it_is_the_plain_sum(seed: int, lengths: list[int], kind: str) -> None:
    """Of Gram matrices and, with more rows than columns, of moments that are formed."""
    random = np.random.default_rng(seed)
    users = [some_user(random, length) for length in lengths]
    found = summed(users, table(kind))
    np.testing.assert_allclose(found, by_loop(users, table(kind)), atol=1e-3 * len(users))
    assert found.any() or not by_loop(users, table(kind)).any()


@pytest.mark.parametrize("length", [1, 3, 200])
@pytest.mark.parametrize("kind", ["dense", "one-hot", "scales"])
def test_a_share_has_length_one_and_no_more(length: int, kind: str) -> None:
    random = np.random.default_rng(length)
    for _ in range(50):
        norm = float(np.linalg.norm(summed([some_user(random, length)], table(kind))))
        assert norm == 0 if kind == "one-hot" and norm == 0 else 1 - 1e-4 < norm <= 1


def test_users_come_in_any_batch_and_order() -> None:
    random = np.random.default_rng(1)
    users = [some_user(random, 4) for _ in range(40)]
    whole = OuterProductSum(table(), WIDTH)
    whole.add(np.stack([rows for rows, _ in users]), np.stack([items for _, items in users]))
    assert (whole.total() == summed(users[::-1], table())).all()


def test_padding_adds_nothing_whatever_is_in_it() -> None:
    rows, items = some_user(np.random.default_rng(2), 6)
    padded = rows.copy()
    padded[4], padded[5] = np.nan, 1e30
    found = summed([(padded, np.where(np.arange(6) < 4, items, 0))], table())
    np.testing.assert_allclose(found, by_loop([(rows[:4], items[:4])], table()), atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_who_is_not_finite_adds_nothing(value: float) -> None:
    """In a row of their own, or in a target row: others' shares stay."""
    random = np.random.default_rng(3)
    users = [some_user(random, 3) for _ in range(4)]
    users[1][0][2, 1] = value
    targets = table()
    targets[users[2][1][0] - 1, 0] = value
    others = [
        user
        for number, user in enumerate(users)
        if number != 1 and np.isfinite(targets[user[1] - 1]).all()
    ]
    assert others
    assert (summed(users, targets) == summed(others, targets)).all()


def test_rows_of_zeros_add_nothing() -> None:
    """A user without any other, and targets of zeros beside enormous rows."""
    rows, items = some_user(np.random.default_rng(4), 3)
    targets = table()
    assert not summed([(np.zeros_like(rows), items)], targets).any()
    targets[6] = 0
    items[:] = 7, 1, 2
    rows[0] *= np.float32(1e30)
    found = summed([(rows, items)], targets)
    np.testing.assert_allclose(found, by_loop([(rows, items)], targets), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(-30, 0), st.integers(1, 3))
def test_where_terms_cancel_a_share_is_no_longer_than_one(seed: int, left: int, pairs: int) -> None:
    random = np.random.default_rng(seed)
    rows, items = some_user(random, pairs)
    opposite = -rows * np.float32(1 + 2.0**left)
    both = np.concatenate([rows, opposite]), np.concatenate([items, items])
    assert np.linalg.norm(summed([both], table())) <= 1


@pytest.mark.parametrize("names", ["_NUMBERS", "_ROWS", "_EXACT"])
def test_room_for_few_sums_changes_nothing(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    random = np.random.default_rng(5)
    users = [some_user(random, 5) for _ in range(30)]
    whole = summed(users, table())
    monkeypatch.setattr(
        outer_products, names, {"_NUMBERS": 12, "_ROWS": 3, "_EXACT": 2.0**30}[names]
    )
    found = summed(users, table())
    if names == "_EXACT":  # every user's moment is formed
        np.testing.assert_allclose(found, whole, atol=1e-3)
    else:
        assert (found == whole).all()


def test_sums_of_more_than_one_slice_are_exact() -> None:
    """Many users who add the same: as often as one's share."""
    rows, items = some_user(np.random.default_rng(6), 2)
    total = OuterProductSum(table(), WIDTH)
    for _ in range(8):
        total.add(np.repeat(rows[None], 512, 0), np.repeat(items[None], 512, 0))
    assert (total.total() == 4096 * summed([(rows, items)], table())).all()


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=40))
def test_row_sums_add_every_entry_once(numbers: list[int]) -> None:
    assert row_sums(np.array(numbers)) == sum(numbers)
