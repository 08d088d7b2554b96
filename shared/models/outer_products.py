"""The sum over users of normalised outer products Σ_t s_t ⊗ e_t, as one matrix product.

A user has T rows s_t [D] and as many target rows e_t [F] of a table of items. It adds its moment
M = Σ_t s_t ⊗ e_t [D, F], scaled to Frobenius norm 1. M need not be formed: with S [T, D] of rows
s_t and E [T, F] of rows e_t,

    ‖M‖² = ‖SᵀE‖² = Σ (S Sᵀ) ∘ (E Eᵀ),

and the sum over users is Gᵀ E, where row i of G [V, D] sums the weighted s_t with target item i.

**One user's share.** The sum with a user is the sum without plus what this user adds, in every bit,
whoever else is there, and no user adds more than length 1. All of it is arithmetic of integers, or
elementwise arithmetic on numbers of this user alone:

1. A target row is multiplied by a power of two so that its largest entry is in [1/2, 1], and
   rounded to multiples of 2^-16; the power goes to the row of S. The table is public.
2. S is multiplied by a power of two so that its largest entry is in [1/2, 1], and rounded to
   multiples of 2^-k. k is at most 20, with 2k + log2 D <= 53 and k + 16 + log2 T <= 53. Products of
   such integers, and all their partial sums, are integers below 2^53, which float64 holds. Both
   Gram matrices, and M where it is formed, are exact in any order of summation, fused or not.
3. The T² terms of ‖M‖² are added in a tree that depends on T alone. With A = Σ_t ‖s_t‖ ‖e_t‖, the
   terms' absolute values add up to A² at most. Each is rounded once and added less than 130 times,
   so ‖M‖² is at most its computed value plus 2^-45 A². The root L of that is taken for the norm.
   Where terms cancel to less than 2^-22 of A, L is longer than M, and the share shorter than 1.
4. W = S w, w = (1 - μ - 2^-28) / L, is rounded to multiples of 2^-24. By Cauchy and Schwarz this
   moves Wᵀ E by at most μ = √(T D) 2^-25 ‖E‖, and the rounding of the product S w moves it by
   2^-53 A w <= 2^-30. So the share is no longer than 1.
5. G sums integers in float64. A bound of its entries is kept, the sum of T 2^20 w over its users.
   Before it passes 2^53 steps, and where G has no room for more items, G is emptied: Gᵀ E is
   computed from slices of 22 bits of G, of at most 2^12 rows each, in integers below
   2^(21 + 16 + 12), exactly. The slices' results are added modulo 2^64. The sum over N users has
   entries of at most N 2^40 steps of 2^-40: for N <= 2^22 below 2^63, so it is the sum itself.
6. M is formed where that is cheaper, D F / (D + F) < T, and where μ > 2^-8 or a user alone has a
   bound above 2^52 steps. Then M w is rounded to multiples of 2^-40, which moves it by at most
   √(D F) 2^-41. Which of the two is done depends on the user alone.

The sum is returned in float64, which holds entries below 2^13 with all their 40 bits; a larger one
is rounded, by 2^-53 of it. A user whose rows or targets are not finite adds nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OuterProductSum", "row_sums"]

_TARGET_BITS, _ROW_BITS, _WEIGHT_BITS = 16, 20, 24
_POINTS = 2.0 ** (_TARGET_BITS + _WEIGHT_BITS)
"""Steps of the grid of sums in the largest length of a share."""
_CANCELLED = 2.0**-45
_ROUNDED = 2.0**-28
_MOST_ROUNDED = 2.0**-8
"""μ above which a moment is formed."""
_SLICE = 22
_NUMBERS, _ROWS = 2**23, 2**16
"""Numbers (64 MiB) and rows of G that are held."""
_ROWS_AT_ONCE = 2**12
"""Rows of G in one product; at most 2^17 would be exact."""
_EXACT = 2.0**53
"""Integers up to it are exact in float64."""
_NONE = -4000
"""An exponent below that of any number."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class OuterProductSum:
    """Adds up users' normalised outer products.

    Args:
        targets: the table that target rows are taken from, [V, F].
        width: D.
        least: Frobenius norm up to which a moment is left out.
    """

    def __init__(self, targets: NDArray[Any], width: int, least: float = 0.0) -> None:
        self._least = least
        items, size = targets.shape
        self._finite, self._any = np.isfinite(targets).all(1), (targets != 0).any(1)  # [V]
        with np.errstate(all="ignore"):
            self._exponents = np.frexp(np.abs(targets).max(1, initial=0.0))[1].astype(np.int64)
            self._exponents[~self._finite] = 0
            scaled = np.ldexp(targets.astype(np.float64), _TARGET_BITS - self._exponents[:, None])
            scaled[~self._finite] = 0
        self._targets = np.rint(scaled).astype(np.int32)  # [V, F]; at most 2^16
        self._slots = np.full(items, -1, np.int64)  # row of G that an item has
        self._items = np.zeros(0, np.int64)  # item of each row of G
        self._bound = 0.0  # of every entry of G
        capacity = max(1, min(items, _ROWS, _NUMBERS // width))
        self._sums = np.zeros((capacity, width))  # G
        self._total = np.zeros((width, size), np.int64)

    def add(self, rows: NDArray[np.float32], items: Ints, counts: Floats | None = None) -> None:
        """Add some users, who have the same number of rows.

        How a user is padded may depend on nothing but itself.

        Args:
            rows: s_t, [B, T, D].
            items: whose target rows are e_t, in 1..V; 0 where there is none, [B, T].
            counts: the length of each user's share, in [0, 1], [B]; None is 1 for all. A share is
                multiplied with it before it is rounded, so that all that is said above holds.
        """
        counts = np.ones(len(rows)) if counts is None else np.clip(counts, 0.0, 1.0)
        (_, length, width), size = rows.shape, self._targets.shape[1]
        largest = np.maximum(rows.max(2), -rows.min(2))  # [B, T]; NaN where a row has one
        finite = np.isfinite(largest) & self._finite[items - 1]
        keep = (finite | (items == 0)).all(1) & (items > 0).any(1)
        if not keep.all():
            rows, items, largest, counts = rows[keep], items[keep], largest[keep], counts[keep]
        if not len(rows):
            return
        valid = (items > 0) & (largest > 0) & self._any[items - 1]
        integers, exponents = self._integers(rows, largest, items, valid)
        if length * (width + size) > width * size:
            self._add_formed(integers, exponents, items, counts)
            return
        weights, moved = self._weights(integers, exponents, items, valid)
        weights *= counts
        bounds = weights * 2.0**_ROW_BITS * length
        far = (moved > _MOST_ROUNDED) | (bounds > _EXACT / 2)
        if far.any():
            self._add_formed(integers[far], exponents[far], items[far], counts[far])
            weights[far] = bounds[far] = 0
        integers *= weights[:, None, None]
        np.rint(integers, out=integers)
        chosen = np.unique(items[valid] - 1)
        for first in range(0, len(chosen), len(self._sums)):
            some = chosen[first : first + len(self._sums)]
            among = valid if len(some) == len(chosen) else valid & np.isin(items - 1, some)
            self._add_rows(integers, items, among, some, float(bounds.sum()))

    def total(self) -> Floats:
        """Return the sum over all users added so far, [D, F]."""
        self._flush()
        return self._total / _POINTS

    def _integers(
        self, rows: NDArray[np.float32], largest: Floats, items: Ints, valid: NDArray[np.bool_]
    ) -> tuple[Floats, Ints]:
        """Return S as whole numbers, and the power of two that its steps are in M: [B]."""
        _, length, width = rows.shape
        bits = min(
            _ROW_BITS,
            (53 - math.ceil(math.log2(width))) // 2,
            53 - _TARGET_BITS - math.ceil(math.log2(length)),
        )
        of_targets = self._exponents[items - 1]
        exponents = np.where(valid, np.frexp(largest)[1] + of_targets, _NONE)
        highest = exponents.max(1, keepdims=True)  # [B, 1]
        shift = np.where(valid, of_targets - highest + bits, _NONE)
        integers = rows.astype(np.float64)
        with np.errstate(all="ignore"):
            integers *= np.ldexp(1.0, shift)[:, :, None]  # [B, T, D]
        if not valid.all():
            integers[~valid] = 0  # whatever is in a row that does not count
        return np.rint(integers, out=integers), highest[:, 0] - bits - _TARGET_BITS

    def _weights(
        self, integers: Floats, exponents: Ints, items: Ints, valid: NDArray[np.bool_]
    ) -> tuple[Floats, Floats]:
        """Return 2^40 w and μ of each user, [B]."""
        users, length, width = integers.shape
        targets = self._targets[items - 1].astype(np.float64)  # [B, T, F]
        if not valid.all():
            targets[~valid] = 0
        of_rows, of_targets = _gram(integers), _gram(targets)  # [B, T, T]
        diagonals = [np.diagonal(gram, axis1=1, axis2=2) for gram in (of_rows, of_targets)]
        terms = row_sums(np.sqrt(diagonals[0]) * np.sqrt(diagonals[1]))  # [B]; A
        squared = row_sums((of_rows * of_targets).reshape(users, length * length))
        norms = np.sqrt(np.maximum(squared, 0.0))
        bounds = np.sqrt(np.maximum(squared, 0.0) + _CANCELLED * terms**2)
        moved = np.sqrt(row_sums(diagonals[1]) * (valid.sum(1) * width)) / (2 * _POINTS)
        return self._scale(norms, bounds, exponents, moved + _ROUNDED), moved

    def _add_formed(self, integers: Floats, exponents: Ints, items: Ints, counts: Floats) -> None:
        moved = math.sqrt(self._total.size) / (2 * _POINTS) + _ROUNDED
        for own, exponent, chosen, count in zip(integers, exponents, items, counts, strict=True):
            # Padded rows of `own` are 0.
            moment = _product(own.T, self._targets[chosen - 1].astype(np.float64))  # exact
            norm = np.sqrt(row_sums((moment**2).reshape(1, -1)))
            weight = count * self._scale(norm, norm, exponent[None], np.array([moved]))
            self._total += np.rint(moment * weight).astype(np.int64)

    def _add_rows(
        self, rows: Floats, items: Ints, among: NDArray[np.bool_], chosen: Ints, bound: float
    ) -> None:
        """Add the marked rows to G; `chosen` are their items, counted from 0."""
        import torch  # noqa: PLC0415 takes seconds, and constants of this room need none

        new = chosen[self._slots[chosen] < 0]
        if len(self._items) + len(new) > len(self._sums) or self._bound + bound > _EXACT:
            self._flush()
            new = chosen
        self._bound += bound
        self._slots[new] = len(self._items) + np.arange(len(new))
        self._items = np.concatenate([self._items, new])
        marked = rows.reshape(-1, rows.shape[2]) if among.all() else rows[among]
        slots = self._slots[items[among] - 1]
        torch.from_numpy(self._sums).index_add_(
            0, torch.from_numpy(slots), torch.from_numpy(marked)
        )

    def _flush(self) -> None:
        """Multiply G by the targets, add the product to the total, and empty G."""
        for start in range(0, len(self._items), _ROWS_AT_ONCE):
            items = self._items[start : start + _ROWS_AT_ONCE]
            self._add_product(self._sums[start : start + len(items)].astype(np.int64), items)
        self._sums[: len(self._items)] = 0
        self._slots[self._items] = -1
        self._items, self._bound = self._items[:0], 0.0

    def _add_product(self, rest: Ints, items: Ints) -> None:
        targets, half, shift = self._targets[items].astype(np.float64), 2 ** (_SLICE - 1), 0
        while rest.any():
            low = ((rest + half) & (2**_SLICE - 1)) - half  # in [-half, half)
            product = _product(low.astype(np.float64).T, targets)  # exact
            self._total += product.astype(np.int64) << shift
            rest, shift = (rest - low) >> _SLICE, shift + _SLICE

    def _scale(self, norms: Floats, bounds: Floats, exponents: Ints, margin: Floats) -> Floats:
        """Return by what users' integers are multiplied, [B]; 0 where a moment is left out."""
        with np.errstate(all="ignore"):
            large = np.ldexp(norms, exponents) > self._least
            scales = np.maximum(1 - margin, 0) * (_POINTS / bounds)
        return np.where(large & np.isfinite(scales), scales, 0.0)


def _gram(rows: Floats) -> Floats:
    """Return rows @ rowsᵀ of each user: [B, T, D] -> [B, T, T]."""
    return _product(rows, rows.transpose(0, 2, 1))


def _product(left: Floats, right: Floats) -> Floats:
    """Return the matrix product by torch, which is up to four times as fast as NumPy's."""
    import torch  # noqa: PLC0415 takes seconds, and constants of this room need none

    product: Floats = (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()
    return product


def row_sums(rows: NDArray[Any]) -> NDArray[Any]:
    """Sum the last axis by adding halves: the order depends on its length alone; [..., F] -> [...].

    >>> row_sums(np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]))
    array([ 7., 56.])
    """
    while rows.shape[-1] > 1:
        half = rows.shape[-1] // 2
        halves = rows[..., :half] + rows[..., half : 2 * half]
        if rows.shape[-1] % 2:
            halves[..., 0] += rows[..., -1]
        rows = halves
    return rows[..., 0]
