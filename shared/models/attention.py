"""The recommender: causal self-attention over one user's history, scored over every item.

The SASRec family (Kang & McAuley 2018, arXiv:1808.09781) with two later findings: pre-norm
blocks, and a softmax over the whole catalogue instead of sampled negatives (Klenitskiy &
Vasilev 2023, arXiv:2309.07602).

Letters: B users, T positions, D hidden size, F feature size, V items, H heads.

Attention prefers what is recent: before it has learned anything, each event weighs `recency` times
the one after it (linear biases on the logits: Press, Smith & Lewis 2022, arXiv:2108.12409).

Histories are padded on the RIGHT with 0. A causal mask then hides the padding from every real
position by itself, so no padding mask is needed, no softmax row is ever empty, and an event's
position does not depend on how long the batch is.

An item is represented by a learned vector (`ids`), by frozen public features from the catalogue
through two learned projections (`features`), or by their sum (`both`). Learned vectors serve as
input and as output, in one table, unless `tied` is off.

Every trainable weight lies in a layer whose per-user gradients are known, and is used through that
layer alone (`shared.privacy.clipping.layers`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.data.catalogue import Catalogue
from shared.errors import ConfigError

__all__ = [
    "Attention",
    "AttentionConfig",
    "AttentionRecommender",
    "Block",
    "ItemScores",
    "build",
    "configured",
    "described_items",
    "item_table",
    "trainable",
]


class AttentionConfig(PreTrainedConfig):
    """Shape of an `AttentionRecommender`; saved beside its weights.

    Attributes:
        items: catalogue size V; >= 1.
        item_representation: "ids", "features" or "both".
        tied: whether learned ids serve both as input and as output vectors.
        item_bias: whether each item has a learned offset, its popularity.
        feature_size: public features per item; 0 when none are used.
        own_items: internal ids of items that have a direction of their own besides; F counts both.
        hidden_size: width D, a multiple of `heads`.
        layers: attention blocks.
        heads: attention heads H.
        recency: what an event weighs in attention, relative to the one after it, in (0, 1].
        max_length: longest history read, T.
        dropout: probability in [0, 1).
        trained: "all" weights, or "scores": `feature_out` and offsets.
    """

    model_type = "sotto-attention"

    items: int = 1
    item_representation: str = "ids"
    tied: bool = True
    item_bias: bool = True
    feature_size: int = 0
    own_items: tuple[int, ...] = ()
    hidden_size: int = 64
    layers: int = 2
    heads: int = 2
    recency: float = 1.0
    max_length: int = 50
    dropout: float = 0.2
    trained: str = "all"


OVER_RESIDUAL = 32.0
"""How much louder than its input what attention hands on is, at first, in a model of features."""


class Attention(nn.Module):
    """Causal multi-head attention from four plain linear maps."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout, self.recency = config.heads, config.dropout, config.recency
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """What each event takes from its past: [B, T, D] -> [B, T, D]."""
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, self._bias(x), dropout_p=dropout)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, H, T, D/H) -> (B, T, D)
        return out

    def _bias(self, x: Tensor) -> Tensor:  # (B, T, D) -> (T, T): nothing of what is still to come
        places = torch.arange(x.shape[1], device=x.device)
        ago = places[:, None] - places
        bias = math.log(self.recency) * ago.to(x.dtype)
        return bias.masked_fill(ago < 0, -math.inf)

    def _split(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, H, T, D/H)
        out: Tensor = x.unflatten(2, (self.heads, -1))
        return out.transpose(1, 2)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

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
        self.dropout = nn.Dropout(config.dropout)

    def start_linear(self, *, alone: bool) -> None:
        """Hands on the mean of the past; `alone` leaves nothing else of the block to be seen."""
        attention, last = self.attention, self.feed[-1]
        nn.init.eye_(attention.value.weight)
        nn.init.eye_(attention.out.weight)
        if alone and isinstance(last, nn.Linear):
            nn.init.zeros_(attention.query.weight)
            nn.init.zeros_(last.weight)
            with torch.no_grad():
                attention.out.weight.mul_(OVER_RESIDUAL)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        out: Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out


class PublicFeatures(nn.Module):
    """The catalogue's frozen features, one row an item."""

    table: Tensor

    def __init__(self, items: int, size: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(items, size))  # (V, F)

    def forward(self, rows: Tensor) -> Tensor:  # (B, T) -> (B, T, F)
        return self.table[rows]


class ItemScores(nn.Module):
    """Scores of items: a state times each item's vector, plus the item's offset, its popularity.

    The table of vectors is whoever's it is: the input table, one of its own, or frozen features.

    Args:
        items: catalogue size V.
        offset: whether each item has a learned offset.
    """

    OFFSET_SCALE = 32.0
    """Constant that an offset is multiplied by.

    A user's gradient is clipped as a whole. That of the projections is as large as a state times a
    feature vector, about 64 here; an unscaled offset's is below 1, and would drown in their noise.
    """

    def __init__(self, items: int, *, offset: bool) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(items, 1)) if offset else None

    def forward(self, states: Tensor, table: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Scores of all items, or of each user's own candidates.

        Args:
            states: [B, T, D]; also [B, D] where all items are scored.
            table: one vector an item, [V, D].
            candidates: item ids in 1..V, int64 [B, K].

        Returns:
            [..., V], or [B, T, K].
        """
        return self.scores(states, table, self.offset, candidates)

    @classmethod
    def scores(
        cls, states: Tensor, table: Tensor, offset: Tensor | None, candidates: Tensor | None
    ) -> Tensor:
        """As `forward`, of a given offset [V, 1]."""
        if candidates is None:
            scaled = None if offset is None else cls.OFFSET_SCALE * offset[:, 0]
            return F.linear(states, table, scaled)
        scores = states @ F.embedding(candidates - 1, table).mT
        if offset is not None:
            scores = scores + cls.OFFSET_SCALE * offset[candidates - 1].mT
        return scores


class AttentionRecommender(PreTrainedModel):
    """Next-item scores for every position of every history.

    Args:
        config: its shape.
        features: public item features [V, feature_size], needed unless items are
            represented by ids alone or the weights are about to be loaded.
    """

    config_class = AttentionConfig
    config: AttentionConfig
    base_model_prefix = "sotto"

    def __init__(self, config: AttentionConfig, features: Tensor | None = None) -> None:
        super().__init__(config)
        items, width = config.items, config.hidden_size
        kind = ItemRepresentation(config.item_representation)
        self.position = nn.Embedding(config.max_length, width)
        if kind.learns_ids:
            self.item = nn.Embedding(items, width)
            if not config.tied:
                self.item_out = nn.Embedding(items, width)
        if kind.uses_features:
            described = config.feature_size + len(config.own_items)
            self.features = PublicFeatures(items, described)
            self.feature_in = nn.Linear(described, width, bias=False)
            self.feature_out = nn.Linear(width, described, bias=False)
        self.item_scores = ItemScores(items, offset=config.item_bias)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.post_init()  # type: ignore[no-untyped-call]
        self._start_linear()
        if features is not None and kind.uses_features:
            self.features.table.copy_(item_table(features, config.own_items))
        if Trained(config.trained) is Trained.SCORES:
            self.requires_grad_(requires_grad=False)
            self.feature_out.requires_grad_(requires_grad=True)
            self.item_scores.requires_grad_(requires_grad=True)

    def _init_weights(self, module: nn.Module) -> None:
        """Normal(0, 0.02) weights and zero biases, as in arXiv:2309.07602."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def _start_linear(self) -> None:
        """Starts as a linear model of what the user chose of late; training adds the rest.

        Attention hands on the mean of the past, weighted by recency (values and outputs are the
        identity, queries and keys near zero). Where items have public features, it is all there is:
        positions and feed-forward start at zero, features come in as they are, and every item
        scores the same until `feature_out` knows a bilinear form of past and next features. That
        form is what a warm start sets (`shared.models.moments`), and what the first private steps
        learn.
        """
        linear = hasattr(self, "feature_in")
        for module in self.modules():
            if isinstance(module, Block):
                module.start_linear(alone=linear)
        if linear:
            nn.init.zeros_(self.position.weight)
            _isometric_(self.feature_in.weight)
            nn.init.zeros_(self.feature_out.weight)

    def forward(self, histories: Tensor) -> Tensor:
        """Scores of every item after every event.

        Args:
            histories: item ids in 1..V, right-padded with 0, int64 [B, T], T <= max_length.

        Returns:
            Logits [B, T, V]; column j belongs to item j + 1.
        """
        return self.score(self.states(histories))

    def states(self, histories: Tensor) -> Tensor:
        """What the model knows after each event: [B, T] -> [B, T, D]."""
        x = self._embed(histories)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def score(self, states: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Logits over the catalogue, [..., D] -> [..., V].

        With candidates, item ids in 1..V [B, K], over each user's own: [B, T, D] -> [B, T, K].
        """
        kind = ItemRepresentation(self.config.item_representation)
        if not kind.learns_ids:
            scores: Tensor = self.item_scores(
                self.feature_out(states), self.features.table, candidates
            )
            return scores
        table = self.item.weight if self.config.tied else self.item_out.weight
        scores = self.item_scores(states, table, candidates)
        if kind.uses_features:
            frozen = self.features.table
            scores = scores + ItemScores.scores(self.feature_out(states), frozen, None, candidates)
        return scores

    def next_item_scores(self, histories: Tensor) -> Tensor:
        """Scores for what follows each history's last event: [B, T] -> [B, V].

        Only the last `max_length` events count. An empty history is scored from the state at
        position 0.
        """
        lengths = (histories != 0).sum(1)  # (B,)
        window = self._window(histories, lengths)
        last = lengths.clamp(1, window.shape[1]) - 1
        states = self.states(window)[torch.arange(len(window), device=window.device), last]
        return self.score(states)

    def _window(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """The last `max_length` events, right-padded again: [B, T] -> [B, min(T, max_length)]."""
        size = self.config.max_length
        if histories.shape[1] <= size:
            return histories
        starts = (lengths - size).clamp(min=0)  # (B,)
        places = starts[:, None] + torch.arange(size, device=histories.device)
        return histories.gather(1, places)

    def _embed(self, histories: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        users, length = histories.shape
        # A batch axis on the positions: per-user gradients cannot tell whose row a bare (T,) is.
        positions = torch.arange(length, device=histories.device).repeat(users, 1)
        x: Tensor = self.position(positions)
        # Padding has no row for noise to fall on: its place reads item 1, times 0.
        real, rows = (histories != 0)[..., None], (histories - 1).clamp(min=0)
        kind = ItemRepresentation(self.config.item_representation)
        if kind.learns_ids:
            x = x + self.item(rows) * real
        if kind.uses_features:
            x = x + self.feature_in(self.features(rows)) * real
        out: Tensor = self.dropout(x)
        return out


def item_table(features: Tensor, own_items: Sequence[int]) -> Tensor:
    """What describes each item: its features, and one direction for each of some items alone.

    An item's own direction is as long as a row of independent features of variance 1.

    Args:
        features: [V, feature_size].
        own_items: internal ids in 1..V, distinct.

    Returns:
        [V, F], F = feature_size + len(own_items).
    """
    own = features.new_zeros(len(features), len(own_items))
    own[[item - 1 for item in own_items], range(len(own_items))] = features.shape[1] ** 0.5
    return torch.cat([features, own], dim=1)


def _isometric_(weight: Tensor) -> None:
    """The identity, or an orthonormal map where the sizes differ."""
    if weight.shape[0] == weight.shape[1]:
        nn.init.eye_(weight)
    else:
        nn.init.orthogonal_(weight)


def described_items(model: ModelConfig, catalogue: Catalogue) -> Tensor:
    """What describes each item to the model, [V, F]: `item_table`, F = `model.described`.

    Raises:
        ConfigError: the model reads features that the catalogue does not have.
    """
    return item_table(_features(model, catalogue), model.own_items)


def _features(model: ModelConfig, catalogue: Catalogue) -> Tensor:
    features = catalogue.features
    found = 0 if features is None else features.shape[1]
    if features is None or found != model.feature_size:
        raise ConfigError(
            f"model.feature_size = {model.feature_size}, but the catalogue has {found} features "
            "an item: make the catalogue anew, or set model.feature_size to match."
        )
    if model.own_items and model.own_items[-1] > len(catalogue):
        raise ConfigError(
            f"model.own_items names item {model.own_items[-1]} of {len(catalogue)}: leave it out."
        )
    return features


def configured(model: ModelConfig, items: int) -> AttentionConfig:
    """The recommender's own configuration, for so many items."""
    described = model.items.uses_features
    return AttentionConfig(
        items=items,
        item_representation=str(model.items),
        tied=model.tied,
        item_bias=model.item_bias,
        feature_size=model.feature_size if described else 0,
        own_items=model.own_items if described else (),
        hidden_size=model.width,
        layers=model.layers,
        heads=model.heads,
        recency=model.recency,
        max_length=model.max_length,
        dropout=model.dropout,
        trained=str(model.trained),
    )


def build(model: ModelConfig, catalogue: Catalogue) -> AttentionRecommender:
    """A recommender of the wanted shape over a catalogue, with weights from torch's seed.

    Raises:
        ConfigError: the model reads features that the catalogue does not have.
    """
    features = _features(model, catalogue) if model.items.uses_features else None
    return AttentionRecommender(configured(model, len(catalogue)), features)


def trainable(model: AttentionRecommender) -> dict[str, nn.Parameter]:
    """The weights that training changes and messages carry, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
