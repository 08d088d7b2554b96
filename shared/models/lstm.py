"""The kind "lstm": a recurrence over the history, attended to anew for every candidate item.

An LSTM (Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735) reads the events; additive
attention (Bahdanau, Cho & Bengio 2015, arXiv:1409.0473) weighs its outputs x_i for each candidate j
by the candidate's own vector h_j, as NARM (Li et al. 2017, arXiv:1711.04725) does for a session:

    a_ij = vᵀ tanh(W_h h_j + W_x x_i),    α_ij = softmax over i <= t of a_ij + (t - i) log(recency),
    z_j = Σ_i α_ij x_i,                   score of j after t = base + z_jᵀ W_o h_j.

Letters: B users, T positions, D hidden size, F feature size, V items, K candidates, R recurrent
size, A attention size.

Base: the scores of an `AttentionRecommender` whose attention stays the recency-weighted mean that
it begins as: a bilinear form of that mean and the item, and the item's offset. A warm start sets
it, and it goes on training. W_o begins at 0, so that the model begins as the warm start; v begins
at 0, so that attention begins as the recency bias alone.

No [B, T, V, A] is formed. a_ij is a sum over A units, and one unit at a time is added to [B, T, V];
the backward pass computes each unit again (`additive_energies`). Since a_ij does not depend on t,
the softmax of all T positions is two products with one triangular matrix of decays, [T, T] x
[T, V]. z_jᵀ W_o h_j is the α-weighted mean of the scores u_ij = x_iᵀ W_o h_j, so z_j is not formed.

Per-user gradients: every weight is used by calling a layer that `shared.privacy.clipping.layers`
knows. The recurrence calls its linear map once an event, and what it adds over all calls is summed
before it is clipped. W_h and v meet no user's data: a linear layer that is given a 1 for each user
puts out a copy for each, whose gradient is that user's.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.models.attention import AttentionRecommender, public_features
from shared.models.attention_config import AttentionConfig, extended
from shared.models.blocks import Block
from shared.models.frozen import draw_frozen
from shared.models.item_scores import ItemScores
from shared.models.products import product_by_user

__all__ = [
    "LstmConfig",
    "LstmRecommender",
    "additive_energies",
    "bare",
    "build",
    "from_pretrained",
    "shape_of_model",
]

LARGEST_ENERGY = 30.0
"""Bound on |a_ij|: neither the softmax's sum nor its inverse leaves float32's range."""
_ALIVE, _STATES_ALIVE = 12, 64
"""How many numbers a score, and one of R at a position, is kept in until a pass is done."""
_RANKED = 2**16
"""Energies of one user that are held at once while the catalogue is ranked."""


@dataclass(frozen=True, kw_only=True)
class LstmConfig(AttentionConfig):
    """Shape of an `LstmRecommender`; saved beside its weights.

    Attributes:
        recurrent_size: width R of the LSTM.
        attention_size: units A of the additive attention.
    """

    recurrent_size: int = 32
    attention_size: int = 8

    def pass_numbers(self, candidates: int, length: int | None = None) -> int:
        """Return about how many numbers one user's training pass keeps; as of the base."""
        places = self.max_length if length is None else length
        scored = places + candidates if candidates else self.items
        own = places * (_ALIVE * scored + _STATES_ALIVE * self.recurrent_size)
        keys = 4 * self.attention_size * (scored + self.vector_size)
        return super().pass_numbers(candidates, length) + own + keys

    def ranking_numbers(self) -> int:
        """Return about how many numbers are kept while the catalogue is ranked for one user."""
        vectors = self.items * (self.recurrent_size + self.attention_size)
        states = _STATES_ALIVE * self.max_length * self.recurrent_size
        at_once = min(max(_RANKED, self.max_length), self.max_length * self.items)
        return super().ranking_numbers() + vectors + states + _ALIVE * at_once

    def weight_numbers(self) -> int:
        """Return about how many numbers the weights and the items' tables have."""
        size, units = self.recurrent_size, self.attention_size
        maps = size * (self.hidden_size + self.vector_size) + units * (self.vector_size + size + 2)
        return super().weight_numbers() + maps + 8 * size * size + 4 * size


class LstmRecommender(AttentionRecommender):
    """Next-item scores of an LSTM with candidate-wise attention, upon a base of recent items.

    Args:
        config: the model's shape.
        features: as of an `AttentionRecommender`.
    """

    config: LstmConfig
    model_type = "sotto-lstm"
    shape = LstmConfig
    ranks_by_products = False

    def __init__(self, config: LstmConfig, features: Tensor | None = None) -> None:
        super().__init__(config, features)
        size, units, width = config.recurrent_size, config.attention_size, config.vector_size
        for block in self.blocks:
            if isinstance(block, Block):
                block.init_recency_mean(attention_only=True)
        nn.init.zeros_(self.position.weight)
        for part in (self.position, self.blocks, self.norm):
            part.requires_grad_(requires_grad=False)
        if config.reads_features:
            self.feature_in.requires_grad_(requires_grad=False)
        self.lstm_in = nn.Linear(config.hidden_size, size, bias=False)
        self.gates_in = nn.Linear(size, 4 * size)
        self.gates_back = nn.Linear(size, 4 * size, bias=False)
        self.attend_past = nn.Linear(size, units)  # W_x
        self.attend_item = nn.Linear(1, units * width, bias=False)  # W_h, see the module's top
        self.attend_out = nn.Linear(1, units, bias=False)  # v
        self.lstm_out = nn.Linear(size, width, bias=False)  # W_o
        self.vector_products = ItemScores(config.items, offset=False)
        self._draw_recurrence()

    def _draw_recurrence(self) -> None:
        for layer in (self.lstm_in, self.gates_in, self.gates_back, self.attend_past):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.normal_(self.attend_item.weight, std=self.config.vector_size**-0.5)
        nn.init.zeros_(self.attend_past.bias)
        nn.init.zeros_(self.attend_out.weight)
        nn.init.zeros_(self.lstm_out.weight)
        nn.init.zeros_(self.gates_in.bias)
        forget = slice(self.config.recurrent_size, 2 * self.config.recurrent_size)
        with torch.no_grad():  # remember at first (Jozefowicz, Zaremba & Sutskever 2015)
            self.gates_in.bias[forget] = 1.0

    def states(self, histories: Tensor) -> Tensor:
        """Return the base's state and the LSTM's output after each event: [B, T] -> [B, T, D + R].

        Scores after an event follow from the states of all events up to it.
        """
        x = self._embed(histories)  # (B, T, D)
        mean = x
        for block in self.blocks:
            mean = block(mean)
        return torch.cat([self.norm(mean), self._outputs(x)], dim=2)

    def _outputs(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, R)
        normed = F.layer_norm(x, x.shape[2:])
        inputs = self.gates_in(self.lstm_in(normed))  # (B, T, 4 R)
        hidden = cell = inputs.new_zeros(len(x), 1, self.config.recurrent_size)
        outputs = []
        for step in inputs.split(1, dim=1):
            enter, keep, fresh, leave = (step + self.gates_back(hidden)).chunk(4, dim=2)
            cell = keep.sigmoid() * cell + enter.sigmoid() * fresh.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.cat(outputs, dim=1)

    def score(self, states: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Return logits over the catalogue, or each user's candidates [B, K], after every event.

        Args:
            states: of all events from a history's first on, [B, T, D + R]; those of the base alone,
                [..., D], as a warm start has them, are scored by the base.
            candidates: item ids in 1..V, int64 [B, K].

        Returns:
            [B, T, V], or [B, T, K].
        """
        width = self.config.hidden_size
        base = super().score(states[..., :width], candidates)
        if states.shape[-1] == width:
            return base
        outputs, table = states[..., width:], self.item_vectors()
        energies = additive_energies(
            self.attend_past(outputs),
            self.vector_products(self._copies(self.attend_item, outputs), table, candidates),
            self._copies(self.attend_out, outputs)[..., 0],
        )
        products = self.vector_products(self.lstm_out(outputs), table, candidates)
        return base + self._means(energies, products.to(energies))

    def _copies(self, layer: nn.Linear, like: Tensor) -> Tensor:
        """Return a copy of a weight for each user, [B, A, ...]."""
        ones = like.new_ones(len(like), 1, 1)
        copies: Tensor = layer(ones).unflatten(2, (self.config.attention_size, -1))
        return copies[:, 0]

    def _means(self, energies: Tensor, products: Tensor) -> Tensor:
        """Return the attended mean of products up to each position: [B, T, K] -> [B, T, K]."""
        weights = energies.exp()
        decays = self._decays(weights).expand(len(weights), -1, -1)
        return product_by_user(decays, weights * products) / product_by_user(decays, weights)

    def _decays(self, like: Tensor) -> Tensor:
        """Return recency^(t - i) where i <= t, else 0: [T, T], rows of t."""
        places = torch.arange(like.shape[1], device=like.device)
        age = (places[:, None] - places).to(like.dtype)
        return (math.log(self.config.recency) * age).exp().where(age >= 0, 0.0)

    def next_item_scores(self, histories: Tensor) -> Tensor:
        """Score the items that may follow each history's last event: [B, T] -> [B, V].

        Only the last `max_length` events count. An empty history is scored by the base alone, from
        the state at position 0.
        """
        base, outputs, shares = self._last(histories)
        parts = []
        for chosen in self._parts(outputs):
            weights, products = self._attended(outputs, shares, chosen)
            parts.append((weights * products).sum(1))
        return base + torch.cat(parts, dim=1)

    def item_attention(self, histories: Tensor, items: Tensor) -> Tensor:
        """Return α_ij of each item after each history's last event: [B, T], [K] -> [B, K, S].

        S = min(T, `max_length`); each row's sum is 1, but for an empty history, where it is 0.
        """
        _, outputs, shares = self._last(histories)
        return self._attended(outputs, shares, items.to(outputs.device) - 1)[0].mT

    def last_attention(self, histories: Tensor) -> Tensor:
        """Return the mean over all items of `item_attention`: [B, T] -> [B, S]."""
        _, outputs, shares = self._last(histories)
        sums = [self._attended(outputs, shares, rows)[0].sum(2) for rows in self._parts(outputs)]
        return torch.stack(sums).sum(0) / self.config.items

    def _last(self, histories: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return base scores [B, V], outputs [B, S, R] and decays from the last event [B, S]."""
        lengths = (histories != 0).sum(1)  # (B,)
        window = self._window(histories, lengths)
        states, width = self.states(window), self.config.hidden_size
        last = lengths.clamp(1, window.shape[1]) - 1
        here = states[torch.arange(len(states), device=states.device), last, :width]
        age = last[:, None] - torch.arange(window.shape[1], device=states.device)  # (B, S)
        decays = (math.log(self.config.recency) * age.to(states.dtype)).exp()
        return super().score(here), states[..., width:], decays * ((age >= 0) & (window != 0))

    def _parts(self, outputs: Tensor) -> list[Tensor]:
        """Return the rows of items that are attended from at once."""
        rows = torch.arange(self.config.items, device=outputs.device)
        return list(rows.split(max(1, _RANKED // outputs.shape[1])))

    def _attended(self, outputs: Tensor, shares: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return attention weights, and products u_ij, of some rows of items: [B, S, K] each."""
        table, units = self.item_vectors()[rows], self.config.attention_size
        keys = self.attend_item.weight.view(units, -1) @ table.T  # (A, K)
        energies = additive_energies(
            self.attend_past(outputs),
            keys.expand(len(outputs), -1, -1),
            self.attend_out.weight.view(1, units).expand(len(outputs), -1),
        )
        weights = energies.exp() * shares[..., None]
        vectors = table @ self.lstm_out.weight  # (K, R)
        # An empty history has no weight at all.
        smallest = torch.finfo(weights.dtype).tiny
        return weights / weights.sum(1, keepdim=True).clamp(min=smallest), outputs @ vectors.T


def additive_energies(past: Tensor, keys: Tensor, out: Tensor) -> Tensor:
    """Return Σ_a out_a tanh(past_ia + keys_aj), within ± `LARGEST_ENERGY`, without [B, T, K, A].

    Args:
        past: [B, T, A].
        keys: [B, A, K].
        out: [B, A].

    Returns:
        [B, T, K], in float32 at least.

    >>> additive_energies(torch.zeros(1, 2, 1), torch.ones(1, 1, 1), torch.ones(1, 1))
    tensor([[[0.7616],
             [0.7616]]])
    """
    exact = torch.promote_types(past.dtype, torch.float32)
    parts = (part.to(exact) for part in (past, keys, out))
    energies: Tensor = _Energies.apply(*parts)  # type: ignore[no-untyped-call]
    return energies.clamp(-LARGEST_ENERGY, LARGEST_ENERGY)


class _Energies(torch.autograd.Function):
    """One attention unit at a time, which the backward pass computes again."""

    @staticmethod
    def forward(ctx: Any, past: Tensor, keys: Tensor, out: Tensor) -> Tensor:
        ctx.save_for_backward(past, keys, out)
        total = past.new_zeros(len(past), past.shape[1], keys.shape[2])
        for unit in range(out.shape[1]):
            total += _unit(past, keys, unit).mul_(out[:, unit, None, None])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        past, keys, out = ctx.saved_tensors
        of_past, of_keys, of_out = (torch.zeros_like(part) for part in (past, keys, out))
        for unit in range(out.shape[1]):
            values = _unit(past, keys, unit)
            of_out[:, unit] = (gradients * values).flatten(1).sum(1)
            values.square_().neg_().add_(1).mul_(gradients).mul_(out[:, unit, None, None])
            of_past[:, :, unit] = values.sum(2)
            of_keys[:, unit] = values.sum(1)
        return of_past, of_keys, of_out


def _unit(past: Tensor, keys: Tensor, unit: int) -> Tensor:  # -> (B, T, K)
    return (past[:, :, unit, None] + keys[:, None, unit]).tanh_()


def shape_of_model(model: ModelConfig, items: int) -> LstmConfig:
    """Return the shape that the settings give over a catalogue of so many items."""
    return extended(LstmConfig, model, items, recurrent_size=model.recurrent_size)


def build(model: ModelConfig, catalogue: Catalogue) -> LstmRecommender:
    """Build a recommender over a catalogue; as `shared.models.attention.build`.

    Raises:
        ConfigError: the catalogue does not have the features that the model reads.
    """
    features = public_features(model, catalogue) if model.items.uses_features else None
    recommender = LstmRecommender(shape_of_model(model, len(catalogue)), features)
    draw_frozen(recommender)
    return recommender


def bare(model: ModelConfig, items: int) -> LstmRecommender:
    """Return a recommender of this shape, untrained and without public features."""
    return LstmRecommender(shape_of_model(model, items))


def from_pretrained(folder: str | os.PathLike[str]) -> LstmRecommender:
    """Load a saved recommender; see `AttentionRecommender.from_pretrained`."""
    return LstmRecommender.from_pretrained(folder)
