"""The layers whose per-user gradients are known: what they compute, and what each user adds.

A rule's `forward` computes what the layer does, from weights that autograd does not see: whatever
gradient autograd still finds for a weight came past its layer, and `clipping` refuses it. `uses`
gives every user's gradient of the layer's weights from what went in and what came back.

Letters: B users, S places in a user's history, I and O input and output size, V items, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.models.item_scores import ItemScores
from shared.models.products import linear_by_user
from shared.privacy.clipping.factors import Outer, Rows, exact

__all__ = ["RULES", "Rule", "Use", "linear_maps_by_user", "objection"]

Use = tuple[Tensor | None, Tensor | Outer | Rows]
"""A weight, and every user's gradient of it: [B, *shape], or in factors."""
Inputs = tuple[Any, ...]


class Rule(Protocol):
    """How one type of layer is recorded."""

    def forward(self, layer: Any, *inputs: Any) -> Tensor:
        """Return the layer's output, [B, ..., O]."""

    def uses(self, layer: Any, inputs: Inputs, gradient: Tensor) -> Iterable[Use]:
        """Return each user's part of the weights' gradients, from that of the output."""


class _Linear:
    def forward(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return linear_by_user(x, layer.weight.detach(), _constant(layer.bias))

    def uses(self, layer: nn.Linear, inputs: Inputs, gradient: Tensor) -> Iterable[Use]:
        gradients = _places(gradient)
        yield layer.weight, Outer(_places(inputs[0]), gradients)
        if layer.bias is not None:
            yield layer.bias, _summed(gradients)


class _Embedding:
    def forward(self, layer: nn.Embedding, ids: Tensor) -> Tensor:
        return F.embedding(ids, layer.weight.detach(), layer.padding_idx)

    def uses(self, layer: nn.Embedding, inputs: Inputs, gradient: Tensor) -> Iterable[Use]:
        ids, gradients = inputs[0].flatten(1), exact(_places(gradient))
        if layer.padding_idx is not None:
            gradients = gradients.masked_fill((ids == layer.padding_idx)[..., None], 0)
        yield layer.weight, Rows(ids, gradients)


class _Norm:
    """Layer or RMS normalisation: the gradient of the scale is (normalised input) x gradient."""

    def forward(self, layer: nn.LayerNorm | nn.RMSNorm, x: Tensor) -> Tensor:
        weight = _constant(layer.weight)
        if isinstance(layer, nn.RMSNorm):
            return F.rms_norm(x, list(layer.normalized_shape), weight, layer.eps)
        bias = _constant(layer.bias)
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)

    def uses(
        self, layer: nn.LayerNorm | nn.RMSNorm, inputs: Inputs, gradient: Tensor
    ) -> Iterable[Use]:
        (x,), shape, gradients = inputs, list(layer.normalized_shape), exact(gradient)
        places = math.prod(x.shape[1 : x.dim() - len(shape)])
        if isinstance(layer, nn.RMSNorm):
            # Without an eps of its own the layer takes that of its input's precision.
            eps = torch.finfo(x.dtype).eps if layer.eps is None else layer.eps
            normal = F.rms_norm(exact(x), shape, eps=eps)
        else:
            normal = F.layer_norm(exact(x), shape, eps=layer.eps)
            yield layer.bias, _summed(gradients.reshape(len(x), places, *shape))
        yield layer.weight, _summed((normal * gradients).reshape(len(x), places, *shape))


class _ItemScores:
    def forward(
        self, layer: ItemScores, states: Tensor, table: Tensor, candidates: Tensor | None = None
    ) -> Tensor:
        return layer.scores(states, table.detach(), _constant(layer.offset), candidates)

    def uses(self, layer: ItemScores, inputs: Inputs, gradient: Tensor) -> Iterable[Use]:
        states, table, *given = inputs
        gradients, states = _places(gradient), _places(states)
        candidates = given[0] if given else None
        offsets = layer.OFFSET_SCALE * _summed(gradients)[..., None]
        vectors = Outer(states, gradients)
        if candidates is None:
            yield layer.offset, offsets
            yield table, vectors
        else:  # one place a candidate: the rows of its vector and of its offset
            yield layer.offset, Rows(candidates - 1, offsets)
            yield table, Rows(candidates - 1, vectors.formed())


RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: _Linear(),
    nn.Embedding: _Embedding(),
    nn.LayerNorm: _Norm(),
    nn.RMSNorm: _Norm(),
    ItemScores: _ItemScores(),
}
"""By exact type: a subclass may compute something else."""


@contextmanager
def linear_maps_by_user(model: nn.Module) -> Iterator[None]:
    """Have every linear layer multiply each user's places on their own (`shared.models.products`).

    Layers whose passes are recorded do so by their rule, and are left as they are.
    """
    layers = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
    for layer in layers:
        vars(layer)["forward"] = partial(_linear_by_user, layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _linear_by_user(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear_by_user(x, layer.weight, layer.bias)


def objection(layer: nn.Module) -> str | None:
    """Return why a layer cannot be clipped exactly, and the remedy; None if it can."""
    if type(layer) not in RULES:
        supported = ", ".join(kind.__name__ for kind in RULES)
        return (
            f"per-user gradients of a {type(layer).__name__} are not known: build it from "
            f"{supported}, or freeze its weights with requires_grad_(False)"
        )
    own = {name for name, _ in layer.named_parameters(recurse=False)}
    if not own <= {"weight", "bias", "offset"}:
        return (
            f"its weights {sorted(own)} are not those of a plain {type(layer).__name__}: remove "
            "what re-parametrises it (such as weight or spectral normalisation)"
        )
    if isinstance(layer, nn.Embedding):
        return _embedding_objection(layer)
    return None


def _embedding_objection(layer: nn.Embedding) -> str | None:
    if layer.max_norm is not None:
        return "max_norm rewrites weights while they are read: leave it None"
    if layer.scale_grad_by_freq:
        return "scale_grad_by_freq divides by counts over the whole batch: leave it False"
    if layer.sparse:
        return "noise falls on every row, so sparse gradients are of no use: leave sparse False"
    return None


def _constant(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach()


def _places(values: Tensor) -> Tensor:
    """[B, ..., D] -> [B, S, D]."""
    return values.flatten(1, -2) if values.dim() > 2 else values[:, None]


def _summed(values: Tensor) -> Tensor:
    """Over places, [B, S, ...] -> [B, ...], without a copy in higher precision."""
    return values.sum(1, dtype=torch.promote_types(values.dtype, torch.float32))
