"""The clipped sum of one large matrix's per-user gradients, of which none is formed.

A user's gradient of a matrix [O, I] is M = Gᵀ A, of what went into its S places, A [S, I], and what
came back to their outputs, G [S, O]. With few places it costs more to write M down than to compute
it. As for sums of moments (`shared.models.outer_products`),

    ‖M‖² = Σ (G Gᵀ) ∘ (A Aᵀ),    Σ_users w M = (stacked w G)ᵀ (stacked A),

and all that users add together is one matrix product. Letters: B users.

**One user's share.** The sum with a user is the sum without plus what that user adds, in every bit,
and nobody adds more than is allowed. All of it is arithmetic of integers, or elementwise arithmetic
on numbers of this user alone:

1. A row of A is multiplied by a power of two so that its largest entry is in [1/2, 1], and rounded
   to multiples of 2^-18; the power goes to the row of G.
2. G is multiplied by a power of two so that its largest entry is in [1/2, 1], and rounded to
   multiples of 2^-k, k <= 20 with 2k + log2 O <= 53. The gradient M is from here on the product of
   these integers, and within about 2^-18 of what it was. Products of such integers and their
   partial sums are below 2^53: both Gram matrices are exact in any order of summation.
3. The S² terms of ‖M‖² are added in a tree that depends on S alone. With Q = Σ_s ‖g_s‖ ‖a_s‖ their
   absolute values add up to Q² at most; each is rounded once and added less than 130 times. So
   ‖M‖² is at most its computed value plus 2^-45 Q², and that is what is reported. Where places
   cancel to less than 2^-22 of Q, it is more than ‖M‖², and the user adds less than it might.
4. W = G w is rounded to multiples of one, where M w counts in steps of 2^-42 of the clip norm. By
   Cauchy and Schwarz this moves Wᵀ A by at most √(S O) ‖A‖ / 2 steps, and rounding the product
   G w moves it by 2^-53 Q w steps, at most 2^-30 of the clip norm. Both are reserved before w is
   chosen (`reserved`).
5. Wᵀ A is computed from slices of 26 bits of W, at most 2^9 places a product, in integers below
   2^(25 + 18 + 9) < 2^53, exactly, and added in int64, whose high bits are kept apart in time.
   While no entry can exceed 2^53, products of one slice are added up in float64, also exactly, and
   by the product itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.privacy.clipping.factors import Outer, exact, power_of_two

__all__ = ["Factored", "OuterSum", "pays"]

POINT_BITS = 42
"""Binary places of the sum's grid below the clip norm."""
_INPUT_BITS, _GRADIENT_BITS, _SLICE, _PLACES = 18, 20, 26, 2**9
_CANCELLED, _ROUNDED = 2.0**-45, 2.0**-28
_MOST_RESERVED = 2.0**-8
"""Share of the clip norm that rounding may take at most."""
_LEAST = -500
"""An exponent below that of any product of float32 numbers."""
_WIDEST = 2**17
"""Most inputs or outputs whose Gram matrices are exact."""
_CARRIED, _USERS = 20, 2**19
"""Low bits of the sum that are kept below the high ones, and users between two carries."""


def pays(places: int, inputs: int, outputs: int) -> bool:
    """Return whether a matrix's gradients are better not formed: by shapes alone.

    Args:
        places: S.
        inputs: I.
        outputs: O.

    >>> pays(50, 900, 900), pays(50, 64, 64), pays(600, 900, 900)
    (True, False, False)
    """
    if max(inputs, outputs) > _WIDEST:
        return False
    rounding = places * math.sqrt(inputs * outputs) * 2.0 ** (_INPUT_BITS - POINT_BITS - 1)
    return places * (inputs + outputs) < inputs * outputs and rounding <= _MOST_RESERVED


@dataclass(frozen=True, slots=True)
class Factored:
    """Users' gradients of one matrix, in factors of whole numbers.

    Attributes:
        inputs: A, whole numbers in float64, [B, S, I].
        gradients: G, whole numbers in float64, [B, S, O].
        exponents: of the power of two that M's steps are, int64 [B].
        squared: upper bound of ‖M‖², float64 [B]; NaN of a user with a number that is not finite.
        reserved: what rounding may add to a share, over the clip norm, [B].
    """

    inputs: Tensor
    gradients: Tensor
    exponents: Tensor
    squared: Tensor
    reserved: Tensor

    @classmethod
    def of(cls, use: Outer) -> Factored:
        """Round the factors of some users' gradients, and measure what they then make."""
        inputs, gradients = exact(use.inputs), exact(use.gradients)
        users, places, out = gradients.shape
        bits = min(_GRADIENT_BITS, (53 - math.ceil(math.log2(out))) // 2)
        largest = [x.abs().amax(2) for x in (inputs, gradients)]  # [B, S]
        finite = (largest[0].isfinite() & largest[1].isfinite()).all(1)  # [B]
        counted = (largest[0] > 0) & (largest[1] > 0) & finite[:, None]  # [B, S]
        of_inputs, of_gradients = (
            torch.frexp(values.where(counted, 0)).exponent.long() for values in largest
        )
        highest = (of_inputs + of_gradients).where(counted, _LEAST).amax(1)  # [B]
        whole = _whole(inputs, _INPUT_BITS - of_inputs, counted)
        rows = _whole(gradients, of_inputs - highest[:, None] + bits, counted)
        of_rows, of_whole = rows @ rows.mT, whole @ whole.mT  # [B, S, S], exact
        sizes = [gram.diagonal(dim1=1, dim2=2) for gram in (of_rows, of_whole)]
        terms = _tree_sum(sizes[0].sqrt() * sizes[1].sqrt())  # Q
        squared = _tree_sum((of_rows * of_whole).view(users, -1)).clamp(min=0)
        squared = squared + _CANCELLED * terms.square()
        exponents = (highest - bits - _INPUT_BITS).clamp(min=_LEAST)
        moved = (_tree_sum(sizes[1]) * (places * out)).sqrt() * 2.0 ** -(POINT_BITS + 1)
        squared = (squared * power_of_two(2 * exponents)).where(finite, math.nan)
        return cls(whole, rows, exponents, squared, moved + _ROUNDED)


class OuterSum:
    """The sum over users of `Factored` gradients, each times its own factor.

    Args:
        outputs: O.
        inputs: I.
    """

    def __init__(self, outputs: int, inputs: int) -> None:
        self._total = torch.zeros(outputs, inputs, dtype=torch.int64)
        self._high = torch.zeros_like(self._total)
        self._users = 0
        self._recent = torch.zeros_like(self._total, dtype=torch.float64)
        self._largest = 0.0  # that an entry of `_recent` can have

    def add(self, users: Factored, scales: Tensor) -> None:
        """Add some users' shares.

        Args:
            users: B of them.
            scales: what each gradient is multiplied with, over the clip norm, float64 [B], >= 0.
        """
        if self._users + len(scales) > _USERS:
            self._carry()
        self._users += len(scales)
        weights = (scales * power_of_two(users.exponents + POINT_BITS)).where(scales > 0, 0)
        whole = (users.gradients * weights[:, None, None]).round_().flatten(0, 1)
        inputs = users.inputs.flatten(0, 1)
        for own, of_inputs in zip(whole.split(_PLACES), inputs.split(_PLACES), strict=True):
            largest = max(map(abs, map(float, own.aminmax())))
            if largest < 2.0 ** (_SLICE - 1):
                self._add_recent(own, of_inputs, largest)
            else:
                self._add_slices(own.long(), of_inputs)

    def _add_recent(self, whole: Tensor, inputs: Tensor, largest: float) -> None:
        """Add a product of one slice, whose numbers are at most `largest`."""
        most = largest * 2.0**_INPUT_BITS * len(whole)
        if self._largest + most > 2.0**53:
            self._settle()
        self._largest += most
        self._recent.addmm_(whole.mT, inputs)

    def _settle(self) -> None:
        self._total += self._recent.long()
        self._recent.zero_()
        self._largest = 0.0

    def _add_slices(self, rest: Tensor, inputs: Tensor) -> None:
        half, shift = 2 ** (_SLICE - 1), 0
        while bool(rest.any()):
            low = ((rest + half) & (2**_SLICE - 1)) - half  # in [-half, half)
            product = low.double().mT @ inputs  # exact
            self._total += product.long() << shift
            rest, shift = (rest - low) >> _SLICE, shift + _SLICE

    def total(self) -> Tensor:
        """Return the sum over the clip norm, float64 [O, I]."""
        self._carry()
        return (self._high.double() * 2.0**_CARRIED + self._total.double()) * 2.0**-POINT_BITS

    def _carry(self) -> None:
        self._settle()
        self._high += self._total >> _CARRIED
        self._total &= 2**_CARRIED - 1
        self._users = 0


def _whole(values: Tensor, exponents: Tensor, counted: Tensor) -> Tensor:
    """Return rows [B, S, D] times powers of two [B, S], as whole numbers; 0 where not counted."""
    scaled = values.double().where(counted[..., None], 0)
    return scaled.mul_(power_of_two(exponents.where(counted, 0))[..., None]).round_()


def _tree_sum(values: Tensor) -> Tensor:
    """Sum [B, N] over N by adding halves: the order depends on N alone."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        halves = values[:, :half] + values[:, half : 2 * half]
        if values.shape[1] % 2:
            halves[:, 0] += values[:, -1]
        values = halves
    return values[:, 0]
