"""The last blocks of a text encoder with adapters of low rank: how they change items' features.

A block is that of BERT (Devlin et al. 2019, arXiv:1810.04805): attention within a text and a
feed-forward part, each added to its input and then normalised. Adapters (LoRA: Hu et al. 2021,
arXiv:2106.09685) stand beside the query and the value map of each block:

    W x  becomes  W x + s B A x,    A [R, D] frozen,  B [D, R] trained from 0.

Only B is trained (FFA-LoRA: Sun et al. 2024, arXiv:2403.12313): the sum over organisations of B is
then that of their adapters, half as many numbers get noise, and no noise is multiplied by noise. A
is the same everywhere by its name (`shared.models.frozen`).

With u_j the vector of item j, of length 1, as its states pooled after the last block, u_j⁰ that of
the encoder as it is, and P the fixed map that centres, whitens and reduces vectors to features,

    features of j = those of the catalogue + (u_j - u_j⁰) P.

Letters: B users, M items of a user, L tokens, D encoder width, R rank, H heads, F features, V
items.

Not peft: it wraps the modules of a whole encoder, which partners do not have, trains A as well, and
its layers are none whose per-user gradients are known.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.data.adaptable_text import AdaptableText
from shared.models.products import linear_by_user, product_by_user

__all__ = ["ADAPTER_SCALE", "TextBlocks", "original_vectors"]

ADAPTER_SCALE = 64.0
"""Constant factor s of every adapter. A user's gradient with respect to B is s times that with
respect to B A, and a step of B moves features by s times what it moves B. With 8, a MiniLM's
adapters are a sixtieth of a clipped gradient and drown in the noise of ε = 8; with 96 and more a
plan's steps are too long for them. Chosen on validation events (docs/text.md)."""
_AT_ONCE = 128
"""Items whose vectors are computed at once where no gradient is taken."""

Adapter = Callable[[nn.Module, Tensor], Tensor]


class TextBlocks(nn.Module):
    """Adapters, and the encoder's last blocks after `attach`.

    Args:
        width: the encoder's, D.
        blocks: how many there are.
        rank: of the adapters, R.

    Attributes:
        attached: whether the encoder's part is there.
    """

    tokens: Tensor  # (N, D) float16, as int16: no change of the model's precision touches it
    lengths: Tensor  # (V,)
    starts: Tensor  # (V,) row of each item's first token
    vectors: Tensor  # (V, D) u_j⁰
    projection: Tensor  # (D, F) P

    def __init__(self, width: int, blocks: int, rank: int) -> None:
        super().__init__()

        def maps(inputs: int, outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(inputs, outputs, bias=False) for _ in range(blocks))

        self.query_in, self.value_in = maps(width, rank), maps(width, rank)  # A
        self.query_out, self.value_out = maps(rank, width), maps(rank, width)  # B
        for layer in (*self.query_in, *self.value_in):
            layer.requires_grad_(requires_grad=False)
        for layer in (*self.query_out, *self.value_out):
            nn.init.zeros_(layer.weight)
        self.attached = False

    def attach(self, text: AdaptableText, features: int) -> None:
        """Take the encoder's part from a catalogue; it is not saved with the model.

        Args:
            text: of as many blocks of the same width.
            features: how many of the catalogue's features are read.
        """
        parts = {
            "tokens": text.tokens.view(torch.int16),
            "lengths": text.lengths,
            "starts": text.lengths.cumsum(0) - text.lengths,
            "vectors": text.vectors,
            "projection": text.projection[:, :features],
        }
        for number, block in enumerate(text.weights):
            parts |= {_buffer(number, name): tensor for name, tensor in block.items()}
        for name, tensor in parts.items():
            self.register_buffer(name, tensor, persistent=False)
        self._heads, self._epsilon, self._longest = text.heads, text.epsilon, text.longest
        self._pools_first, self.attached = text.pooling == "cls", True

    def adapters(self) -> Tensor:
        """Return all trained numbers of the adapters, detached, in new memory."""
        layers = (*self.query_out, *self.value_out)
        return torch.cat([layer.weight.detach().flatten() for layer in layers])

    def changes(self, items: Tensor) -> Tensor:
        """Return how adapters change features, with gradients: ids in 1..V [B, M] -> [B, M, F]."""
        return self._changes(items, lambda layer, x: layer(x))

    @torch.no_grad()
    def all_changes(self) -> Tensor:
        """Return how adapters change all items' features, [V, F]."""
        ids = torch.arange(1, len(self.lengths) + 1, device=self.lengths.device)
        # Past the layers themselves: whoever listens to them hears of users alone.
        parts = [self._changes(some[None], _past_hooks)[0] for some in ids.split(_AT_ONCE)]
        return torch.cat(parts)

    def _changes(self, items: Tensor, adapter: Adapter) -> Tensor:
        moved = self.encode(items, adapter) - self.vectors[items - 1]
        return linear_by_user(moved, self.projection.T, None)

    def encode(self, items: Tensor, adapter: Adapter | None = None) -> Tensor:
        """Return the items' vectors u_j: [B, M] -> [B, M, D]; without adapters where None."""
        x, real = self._read(items)
        for number in range(len(self.query_out)):
            x = self._block(x, real, number, adapter)
        users, places, length = real.shape
        x = x.view(users, places, length, -1)
        pooled = x[:, :, 0] if self._pools_first else _mean(x, real)
        return F.normalize(pooled, dim=2, eps=1e-9) * (self.lengths[items - 1] > 0)[..., None]

    def _read(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return token states, [B, M L, D], and which are real, [B, M, L]; the first one always."""
        places = torch.arange(self._longest, device=items.device)
        lengths = self.lengths[items - 1].clamp(min=1)
        real = places < lengths[..., None]  # (B, M, L)
        rows = (self.starts[items - 1][..., None] + places).clamp(max=len(self.tokens) - 1)
        states = self.tokens[rows].view(torch.float16).to(self.vectors.dtype)  # (B, M, L, D)
        return (states * real[..., None]).flatten(1, 2), real

    def _block(self, x: Tensor, real: Tensor, number: int, adapter: Adapter | None) -> Tensor:
        def linear(name: str, x: Tensor) -> Tensor:
            weight, bias = (getattr(self, _buffer(number, f"{name}.{p}")) for p in _PARTS)
            return linear_by_user(x, weight, bias)

        def norm(name: str, x: Tensor) -> Tensor:
            weight, bias = (getattr(self, _buffer(number, f"{name}.{p}")) for p in _PARTS)
            return F.layer_norm(x, weight.shape, weight, bias, self._epsilon)

        query, key, value = (linear(f"attention.self.{n}", x) for n in ("query", "key", "value"))
        if adapter is not None:
            into, out = self.query_in[number], self.query_out[number]
            query = query + ADAPTER_SCALE * adapter(out, adapter(into, x))
            into, out = self.value_in[number], self.value_out[number]
            value = value + ADAPTER_SCALE * adapter(out, adapter(into, x))
        mixed = self._attend(query, key, value, real)
        x = norm("attention.output.LayerNorm", linear("attention.output.dense", mixed) + x)
        inner = F.gelu(linear("intermediate.dense", x))
        return norm("output.LayerNorm", linear("output.dense", inner) + x)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, real: Tensor) -> Tensor:
        """Attend from each token to its own text: [B, M L, D] -> [B, M L, D]."""
        users, places, length = real.shape

        def split(x: Tensor) -> Tensor:  # -> (B M H, L, D/H)
            x = x.view(users * places, length, self._heads, -1).transpose(1, 2)
            return x.flatten(0, 1)

        q, k, v = split(query), split(key), split(value)
        logits = product_by_user(q * q.shape[2] ** -0.5, k.mT)
        logits = logits.view(users * places, self._heads, length, length)
        hidden = ~real.view(users * places, 1, 1, length)
        weights = logits.masked_fill(hidden, -torch.inf).softmax(3).flatten(0, 1)
        mixed: Tensor = product_by_user(weights, v).unflatten(0, (-1, self._heads)).transpose(1, 2)
        return mixed.reshape(users, places * length, -1)


_PARTS = ("weight", "bias")


def original_vectors(text: AdaptableText) -> Tensor:
    """Return what the blocks make of each item without adapters, [V, D]; `vectors` are ignored."""
    blocks = TextBlocks(text.width, len(text.weights), 1)
    blocks.attach(text, text.projection.shape[1])
    ids = torch.arange(1, len(text.lengths) + 1)
    with torch.no_grad():
        return torch.cat([blocks.encode(some[None])[0] for some in ids.split(_AT_ONCE)])


def _mean(x: Tensor, real: Tensor) -> Tensor:  # (B, M, L, D), (B, M, L) -> (B, M, D)
    return (x * real[..., None]).sum(2) / real.sum(2, keepdim=True)


def _past_hooks(layer: nn.Module, x: Tensor) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return linear_by_user(x, weight, None)


def _buffer(number: int, name: str) -> str:
    return f"block{number}_{name.replace('.', '_')}"
