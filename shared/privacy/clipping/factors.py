"""What each user adds to one weight's gradient, kept in factors instead of formed.

Letters: B users, S places where a weight is used in one user's history, I and O a matrix's input
and output size, V rows of a table, D its width.

A user's gradient of a matrix [O, I] is the sum over places of (output gradient) x (input). Where
that is small it is formed. Where it is not, and of an item table never, its norm is taken a few of
its rows at a time, and one product gives the sum over users, each with a factor of its own (Bu et
al. 2023, arXiv:2210.00038, algorithm 1). The S x S products that are usually taken for the norm
(Li et al. 2022, arXiv:2110.05679, section 4) are not: where places cancel, or the two uses of a
tied table do, their difference of squares keeps no digit, and a user could pass the bound.

All arithmetic is in float32 at least, whatever the precision of the pass that was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Outer", "Rows", "WeightGradient", "exact"]

FORMED = 2**15
"""Numbers in the largest gradient of one user that is formed: a layer of the blocks, no table."""
TILE = {"cpu": 2**21, "cuda": 2**26}
"""Numbers of gradients held at once: what a CPU's cache takes, what keeps a GPU busy."""


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
        """Whether every user's gradient may be formed."""
        return self.inputs.shape[2] * self.gradients.shape[2] <= FORMED

    def size(self) -> Tensor:
        """Sum over places of the terms' norms, [B]."""
        inputs, gradients = _lengths(self.inputs), _lengths(self.gradients)
        return (inputs * gradients).sum(1)

    def squared_norms(self, rows: Rows | None) -> Tensor:
        """Each user's squared norm [B], with what it adds to rows of the same weight."""
        inputs = exact(self.inputs).mT.contiguous()  # (B, I, S)
        most = TILE.get(inputs.device.type, TILE["cpu"])
        width = max(1, most // max(1, inputs[..., 0].numel()))
        squared = inputs.new_zeros(len(inputs))
        for start in range(0, self.gradients.shape[2], width):
            gradients = exact(self.gradients[..., start : start + width])
            tile = torch.bmm(inputs, gradients)  # (B, I, width), transposed
            if rows is not None:
                rows.add_to_tile(tile, start)
            squared += torch.linalg.vector_norm(tile, dim=(1, 2)).square()
        return squared

    def add_weighted(self, total: Tensor, factors: Tensor) -> None:
        """Adds the sum over users of factor times gradient to `total` [O, I]."""
        inputs = (exact(self.inputs) * factors[:, None, None]).flatten(0, 1)
        # Three times as fast on a CPU as the transposed product, whose left side is the large one.
        total += (inputs.T @ exact(self.gradients).flatten(0, 1)).T


@dataclass(frozen=True, slots=True)
class Rows:
    """A weight used as a table: rows of it were looked up.

    Attributes:
        ids: [B, S], in 0..V-1.
        gradients: of what was looked up, [B, S, D], float32 at least; 0 where it does not count.
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

    def formed(self, rows: int) -> Tensor:
        """Every user's gradient, [B, V, D]."""
        users, _, wide = self.gradients.shape
        tile = self.gradients.new_zeros(users, wide, rows)
        self.add_to_tile(tile, 0)
        return tile.mT

    def size(self) -> Tensor:
        """Sum over places of the terms' norms, [B]."""
        return _lengths(self.gradients).sum(1)

    def add_to_tile(self, tile: Tensor, start: int) -> None:
        """Adds the part that falls on rows `start`.. to every user's [B, D, width]."""
        rows = self.ids - start
        users, places = ((rows >= 0) & (rows < tile.shape[2])).nonzero(as_tuple=True)
        at = users, rows[users, places]
        tile.mT.index_put_(at, self.gradients[users, places], accumulate=True)

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
        """Each user's squared norm [B], and the size of the terms that were not added up yet [B].

        The size says how well the norm is that of what will be added: terms that cancel leave a
        rest that is rounded anew each time it is computed.
        """
        self._join()
        rows = self.rows[0] if self.rows else None
        sizes = [outer.size() for outer in self.outers] + [rows.size() for rows in self.rows]
        if self.outers:
            return self.outers[0].squared_norms(rows), torch.stack(sizes).sum(0)
        if rows is not None:
            return rows.squared_norms(), sizes[0]
        assert self.formed is not None
        squared = torch.linalg.vector_norm(self.formed.flatten(1), dim=1).square()
        return squared, torch.zeros_like(squared)

    def silence(self, users: Tensor) -> None:
        """Makes the gradients of some users 0, whatever they hold; `users` is a mask [B]."""

        def cleared(gradients: Tensor) -> Tensor:
            return gradients.masked_fill(users.view(-1, *[1] * (gradients.dim() - 1)), 0)

        if self.formed is not None:
            self.formed = cleared(self.formed)
        self.outers = [Outer(cleared(o.inputs), cleared(o.gradients)) for o in self.outers]
        self.rows = [Rows(r.ids, cleared(r.gradients)) for r in self.rows]

    def add_weighted(self, total: Tensor, factors: Tensor) -> None:
        """Adds the sum over users of factor [B] times gradient to `total` [*shape]."""
        if self.formed is not None:
            total += (factors @ self.formed.flatten(1)).view_as(total)
        for outer in self.outers:
            outer.add_weighted(total, factors)
        for rows in self.rows:
            rows.add_weighted(total, factors)

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
            for rows in self.rows:
                self.formed = self.formed + rows.formed(self.formed.shape[1])
            self.outers, self.rows = [], []


def _lengths(values: Tensor) -> Tensor:  # (B, S, D) -> (B, S)
    out: Tensor = torch.linalg.vector_norm(exact(values), dim=2)
    return out


def exact(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they are that."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
