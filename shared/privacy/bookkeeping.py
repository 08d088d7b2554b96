"""What each user adds to one weight's gradient, kept in factors instead of formed.

Letters: B users, S places where a weight is used in one user's history, I and O a matrix's input
and output size, V rows of a table, D its width.

A user's gradient of a matrix [O, I] is the sum over places of (output gradient) x (input). Where
that is small it is formed. Where it is not, and of an item table never, two products of S x S give
its norm (Goodfellow 2015, arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679, section 4), and one
product gives the sum over users, each with a factor of its own (Bu et al. 2023, arXiv:2210.00038,
algorithm 1).

All arithmetic is in float32 at least, whatever the precision of the pass that was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Outer", "Rows", "WeightGradient", "exact"]

ROUNDING = 1e-7
"""Error of an inner product in float32, as a share of the product of its sides' norms."""
TILE = 2**21
"""Numbers of an item table's gradients held at once."""


@dataclass(frozen=True, slots=True)
class Outer:
    """A weight used as a matrix: `inputs @ weight.T`.

    Attributes:
        inputs: [B, S, I].
        gradients: of the outputs, [B, S, O].
    """

    inputs: Tensor
    gradients: Tensor

    def formed(self) -> Tensor:
        """Every user's gradient, [B, O, I]."""
        return torch.bmm(exact(self.gradients).mT, exact(self.inputs))

    def small(self) -> bool:
        """Whether forming it takes no more memory than its factors do."""
        (_, places, inputs), outputs = self.inputs.shape, self.gradients.shape[2]
        return inputs * outputs <= 4 * places * (inputs + outputs)

    def squared_norms(self) -> tuple[Tensor, Tensor]:
        """Each user's squared norm [B], and how large the terms were that gave its root [B]."""
        inputs, gradients = exact(self.inputs), exact(self.gradients)
        places, wide = inputs.shape[1:]
        if places < wide:
            return _squared_by_places(inputs, gradients)
        squared = _squared_by_tiles(inputs, gradients)
        return squared, squared.sqrt()

    def add_weighted(self, total: Tensor, factors: Tensor) -> None:
        """Adds the sum over users of factor times gradient to `total` [O, I]."""
        inputs = (exact(self.inputs) * factors[:, None, None]).flatten(0, 1)
        # Three times as fast on a CPU as the transposed product, whose left side is the large one.
        total += (inputs.T @ exact(self.gradients).flatten(0, 1)).T


def _squared_by_places(inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """From two products [B, S, S]; what cancels between places is known no better than its terms."""
    alike = torch.bmm(inputs, inputs.mT), torch.bmm(gradients, gradients.mT)
    sizes = [product.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt() for product in alike]
    return (alike[0] * alike[1]).sum((1, 2)), (sizes[0] * sizes[1]).sum(1)


def _squared_by_tiles(inputs: Tensor, gradients: Tensor) -> Tensor:
    """From a few outputs' gradients at a time, [B, I, few], each let go again."""
    transposed = inputs.mT.contiguous()
    few = max(1, TILE // max(1, transposed[..., 0].numel()))
    squared = inputs.new_zeros(len(inputs))
    for tile in gradients.split(few, dim=2):
        squared += torch.linalg.vector_norm(torch.bmm(transposed, tile), dim=(1, 2)).square()
    return squared


@dataclass(frozen=True, slots=True)
class Rows:
    """A weight used as a table: rows of it were looked up.

    Attributes:
        ids: [B, S], in 0..V-1.
        gradients: of what was looked up, [B, S, D], float32 at least; 0 where a look-up does not count.
    """

    ids: Tensor
    gradients: Tensor

    def squared_norms(self) -> Tensor:
        """[B]; look-ups of the same row are added up before they are squared."""
        ids, order = self.ids.sort(dim=1)
        across = (-1, -1, self.gradients.shape[2])
        gradients = self.gradients.gather(1, order[..., None].expand(across))
        fresh = torch.ones_like(ids)
        fresh[:, 1:] = ids[:, 1:] != ids[:, :-1]
        slots = (fresh.cumsum(1) - 1)[..., None].expand(across)
        return torch.zeros_like(gradients).scatter_add_(1, slots, gradients).pow(2).sum((1, 2))

    def dot(self, outer: Outer) -> Tensor:
        """Each user's inner product with a gradient in factors, [B]."""
        # (B, S, S'): what place s as a matrix gave to the row that place s' looked up
        places = self.ids[:, None, :].expand(-1, outer.gradients.shape[1], -1)
        given = exact(outer.gradients.gather(2, places))
        return (given * torch.bmm(exact(outer.inputs), self.gradients.mT)).sum((1, 2))

    def add_weighted(self, total: Tensor, factors: Tensor) -> None:
        """Adds the sum over users of factor times gradient to `total` [V, D]."""
        gradients = self.gradients * factors[:, None, None]
        total.index_add_(0, self.ids.flatten(), gradients.flatten(0, 1))


@dataclass(slots=True)
class WeightGradient:
    """Every user's gradient of one weight, from all the places where the weight was used.

    Attributes:
        table: has one row an item, so that no user's gradient is ever formed.
        formed: [B, *shape], or None.
        outers: uses as a matrix.
        rows: uses as a table.
    """

    table: bool
    formed: Tensor | None = None
    outers: list[Outer] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)

    def add(self, use: Tensor | Outer | Rows) -> None:
        """Adds one use: every user's gradient [B, *shape], or its factors."""
        if isinstance(use, Rows):
            self.rows.append(use)
        elif isinstance(use, Outer) and (self.table or not use.small()):
            self.outers.append(use)
        else:
            formed = use.formed() if isinstance(use, Outer) else exact(use)
            self.formed = formed if self.formed is None else self.formed + formed

    def squared_norms(self) -> tuple[Tensor, Tensor]:
        """Each user's squared norm [B], and by how much rounding may have lowered it [B].

        Terms that cancel leave a small rest, which is known no better than the terms were.
        """
        self._join()
        squares, sizes = [], []
        if self.formed is not None:
            squares.append(torch.linalg.vector_norm(self.formed.flatten(1), dim=1).square())
        for outer in self.outers:
            square, size = outer.squared_norms()
            squares.append(square)
            sizes.append(size)
        for rows in self.rows:
            squares.append(rows.squared_norms())
            sizes.append(squares[-1].sqrt())
            squares += [2 * rows.dot(outer) for outer in self.outers]
        total = torch.stack(squares).sum(0)
        if not self.outers:
            return total, torch.zeros_like(total)
        return total, ROUNDING * torch.stack(sizes).sum(0).square()

    def silence(self, users: Tensor) -> None:
        """Makes the gradients of some users 0, whatever they hold; `users` is a mask [B]."""

        def cleared(gradients: Tensor) -> Tensor:
            return gradients.masked_fill(users.view(-1, *[1] * (gradients.dim() - 1)), 0)

        if self.formed is not None:
            self.formed = cleared(self.formed)
        self.outers = [Outer(cleared(o.inputs), cleared(o.gradients)) for o in self.outers]
        self.rows = [Rows(r.ids, cleared(r.gradients)) for r in self.rows]

    def add_weighted(self, total: Tensor, factors: Tensor) -> None:
        """Adds the sum over users of factor [B] times gradient to `total`, of the weight's shape."""
        if self.formed is not None:
            total += (factors @ self.formed.flatten(1)).view_as(total)
        for use in (*self.outers, *self.rows):
            use.add_weighted(total, factors)

    def _join(self) -> None:
        """Uses of one kind become one: a norm is of their sum."""
        if len(self.outers) > 1:
            inputs = torch.cat([outer.inputs for outer in self.outers], dim=1)
            self.outers = [Outer(inputs, torch.cat([o.gradients for o in self.outers], dim=1))]
        if len(self.rows) > 1:
            ids = torch.cat([rows.ids for rows in self.rows], dim=1)
            self.rows = [Rows(ids, torch.cat([rows.gradients for rows in self.rows], dim=1))]
        if self.formed is not None:
            for outer in self.outers:
                self.formed = self.formed + outer.formed()
            self.outers = []


def exact(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they are that."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
