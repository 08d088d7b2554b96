"""A model's state after the last event of one history, in numpy.

For one history the arithmetic takes a few microseconds, and calling torch for each part of it
takes ten times as long. Only the last event's state is asked for, so the projections of the block
that computes it can be multiplied with each other beforehand. With n_t the normed input at position
t, for each head

    logit_t = n_t · (W_k' (W_q n_last + b_q)) / √(D/H) + (last - t) log(recency)
    output  = Σ_heads W_o W_v (Σ_t softmax(logit)_t n_t) + W_o b_v + b_o.

A key's bias adds the same to every logit, which the softmax takes out again. Narrow attention has a
W_k and a scale of its own (`Attention.logit_form`). This is `Attention.attend_from` of the model,
which the tests compare it with.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import erf
from torch import Tensor, nn

from shared.config import ItemRepresentation
from shared.models.attention import AttentionRecommender
from shared.models.blocks import Block

__all__ = ["LastState"]

Floats = npt.NDArray[np.float32]


class LastState:
    """The states of histories, one at a time; several threads may use one.

    Args:
        model: on the CPU, with one block: see `fits`.
    """

    def __init__(self, model: AttentionRecommender) -> None:
        config, block = model.config, model.blocks[0]
        assert isinstance(block, Block)
        kind = ItemRepresentation(config.item_representation)
        self._items = _numbers(model.item.weight) if kind.learns_ids else None
        self._features = model.item_table().numpy() if kind.uses_features else None
        self._feature_in = model.feature_in.weight.detach().T if kind.uses_features else None
        self._positions, self._window = _numbers(model.position.weight), config.max_length
        self._normed, self._final = _Norm(block.attention_norm), _Norm(model.norm)
        attention, width, heads = block.attention, config.hidden_size, config.heads
        size = width // heads
        value, out = (
            _numbers(layer.weight).astype(np.float64) for layer in (attention.value, attention.out)
        )
        own = [slice(head * size, (head + 1) * size) for head in range(heads)]
        self._heads = heads
        back, constant = attention.logit_form()
        self._back = back.float()  # [H D, D]
        self._back_constant = _numbers(constant.float())
        forward = [out[:, part] @ value[part] for part in own]
        self._out = torch.from_numpy(np.concatenate(forward, 1)).float()  # [D, H D]
        constant_out = out @ _numbers(attention.value.bias) + _numbers(attention.out.bias)
        self._out_constant = constant_out.astype(np.float32)
        ages = np.arange(config.max_length - 1, -1, -1)
        self._ages = (math.log(attention.recency) * ages).astype(np.float32)
        first, _, last = block.feed
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        self._feed: tuple[Tensor, Floats, Tensor, Floats] | None = None
        if last.weight.any() or last.bias.any():
            maps = first.weight.detach(), last.weight.detach()
            self._feed = maps[0], _numbers(first.bias), maps[1], _numbers(last.bias)
        self._feed_norm = _Norm(block.feed_norm)

    @staticmethod
    def fits(model: AttentionRecommender) -> bool:
        """Return whether the model's states can be computed here."""
        return model.device.type == "cpu" and len(model.blocks) == 1

    def __call__(self, history: npt.NDArray[np.int64]) -> Floats:
        """Return the state [D] after a history of internal ids, which may be empty."""
        rows = history[-self._window :] - 1
        x = self._positions[: max(1, len(rows))]  # [T, D]
        if len(rows) and self._items is not None:
            x = x + self._items[rows]
        if len(rows) and self._features is not None and self._feature_in is not None:
            x = x + _product(torch.from_numpy(self._features[rows]), self._feature_in)
        normed = self._normed(x)
        back = (_applied(self._back, normed[-1]) + self._back_constant).reshape(
            self._heads, -1
        )  # [H, D]
        logits = back @ normed.T + self._ages[-len(x) :]  # [H, T]
        weights = np.exp(logits - logits.max(1, keepdims=True))
        mean = (weights @ normed) / weights.sum(1, keepdims=True)  # [H, D]
        here = x[-1] + _applied(self._out, mean.ravel()) + self._out_constant
        if self._feed is not None:
            first, first_bias, last, last_bias = self._feed
            inner = _applied(first, self._feed_norm(here)) + first_bias
            inner = 0.5 * inner * (1 + erf(inner * math.sqrt(0.5)))
            here = here + _applied(last, inner) + last_bias
        return self._final(here)


class _Norm:
    """Layer normalisation over the last axis."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        self._weight, self._bias, self._eps = (
            _numbers(layer.weight),
            _numbers(layer.bias),
            layer.eps,
        )
        self._mean = np.full(len(self._weight), 1 / len(self._weight), np.float32)

    def __call__(self, x: Floats) -> Floats:
        centred = x - (x @ self._mean)[..., None]
        variance = (centred * centred) @ self._mean
        scale = 1 / np.sqrt(variance + np.float32(self._eps))
        normed: Floats = centred * scale[..., None] * self._weight + self._bias
        return normed


def _product(rows: Tensor, weight: Tensor) -> Floats:
    """Multiply matrices; by torch, since numpy spreads even small products over all cores."""
    product: Floats = torch.mm(rows, weight).numpy()
    return product


def _applied(weight: Tensor, vector: Floats) -> Floats:
    """Multiply a matrix and a vector, by torch as well."""
    product: Floats = torch.mv(weight, torch.from_numpy(vector)).numpy()
    return product


def _numbers(weight: Tensor) -> Floats:
    numbers: Floats = weight.detach().numpy()
    return numbers
