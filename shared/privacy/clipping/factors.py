"""Per-user gradients of a weight: formed where they are small, else stored as factors.

Letters: B users, S places where a weight is used in one user's history, I and O a matrix's input
and output size, V rows of a table, D its width.

A user's gradient of a matrix [O, I] is the sum over places of (output gradient) x (input). Small
ones are formed for the whole batch. Large ones are formed for a few users at a time, once, and the
norm is taken of the very numbers that are released. Products of places (Li et al. 2022,
arXiv:2110.05679, section 4) would be cheaper for short histories, and give another norm than that
of the released sum where places cancel. A table of which rows were only looked up keeps the rows.

Every operation here treats each user on its own, and gives the same bits in any order of the
users: products of one user's factors, sums over one user's places, and sums of integers.

All arithmetic is in float32 at least, whatever the precision of the pass that was recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shared.models.products import product_by_user

__all__ = [
    "RUN",
    "FlatForm",
    "Outer",
    "Rows",
    "WeightGradient",
    "exact",
    "power_of_two",
    "squared_norms",
]

FORMED = 2**15
"""Numbers in the largest gradient of one user that is formed for all users of a batch at once."""
RUN = 64
"""Squares that are added up in the gradient's own precision; the rest is added in float64."""
ROW_BITS = 50
"""Binary places kept of a looked-up row's gradient, below the user's largest number."""


@dataclass(frozen=True, slots=True)
class Outer:
    """A weight used as a matrix: `inputs @ weight.T`.

    Attributes:
        inputs: [B, S, I].
        gradients: of the outputs, [B, S, O].
    """

    inputs: Tensor
    gradients: Tensor

    def formed(self, users: slice = slice(None)) -> Tensor:
        """Return the gradients of some users, [B, O, I]."""
        return product_by_user(exact(self.gradients[users]).mT, exact(self.inputs[users]))

    def small(self) -> bool:
        """Return whether every user's gradient may be formed at once."""
        return self.inputs.shape[2] * self.gradients.shape[2] <= FORMED


@dataclass(frozen=True, slots=True)
class Rows:
    """A weight used as a table: rows of it were looked up.

    Attributes:
        ids: [B, S], in 0..V-1.
        gradients: of what was looked up, [B, S, D], float32 at least; 0 where it does not count.
    """

    ids: Tensor
    gradients: Tensor

    def merged(self) -> Rows:
        """Add up look-ups of the same row: each id occurs once, other places hold 0 and id 0.

        The sums are of integers, so that they do not depend on the order of addition: a user's
        gradients are moved to a grid of `ROW_BITS` places (fewer beyond 4096 look-ups) below the
        power of two above the user's largest number. A user with a number that is not finite gets
        NaN everywhere.
        """
        ids, order = self.ids.sort(dim=1)
        fresh = torch.ones_like(ids)
        fresh[:, 1:] = ids[:, 1:] != ids[:, :-1]
        slots = torch.empty_like(ids).scatter_(1, order, fresh.cumsum(1) - 1)  # (B, S)
        bits = min(ROW_BITS, 62 - max(1, ids.shape[1]).bit_length())
        values = self.gradients.double()
        largest = torch.cat([values.abs().flatten(1), values.new_zeros(len(values), 1)], 1).amax(1)
        finite = largest.isfinite()
        exponents = torch.frexp(largest.where(finite, 0)).exponent.long()
        up, down = power_of_two(bits - exponents), power_of_two(exponents - bits)
        up, down = up[:, None, None], down.where(finite, math.nan)[:, None, None]
        points = (values * up).nan_to_num_(0.0, 0.0, 0.0).round_().long()
        across = slots[..., None].expand_as(points)
        sums = torch.zeros_like(points).scatter_add_(1, across, points)
        return Rows(
            torch.zeros_like(self.ids).scatter_(1, slots, self.ids),
            (sums * down).to(self.gradients.dtype),
        )

    def formed(self, rows: int) -> Tensor:
        """Return every user's gradient, [B, V, D]; `self` is merged."""
        users, _, width = self.gradients.shape
        tile = self.gradients.new_zeros(users, rows, width)
        self.add_to(tile)
        return tile

    def add_to(self, formed: Tensor, users: slice = slice(None)) -> None:
        """Add to the gradients [B, V, D] of some users; `self` is merged."""
        ids, gradients = self.ids[users], self.gradients[users]
        formed.scatter_add_(1, ids[..., None].expand_as(gradients), gradients)


@dataclass(slots=True)
class WeightGradient:
    """Every user's gradient of one weight, from all the places where the weight was used.

    Attributes:
        shape: of the weight.
        table: has one row an item, so that no batch of users' gradients is ever formed.
        formed: [B, *shape], or None; after `join` the whole, if it is small.
        outers: uses as a matrix; after `join` one at most.
        rows: uses as a table; after `join` one at most, merged.
    """

    shape: torch.Size
    table: bool
    formed: Tensor | None = None
    outers: list[Outer] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)

    def add(self, use: Tensor | Outer | Rows) -> None:
        """Add one use: every user's gradient [B, *shape], or its factors."""
        if isinstance(use, Rows):
            self.rows.append(use)
        elif isinstance(use, Outer) and (self.table or not use.small()):
            self.outers.append(use)
        else:
            formed = use.formed() if isinstance(use, Outer) else exact(use)
            self.formed = formed if self.formed is None else self.formed + formed

    def join(self) -> None:
        """Make uses of one kind one, so that a norm is of their sum; form what is small."""
        if len(self.outers) > 1:
            inputs = torch.cat([outer.inputs for outer in self.outers], dim=1)
            self.outers = [Outer(inputs, torch.cat([o.gradients for o in self.outers], dim=1))]
        if self.rows:
            ids = torch.cat([rows.ids for rows in self.rows], dim=1)
            rows = Rows(ids, torch.cat([rows.gradients for rows in self.rows], dim=1)).merged()
            self.rows = [rows]
        if self.formed is not None or (self.rows and not self.outers and self._small()):
            self._form_all()

    def form(self, users: slice) -> Tensor:
        """Return the gradients of some users, [B, *shape], if they are in `outers` after `join`.

        The result for a user does not depend on the other users of the call.
        """
        formed = self.outers[0].formed(users)
        for rows in self.rows:
            rows.add_to(formed, users)
        return formed

    def _small(self) -> bool:
        return math.prod(self.shape) <= FORMED

    def _form_all(self) -> None:
        for outer in self.outers:
            formed = outer.formed()
            self.formed = formed if self.formed is None else self.formed + formed
        for rows in self.rows:
            formed = rows.formed(self.shape[0])
            self.formed = formed if self.formed is None else self.formed + formed
        self.outers, self.rows = [], []


class FlatForm:
    """How the gradients of several weights are joined to one row of numbers a user.

    One pass over a row then does what would be dozens over its parts. Two forms of the same
    weights are equal.

    Args:
        weights: in the order of their parts.

    Attributes:
        starts: where each weight's part begins.
        numbers: in a row.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.starts: dict[Tensor, int] = {}
        self.numbers = 0
        for weight in weights:
            self.starts[weight] = self.numbers
            self.numbers += weight.numel()
        self._key = tuple(map(id, self.starts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FlatForm) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def join(self, gradients: Mapping[Tensor, Tensor], like: Tensor) -> Tensor:
        """Join gradients [B, *shape], one of each weight, to rows [B, numbers] in new memory.

        Args:
            gradients: of every weight.
            like: [B], for the form of an empty row.
        """
        parts = [gradients[weight].flatten(1) for weight in self.starts]
        return torch.cat(parts, dim=1) if parts else exact(like.new_zeros(len(like), 0))

    def part(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return a weight's part of rows, [..., numbers] -> [..., *shape]."""
        start = self.starts[weight]
        part = rows[..., start : start + weight.numel()]
        return part.reshape(*rows.shape[:-1], *weight.shape)


def squared_norms(values: Tensor) -> Tensor:
    """Return each user's squared Euclidean norm, [B, ...] -> float64 [B].

    No more than `RUN` squares are added up in the values' precision, in whatever order, so a norm
    is wrong by less than a share RUN / 2 + 2 of the unit roundoff.
    """
    flat = values.flatten(1)
    whole = flat.shape[1] - flat.shape[1] % RUN
    total = flat.new_zeros(len(flat), dtype=torch.float64)
    for part in (flat[:, :whole].view(len(flat), whole // RUN, RUN), flat[:, None, whole:]):
        total += torch.linalg.vector_norm(part, dim=2).double().square().sum(1)
    return total


def power_of_two(exponents: Tensor) -> Tensor:
    """Return 2^exponents, exactly, of int64 in -1022..1023; float64."""
    return ((exponents + 1023) << 52).view(torch.float64)


def exact(values: Tensor) -> Tensor:
    """Return the values in float32, or in float64 if they are that."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
