"""The layers of the recommender: causal self-attention and feed-forward, pre-norm.

Letters: B users, T positions, D hidden size, H heads.

Recency bias: before training, attention weighs each event `recency` times the event after it. This
is a linear bias on the attention logits (ALiBi: Press, Smith & Lewis 2022, arXiv:2108.12409).

Narrow attention (`compared` R > 0): an event's first R numbers are its key as they are, and a
query is a linear map of the asking event's first R numbers, which are its strongest public
features. R (R + 1) weights carry little noise, where full projections of width D drown in it.
"""

from __future__ import annotations

import math
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.models.attention_config import AttentionConfig
from shared.models.dropout import Dropout
from shared.models.products import align

__all__ = ["QUERY_SCALE", "Attention", "Block", "apply_linear"]

INITIAL_ATTENTION_GAIN = 32.0
"""Initial gain of the attention output over the residual, in a model that uses features."""
QUERY_SCALE = 16.0
"""Constant factor of queries that are compared with features as they are: a user's gradient in them
is then about half as long as that in `feature_out`, which it is clipped with."""


def apply_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer; one that is a frozen multiple of the identity costs no product.

    Before a model is trained further than `feature_out`, all others are such: they take nine in ten
    of its products.
    """
    factor = _multiple(layer)
    return layer(x) if factor is None else x * factor


Versions = list[tuple[ReferenceType[Tensor], int]]
_multiples: WeakKeyDictionary[nn.Linear, tuple[Versions, float | None]] = WeakKeyDictionary()
"""What `_multiple` found of a layer, for these tensors at these versions."""


def _multiple(layer: nn.Linear) -> float | None:
    """Return c where a frozen layer maps x to c x; None elsewhere, and for one that is trained."""
    weights = list(layer.parameters())
    if any(p.requires_grad for p in weights):
        return None
    if any(p.is_inference() for p in weights):  # they have no version
        return _read_multiple(layer)
    known, factor = _multiples.get(layer, ([], None))
    if len(known) != len(weights) or any(
        kept() is not p or version != p._version
        for (kept, version), p in zip(known, weights, strict=True)
    ):
        factor = _read_multiple(layer)
        _multiples[layer] = ([(ref(p), p._version) for p in weights], factor)
    return factor


def _read_multiple(layer: nn.Linear) -> float | None:
    weight = layer.weight
    if layer.bias is not None and bool(layer.bias.any()):
        return None
    if not bool(weight[0, 0]):
        return 0.0 if _all_zero(weight) else None
    size = len(weight)
    if weight.shape[1] != size or not bool((weight.diagonal() == weight[0, 0]).all()):
        return None
    beside = weight.flatten()[1:].view(size - 1, size + 1)[:, :-1]  # all but the diagonal
    return float(weight[0, 0]) if _all_zero(beside) else None


def _all_zero(values: Tensor) -> bool:
    """Return whether all values are 0, in one quick pass; False for NaN."""
    return values.numel() == 0 or all(bool(value == 0) for value in values.aminmax())


class Attention(nn.Module):
    """Causal multi-head attention with a recency bias, built from four `nn.Linear` layers.

    `nn.MultiheadAttention` is not used: it holds its projections in one packed weight that no
    `nn.Linear` layer owns, so their per-user gradients cannot be recorded. Nor is a fused kernel:
    on a GPU its backward pass adds up in an order that changes from run to run.
    """

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        width, narrow = config.hidden_size, config.compared
        self.heads, self.recency, self.compared = config.heads, config.recency, narrow
        self.dropout = Dropout(config.dropout)
        self.query = nn.Linear(narrow or width, narrow or width)
        if not narrow:
            self.key = nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from each position to itself and its past: [B, T, D] -> [B, T, D]."""
        v = self._split_heads(apply_linear(self.value, x))  # (B, T, D) -> (B, H, T, D/H)
        size, v = v.shape[3], align(align(v), 2)
        weights = self._even_weights(x) if self._attends_evenly else self._content_weights(x)
        mixed = (self.dropout(weights) @ v)[..., :size]
        return apply_linear(
            self.out, mixed.transpose(1, 2).flatten(2)
        )  # (B, H, T, D/H) -> (B, T, D)

    def attend_from(self, x: Tensor, position: Tensor) -> Tensor:
        """Attend from one position of each user, without dropout: [B, T, D], [B] -> [B, D].

        The same as `forward` at that position, in O(T D + D²) a user instead of O(T D²): key and
        value projections are linear, so the query is projected back instead of every key, and the
        attended mean is projected instead of every value.
        """
        users, _, width = x.shape  # `len` would fix the number in an exported graph
        heads, size = self.heads, width // self.heads
        age = position[:, None] - torch.arange(x.shape[1], device=x.device)  # (B, T)
        bias = math.log(self.recency) * age.to(x.dtype)
        bias = bias.masked_fill(age < 0, -math.inf)[:, None]  # (B, 1, T)
        here = x[torch.arange(users, device=x.device), position]  # (B, D)
        if self.compared:
            compared = self.compared
            asked = self.query(here[:, :compared]) * self.sharpness  # (B, R)
            logits = asked[:, None] @ x[..., :compared].mT + bias  # (B, 1, T), alike in all heads
            logits = logits.expand(-1, heads, -1)
        else:
            query = self.query(here).view(users, heads, size).transpose(0, 1)  # (H, B, D/H)
            # A key's bias adds the same to every position's logit: the softmax takes it out again.
            back = (query @ self.key.weight.view(heads, size, width)).transpose(0, 1)  # (B, H, D)
            logits = (back @ x.mT) * size**-0.5 + bias  # (B, H, T)
        mean = (logits.softmax(2) @ x).transpose(0, 1)  # (H, B, D)
        value = mean @ self.value.weight.view(heads, size, width).mT  # (H, B, D/H)
        mixed = value.transpose(0, 1).flatten(1) + self.value.bias  # (B, D)
        out: Tensor = self.out(mixed)
        return out

    @torch.no_grad()
    def logit_form(self) -> tuple[Tensor, Tensor]:
        """Return A and a of each head: a logit is n_s · (A n_t + a), before the recency bias.

        Returns:
            float64 [H D, D] and [H D].
        """
        heads, width = self.heads, self.value.in_features
        query, bias = self.query.weight.double(), self.query.bias.double()
        if self.compared:
            whole, constant = query.new_zeros(width, width), query.new_zeros(width)
            whole[: self.compared, : self.compared] = query * self.sharpness
            constant[: self.compared] = bias * self.sharpness
            return whole.repeat(heads, 1), constant.repeat(heads)
        size = width // heads
        keys = self.key.weight.double().view(heads, size, width).mT * size**-0.5  # (H, D, D/H)
        return (
            (keys @ query.view(heads, size, width)).flatten(0, 1),
            (keys @ bias.view(heads, size, 1)).flatten(),
        )

    def weights(self, x: Tensor) -> Tensor:
        """Return how much each position attends to each one: [B, T, D] -> [B, H, T, T].

        Each row's sum is 1; the weights of the future are 0.
        """
        return self._content_weights(x)[..., : x.shape[1]]

    @property
    def _attends_evenly(self) -> bool:
        """Whether the recency bias alone decides: every query is 0, and stays so."""
        return _multiple(self.query) == 0

    def _even_weights(self, x: Tensor) -> Tensor:
        bias = align(self._bias(x))  # (T, T), or a little wider
        bias[:, x.shape[1] :] = -math.inf
        return bias.softmax(1).expand(x.shape[0], self.heads, -1, -1)

    def _content_weights(self, x: Tensor) -> Tensor:
        if self.compared:
            compared = x[..., : self.compared]  # (B, T, R), their own keys
            q, k = (self.query(compared) * self.sharpness)[:, None], compared[:, None]
        else:
            q, k = (self._split_heads(layer(x)) for layer in (self.query, self.key))
            q = q * q.shape[3] ** -0.5
        q, k, bias = align(q), align(align(k), 2), self._bias(x)
        bias = F.pad(bias, (0, k.shape[2] - len(bias)), value=-math.inf)
        logits: Tensor = q @ k.mT + bias  # (B, H or 1, T, T), or a little wider
        return logits.softmax(3).expand(-1, self.heads, -1, -1)

    @property
    def sharpness(self) -> float:
        """What a product of query and compared features is multiplied with, in narrow attention."""
        return QUERY_SCALE / math.sqrt(self.compared)

    def _bias(self, x: Tensor) -> Tensor:  # (B, T, D) -> (T, T)
        # Position t adds (t - s) log(recency) to the logit of position s <= t: with equal contents,
        # the softmax then weighs s by recency^(t - s). The future, s > t, is masked by -inf.
        positions = torch.arange(x.shape[1], device=x.device)  # (T,)
        age = positions[:, None] - positions  # (T, T); t - s
        bias = math.log(self.recency) * age.to(x.dtype)
        return bias.masked_fill(age < 0, -math.inf)

    def _split_heads(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, H, T, D/H)
        out: Tensor = x.unflatten(2, (self.heads, -1))
        return out.transpose(1, 2)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(config)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )
        self.dropout = Dropout(config.dropout)

    def init_recency_mean(self, *, attention_only: bool) -> None:
        """Initialise attention as the recency-weighted mean of the normed past.

        Args:
            attention_only: also disable the feed-forward part, and scale the attention output by
                `INITIAL_ATTENTION_GAIN` so that it outweighs the residual.
        """
        attention, last = self.attention, self.feed[-1]
        nn.init.eye_(attention.value.weight)
        nn.init.eye_(attention.out.weight)
        if attention_only and isinstance(last, nn.Linear):
            nn.init.zeros_(attention.query.weight)  # equal logits: only the recency bias is left
            nn.init.zeros_(last.weight)
            with torch.no_grad():
                attention.out.weight.mul_(INITIAL_ATTENTION_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both parts: [B, T, D] -> [B, T, D]."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        last = self.feed[-1]
        if isinstance(last, nn.Linear) and _multiple(last) == 0:
            return x
        out: Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out

    def apply_at(self, x: Tensor, position: Tensor) -> Tensor:
        """Apply both parts at one position of each user, without dropout: [B, T, D] -> [B, D]."""
        here = x[torch.arange(x.shape[0], device=x.device), position]
        here = here + self.attention.attend_from(self.attention_norm(x), position)
        out: Tensor = here + self.feed(self.feed_norm(here))
        return out
