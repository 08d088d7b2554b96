"""Exact per-user clipping from one backward pass.

One user's whole history is one sample. A pass records what goes into each layer and the gradient
that comes back to its output; no weight's gradient is formed on the way. From the records follow
every user's gradient norm, and then the sum of all gradients, each scaled down to norm C at most
(Abadi et al. 2016, arXiv:1607.00133, algorithm 1; in one pass: Bu et al. 2023, arXiv:2210.00038).

The bound. Let G be a user's gradient as its numbers stand in memory, d of them, with whatever
rounding they were computed. Nothing else is measured, scaled or released. With unit roundoff u and
the grid's step g = C / 2^b (`shared.privacy.clipping.grid`), the user adds g round(s G), where

    s = min(1, (C - g √d / 2) / ((1 + ρ) n + m)) / g,    ρ = (RUN + 8) u,

n is the computed norm and m = √d 2^-63 what squares may lose to underflow. n is off by a share of
at most (RUN / 2 + 2) u: no more than RUN squares are added in short precision. s and the products
are rounded by 3 u at most, and rounding to d whole numbers adds √d / 2. So what a user adds is no
longer than C, for any finite weights, however its places cancel. The sum is one of integers, so
that it moves by exactly what a user adds when that user is added or removed: no rounding of a sum,
no order and no division into batches enters the sensitivity.

A large matrix that has few places in a history is not formed: `shared.privacy.clipping.outer_sums`
measures what it adds, and how much of C its rounding takes; s is chosen from what is left of C.

That a user's numbers G are the same bits whoever else is in the batch is not settled here but in
`client.compute.batches`.

What would break the bound without an error elsewhere, and what happens here:

| a model or a loss that | here |
|---|---|
| holds trainable weights in a layer that is not known | refused when built, by the layer's name |
| uses a weight outside its layer (`h @ item.weight.T`), or penalises weights | refused |
| gives one loss for the whole batch | refused: it must be one a user, [B] |
| lacks a batch axis (positions `[T]`, shared negatives `[K]`) | refused, also where T = B |
| mixes users (a mean over the batch, negatives from it) | refused by `probe` |
| changes in place what a layer has read | refused |
| gives a user a gradient or a loss that is not finite | that user adds nothing |
| calls `losses.sum().backward()` | refused |

Weights that a user's friends enter are clipped apart (`shared.privacy.clipping.linked`): what is
said of C above then holds of each part and its bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from shared.errors import ClippingError
from shared.models.item_scores import ItemScores
from shared.privacy.clipping.factors import RUN, FlatForm, WeightGradient, squared_norms
from shared.privacy.clipping.grid import GridSum, grid_bits
from shared.privacy.clipping.layers import RULES, linear_maps_by_user, objection
from shared.privacy.clipping.linked import Part, parts_of
from shared.privacy.clipping.outer_sums import Factored, OuterSum, pays

__all__ = ["LARGEST_NORM", "SMALLEST_NORM", "PerUserClipping"]

SMALLEST_NORM, LARGEST_NORM = 1e-12, 1e12
"""Beyond these a squared norm leaves float32's range."""
_AT_ONCE = {"cpu": 1, "cuda": 2**26}
"""Numbers of large gradients formed at once, one user's at least: what keeps a GPU busy."""
_UNDERFLOW = 2.0**-63
"""Square root of float32's smallest normal number: what a square may lose."""


@dataclass(frozen=True, slots=True)
class _Record:
    """One call of a layer."""

    layer: nn.Module
    inputs: tuple[Any, ...]
    versions: list[int]


class PerUserClipping:
    """Clipped sums of per-user gradients, while it is entered.

    Within the context the model's forward passes are recorded, and `backward` takes the place of
    the losses' own. What a pass without gradients computes is unchanged.

    Args:
        model: every trainable weight lies in a layer that `shared.privacy.clipping.layers` knows.
        clip_norm: bound C on the Euclidean norm of what one user adds, over all weights together.
        weight_by_weight: also keep `weight_norms`, which a check needs and training does not.

    Attributes:
        weight_norms: after `backward`, each user's norm [B] over one weight alone, by weight.

    Raises:
        ClippingError: a layer's per-user gradients are not known, or C is out of range.
    """

    def __init__(
        self, model: nn.Module, clip_norm: float, *, weight_by_weight: bool = False
    ) -> None:
        if not SMALLEST_NORM <= clip_norm <= LARGEST_NORM:
            raise ClippingError(
                f"clip_norm = {clip_norm}: choose one from {SMALLEST_NORM:g} to {LARGEST_NORM:g}."
            )
        self._clip_norm, self._model, self._frozen = clip_norm, model, ExitStack()
        self._layers = _layers_of(model)
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._own, self._linked = parts_of(model)
        self._tables = _tables_in(self._layers)
        self._sums: dict[Tensor, GridSum] = {}
        self._flat_sums: dict[FlatForm, GridSum] = {}
        self._outer_sums: dict[Tensor, OuterSum] = {}
        self._weight_by_weight = weight_by_weight
        self.weight_norms: dict[Tensor, Tensor] = {}
        self._users: int | None = None
        self._forget()

    def __enter__(self) -> Self:
        for layer in self._layers:
            vars(layer)["forward"] = partial(self._recorded, layer)
        self._frozen.enter_context(linear_maps_by_user(self._model))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._frozen.close()
        for layer in self._layers:
            vars(layer).pop("forward", None)
        self._forget()

    def zero_sums(self) -> None:
        """Start a logical batch: set the sum of every weight to 0."""
        self._forget()
        self._sums.clear()
        self._flat_sums.clear()
        self._outer_sums.clear()

    def sum_of(self, weight: Tensor) -> Tensor:
        """Return a weight's clipped sum since `zero_sums`, float64. Private: never to leave."""
        total = torch.zeros_like(weight, dtype=torch.int64)
        if weight in self._sums:
            total += self._sums[weight].total()
        for form, points in self._flat_sums.items():
            if weight in form.starts:
                total += form.part(points.total(), weight)
        exact = total.double().mul_(self._step(weight.dtype))
        if weight in self._outer_sums:
            exact += self._outer_sums[weight].total() * self._clip_norm
        return exact

    def sums(self) -> dict[Tensor, Tensor]:
        """Return every weight's clipped sum."""
        return {weight: self.sum_of(weight) for weight in self._weights}

    def backward(self, losses: Tensor, counts: Tensor | None = None) -> Tensor:
        """Add the clipped gradients of the users of one physical batch to the sums.

        Args:
            losses: one a user, [B], from a forward pass in this context. A user's loss depends on
                no other user.
            counts: of each user, in [0, 1], [B]: what its gradient is multiplied with after it was
                clipped, so that it adds at most so much of the clip norm; None is 1 for all.

        Returns:
            Norm of each user's gradient before clipping, [B], without linked weights. Private:
            never to leave.

        Raises:
            ClippingError: the losses are not [B], a weight was used outside its layer, a layer
                had no batch axis, or its input was changed in place.
        """
        if losses.dim() != 1:
            raise ClippingError(
                f"losses have shape {list(losses.shape)}, not one a user [B]: average within each "
                "user, never over the batch."
            )
        leaves, weights = self._leaves, self._weights
        self._users = len(losses)
        try:
            computed = torch.autograd.grad(losses.sum(), [*leaves, *weights], allow_unused=True)
        finally:
            self._users = None
        self._refuse_strays(computed[len(leaves) :])
        gradients = self._gradients
        self._forget()
        ones = torch.ones(len(losses), dtype=torch.float64)
        counted = (ones if counts is None else counts.double().clamp(0, 1)).to(losses.device)
        of_friends = frozenset[Tensor]() if self._linked is None else self._linked.weights
        own = {weight: g for weight, g in gradients.items() if weight not in of_friends}
        linked = {weight: g for weight, g in gradients.items() if weight in of_friends}
        self.weight_norms = {}
        with torch.no_grad(), _full_precision(losses.device):
            if self._linked is not None:
                # Friends enter the loss, and must not decide whether the user's own part counts.
                losses = torch.zeros_like(losses)
                self._add_clipped(self._linked, linked, losses, counted)
            return self._add_clipped(self._own, own, losses, counted)

    def _recorded(self, layer: nn.Module, *inputs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return type(layer).forward(layer, *inputs)  # type: ignore[no-any-return]
        out = RULES[type(layer)].forward(layer, *inputs)
        if not out.requires_grad:
            self._leaves.append(out.requires_grad_())
        kept = tuple(x.detach() if _is_activation(x) else x for x in inputs)
        record = _Record(layer, kept, [x._version for x in kept if isinstance(x, Tensor)])
        out.register_hook(partial(self._receive, record))
        return out

    def _receive(self, record: _Record, gradient: Tensor) -> None:
        """Record the gradient of a layer's output during the backward pass."""
        if self._users is None:
            raise ClippingError(
                "the losses went backward by themselves, and nobody was clipped: call "
                "clipping.backward(losses)."
            )
        tensors = [x for x in record.inputs if isinstance(x, Tensor)]
        if record.versions != [x._version for x in tensors]:
            raise ClippingError(
                f"an input of layer {type(record.layer).__name__} was changed in place after the "
                "layer had read it: use the operation that is not in place."
            )
        if any(x.dim() < 2 or len(x) != self._users for x in (gradient, record.inputs[0])):
            raise ClippingError(
                f"layer {type(record.layer).__name__} got an input of shape "
                f"{list(record.inputs[0].shape)} in a batch of {self._users} users: its first "
                "axis must be the batch's (positions: torch.arange(T).repeat(B, 1))."
            )
        with _full_precision(gradient.device):
            rule = RULES[type(record.layer)]
            for weight, use in rule.uses(record.layer, record.inputs, gradient):
                if weight is not None and weight.requires_grad:
                    empty = WeightGradient(weight.shape, table=weight in self._tables)
                    self._gradients.setdefault(weight, empty).add(use)

    def _refuse_strays(self, gradients: tuple[Tensor | None, ...]) -> None:
        strays = [i for i, gradient in enumerate(gradients) if gradient is not None]
        if strays:
            shapes = ", ".join(str(list(self._weights[i].shape)) for i in strays)
            raise ClippingError(
                f"weights of shape {shapes} were used outside their layers, where nobody's share "
                "is seen: score items through ItemScores, and take weight decay from the "
                "optimiser instead of the loss."
            )

    def _add_clipped(
        self,
        part: Part,
        gradients: dict[Tensor, WeightGradient],
        losses: Tensor,
        counts: Tensor,
    ) -> Tensor:
        if not gradients:
            return torch.zeros_like(losses)
        for gradient in gradients.values():
            gradient.join()
        small = {w: g.formed for w, g in gradients.items() if g.formed is not None}
        factored = {w: Factored.of(g.outers[0]) for w, g in gradients.items() if _unformed(w, g)}
        large = {w: g for w, g in gradients.items() if g.outers and w not in factored}
        tables = {w: g.rows[0] for w, g in gradients.items() if g.rows and w not in large}
        form = FlatForm(small)
        flat = form.join(small, like=losses)
        squares = {w: squared_norms(rows.gradients) for w, rows in tables.items()}
        squares |= {w: users.squared for w, users in factored.items()}
        squared = _total([squared_norms(flat), *squares.values()], losses)
        reserved = _total([users.reserved for users in factored.values()], losses)
        if self._weight_by_weight:
            squares |= {w: squared_norms(formed) for w, formed in small.items()}
            squares |= {w: torch.zeros_like(squared) for w in large}
        scales = self._scales(part, squared, losses, reserved) * counts
        for users in self._groups(large, len(losses)):
            formed = {w: gradient.form(users) for w, gradient in large.items()}
            for w, values in formed.items():
                of_weight = squared_norms(values)
                squared[users] += of_weight
                if self._weight_by_weight:
                    squares[w][users] = of_weight
            scaled = self._scales(part, squared[users], losses[users], reserved[users])
            scales[users] = scaled * counts[users]
            for w, values in formed.items():
                self._sum_for(w).add(*_points(values, scales[users]))
        self._flat_sum_for(form).add(*_points(flat, scales))
        for w, in_factors in factored.items():
            # The scales count in steps of the grid of formed gradients.
            self._outer_sum_for(w).add(in_factors, scales * 2.0 ** -grid_bits(w.dtype))
        for w, rows in tables.items():
            self._sum_for(w).add_rows(rows.ids, *_points(rows.gradients, scales))
        self.weight_norms |= {w: square.sqrt().to(w.dtype) for w, square in squares.items()}
        return squared.sqrt().to(self._weights[0].dtype)

    def _sum_for(self, weight: Tensor) -> GridSum:
        if weight not in self._sums:
            self._sums[weight] = GridSum(weight.shape, weight)
        return self._sums[weight]

    def _flat_sum_for(self, form: FlatForm) -> GridSum:
        if form not in self._flat_sums:
            self._flat_sums[form] = GridSum(torch.Size([form.numbers]), self._weights[0])
        return self._flat_sums[form]

    def _outer_sum_for(self, weight: Tensor) -> OuterSum:
        if weight not in self._outer_sums:
            self._outer_sums[weight] = OuterSum(*weight.shape)
        return self._outer_sums[weight]

    def _groups(self, large: dict[Tensor, WeightGradient], users: int) -> Iterator[slice]:
        """Users whose large gradients are formed at once; all groups are of one size."""
        if not large or users == 0:
            return
        numbers = sum(weight.numel() for weight in large)
        most = max(1, _AT_ONCE[self._weights[0].device.type] // numbers)
        size = next(n for n in range(min(users, most), 0, -1) if users % n == 0)
        yield from (slice(start, start + size) for start in range(0, users, size))

    def _step(self, dtype: torch.dtype) -> float:
        return math.ldexp(self._clip_norm, -grid_bits(dtype))

    def _scales(self, part: Part, squared: Tensor, losses: Tensor, reserved: Tensor) -> Tensor:
        """Return the factor to each user's gradient, in steps of the grid, float64 [B]."""
        dtype, root = self._weights[0].dtype, math.sqrt(part.numbers)
        step, roundoff = self._step(dtype), torch.finfo(dtype).eps / 2
        bound = squared.sqrt() * (1 + (RUN + 8) * roundoff) + root * _UNDERFLOW
        left = self._clip_norm * (part.share - reserved) - 0.5 * root * step
        factors = (left / bound).clamp(0, 1)
        finite = squared.isfinite() & losses.isfinite()
        return (factors / step).where(finite, 0)

    def _forget(self) -> None:
        self._leaves: list[Tensor] = []
        self._gradients: dict[Tensor, WeightGradient] = {}


def _unformed(weight: Tensor, gradient: WeightGradient) -> bool:
    """Return whether users' gradients of a weight are summed without being formed.

    Where a GPU multiplies in float64 slowly, it does not pay; nor for rows of a table.
    """
    if not gradient.outers or gradient.rows or weight.device.type != "cpu":
        return False
    places = gradient.outers[0].inputs.shape[1]
    return weight.dtype == torch.float32 and pays(places, weight.shape[1], weight.shape[0])


def _points(values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return the users' gradients [B, ...] in steps of the grid, in place, and who counts [B].

    A user's gradient counts unless its norm or its loss is not finite.
    """
    values.mul_(scales.to(values.dtype).view(-1, *[1] * (values.dim() - 1)))
    return values.round_(), scales > 0


def _total(terms: list[Tensor], like: Tensor) -> Tensor:
    zeros = torch.zeros(len(like), dtype=torch.float64, device=like.device)
    return torch.stack([zeros, *terms]).sum(0)


def _layers_of(model: nn.Module) -> list[nn.Module]:
    layers = []
    for name, layer in model.named_modules():
        if any(p.requires_grad for p in layer.parameters(recurse=False)):
            reason = objection(layer)
            if reason is not None:
                raise ClippingError(f"layer '{name}': {reason}.")
            layers.append(layer)
        elif type(layer) is ItemScores:
            layers.append(layer)  # may score by a table that trains elsewhere
    return layers


def _tables_in(layers: list[nn.Module]) -> set[Tensor]:
    return {layer.weight for layer in layers if isinstance(layer, nn.Embedding)}


def _is_activation(x: object) -> bool:
    return isinstance(x, Tensor) and not isinstance(x, nn.Parameter)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Multiply in full float32, without half precision or TF32."""
    before = torch.get_float32_matmul_precision()
    if before == "highest" and not torch.is_autocast_enabled(device.type):
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
