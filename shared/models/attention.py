"""The recommender: causal self-attention over one user's history, scored over every item.

The model is of the SASRec family (Kang & McAuley 2018, arXiv:1808.09781), with pre-norm blocks and
a softmax over the whole catalogue instead of sampled negatives (Klenitskiy & Vasilev 2023,
arXiv:2309.07602).

Letters: B users, T positions, D hidden size, F feature size, V items, K candidates.

Padding: histories are padded on the RIGHT with 0. The causal mask then hides the padding from every
real position, so no padding mask is needed, no softmax row is empty, and an event's position does
not depend on the length of the batch.

Items: an item is represented by a learned vector (`ids`), by frozen public features from the
catalogue through two learned projections (`features`), or by their sum (`both`). Unless `tied` is
off, one table of learned vectors serves as both input and output.

Per-user gradients: every trainable weight belongs to a layer whose per-user gradients can be
computed (`shared.privacy.clipping.layers`), and is used only by calling that layer.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.data.catalogue import Catalogue
from shared.data.model_folder import read_model, write_model
from shared.errors import ConfigError
from shared.models.attention_config import AttentionConfig, attention_config
from shared.models.augmentation import Augmentation
from shared.models.blocks import Attention, Block, apply_linear
from shared.models.complete_weights import check_complete
from shared.models.dropout import Dropout
from shared.models.frozen import INITIAL_STD, draw_frozen
from shared.models.item_scores import ItemScores, PublicFeatures
from shared.models.losses import loss_per_user, next_item_pairs, sampled_loss_per_user
from shared.models.shapes import shapes_alone

__all__ = [
    "AttentionRecommender",
    "append_own_directions",
    "bare",
    "build",
    "from_pretrained",
    "item_descriptors",
    "public_features",
    "shape_of_model",
    "trainable",
]


class AttentionRecommender(nn.Module):
    """Next-item scores for every position of every history.

    Args:
        config: the model's shape.
        features: public item features [V, feature_size]. Not needed where items are represented
            by ids only, or where weights are loaded afterwards.

    Attributes:
        model_type: stands beside the shape of a saved model.
        shape: the class of its configuration.
        item_tensors: weights and buffers with a row an item by name, and the axis of these rows.
        linked_weights: names of trained weights whose gradients other users enter (see
            `shared.privacy.clipping.linked`); all others depend on a user's own history only.
        selected: bool [V], the only items that losses rank (see `restrict`); None for all.
        ranks_by_products: whether a score is the product of one query a history with one vector an
            item, which fast search and export need (`client.serving.item_vectors`).
        beside_is_optional: whether `losses` may go without what is read beside histories: a user
            who has none of it adds the same then.
    """

    model_type: ClassVar[str] = "sotto-attention"
    shape: ClassVar[type[AttentionConfig]] = AttentionConfig
    ranks_by_products: ClassVar[bool] = True
    beside_is_optional: ClassVar[bool] = False
    linked_weights: ClassVar[frozenset[str]] = frozenset()
    item_tensors: ClassVar[Mapping[str, int]] = dict.fromkeys(
        ("features.table", "item_scores.offset", "item.weight", "item_out.weight"), 0
    )
    selected: Tensor | None

    def __init__(self, config: AttentionConfig, features: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("selected", None, persistent=False)
        items, width = config.items, config.hidden_size
        kind = ItemRepresentation(config.item_representation)
        self.position = nn.Embedding(config.max_length, width)
        if kind.learns_ids:
            self.item = nn.Embedding(items, width)
            if not config.tied:
                self.item_out = nn.Embedding(items, width)
        if kind.uses_features:
            size = config.feature_size + len(config.own_items)  # F
            self.features = PublicFeatures(items, size)
            self.feature_in = nn.Linear(size, width, bias=False)
            self.feature_out = nn.Linear(width, size, bias=False)
        self.item_scores = ItemScores(items, offset=config.item_bias)
        self.augmentation = Augmentation(config.augment)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.apply(_draw_weights)
        self._init_linear_model()
        if features is not None and kind.uses_features:
            self.features.table.copy_(append_own_directions(features, config.own_items))
        trained = Trained(config.trained)
        if trained is not Trained.ALL:
            self.requires_grad_(requires_grad=False)
            self.feature_out.requires_grad_(requires_grad=True)
            self.item_scores.requires_grad_(requires_grad=True)
        if trained is Trained.ATTENTION:
            self.attention.query.requires_grad_(requires_grad=True)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Load a model that `save_pretrained` wrote, in evaluation mode.

        Args:
            folder: where it lies; nothing is executed or fetched from elsewhere.

        Raises:
            DataError: a tensor is missing, has another shape, or is not the model's.
            OSError: a file is missing or cannot be read.
            SafetensorError: the file of weights is damaged.
            ValueError: `config.json` is damaged, or of another shape.
        """
        shape, weights = read_model(folder)
        with shapes_alone():  # the file has the numbers
            model = cls(cls.shape.from_json(shape))
        check_complete(weights, model.state_dict(), folder)
        model.to_empty(device="cpu")
        model.load_state_dict(weights)
        return model.train(mode=False)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the shape, `config.json`, and the weights, `model.safetensors`, into a folder.

        Raises:
            OSError: a file cannot be written.
        """
        about = {"model_type": self.model_type} | asdict(self.config)
        write_model(folder, about, self.state_dict())

    def restrict(self, selected: Tensor) -> None:
        """Let `losses` rank these items alone, as where an organisation has no others.

        The model keeps its shape, and `forward` and `score` their results.

        Args:
            selected: bool [V]; at least one is true.
        """
        self.selected = selected.to(self.device)

    def among_selected(self, scores: Tensor) -> Tensor:
        """Return scores [..., V] with -inf for items that are not selected."""
        if self.selected is None:
            return scores
        return scores.masked_fill(~self.selected, -math.inf)

    def select_items(self, rows: Tensor) -> Self:
        """Return a model of some items alone, in evaluation mode, with the same scores of these.

        An own direction of an item that is left out stays, and is no item's.

        Args:
            rows: of the K items, ascending, int64 [K]; its internal ids are 1..K in this order.
        """
        own = {int(row) + 1: number for number, row in enumerate(rows, start=1)}
        places = tuple(own.get(item, 1) for item in self.config.own_items)
        config = replace(self.config, items=len(rows), own_items=places)
        with shapes_alone():
            made = type(self)(config)
        kept = {
            name: value.index_select(self.item_tensors[name], rows.to(value.device))
            if name in self.item_tensors
            else value.clone()
            for name, value in self.state_dict().items()
        }
        made.load_state_dict(kept, assign=True)
        return made.train(mode=False)

    @property
    def attention(self) -> Attention:
        """The last block's attention."""
        block = self.blocks[-1]
        assert isinstance(block, Block)
        return block.attention

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.position.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.position.weight.dtype

    def _init_linear_model(self) -> None:
        """Initialise the model as a linear function of the user's recent items.

        Attention returns the recency-weighted mean of the past: value and output projections are
        the identity, queries and keys near zero. In a model that uses features nothing else
        contributes: positions, feed-forward and `feature_out` are zero, and `feature_in` keeps the
        features' geometry. All items then have equal scores, and `feature_out` is a bilinear form
        of past and next features. A warm start sets this form (`shared.models.moments`), and the
        first private steps learn it.
        """
        uses_features = hasattr(self, "feature_in")
        for module in self.modules():
            if isinstance(module, Block):
                module.init_recency_mean(attention_only=uses_features)
        if uses_features:
            nn.init.zeros_(self.position.weight)
            _init_isometry_(self.feature_in.weight)
            nn.init.zeros_(self.feature_out.weight)

    def forward(self, histories: Tensor) -> Tensor:
        """Score every item after every event.

        Args:
            histories: item ids in 1..V, right-padded with 0, int64 [B, T], T <= max_length.

        Returns:
            Logits [B, T, V]; column j belongs to item j + 1.
        """
        return self.score(self.states(histories))

    def states(self, histories: Tensor) -> Tensor:
        """Return the hidden state after each event: [B, T] -> [B, T, D]."""
        return self._apply_blocks(self._embed(histories))

    def _apply_blocks(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def score(self, states: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Return logits over the catalogue, [..., D] -> [..., V].

        With `candidates`, item ids in 1..V [B, K], return logits over each user's own candidates:
        [B, T, D] -> [B, T, K].
        """
        kind = ItemRepresentation(self.config.item_representation)
        if not kind.learns_ids:
            return self._score_features(self.item_scores, states, candidates)
        # "both": state · (id vector + W feature vector), computed as two products. The offset is
        # added once.
        table = self.item.weight if self.config.tied else self.item_out.weight
        scores: Tensor = self.item_scores(states, table, candidates)
        if kind.uses_features:
            scores = scores + self._score_features(_without_offset, states, candidates)
        return scores

    def _score_features(
        self, score: Callable[..., Tensor], states: Tensor, candidates: Tensor | None
    ) -> Tensor:
        """Score by features and own directions; of the latter, each item has one or none."""
        described, table, size = (
            self.feature_out(states),
            self.features.table,
            self.config.feature_size,
        )
        if candidates is not None or table.shape[1] == size:
            return score(described, table, candidates)
        scores: Tensor = score(described[..., :size], table[:, :size], None)  # (..., V)
        return self._add_own(scores, described[..., size:])

    def _add_own(self, scores: Tensor, described: Tensor) -> Tensor:
        """Add to scores [..., V] what own directions [..., O] say of their items."""
        table, size = self.features.table, self.config.feature_size
        if table.shape[1] == size:
            return scores
        rows = torch.tensor(self.config.own_items, device=table.device) - 1
        own = described * table[rows, torch.arange(size, table.shape[1], device=table.device)]
        out: Tensor = scores.index_add(-1, rows, own.to(scores.dtype))  # half precision, on a GPU
        return out

    def item_table(self) -> Tensor:
        """Return the vectors that features give items, [V, F], for products outside training."""
        return self.features.table

    def item_vectors(self) -> Tensor:
        """Return the items' own vectors: descriptors [V, F], or learned ones [V, D]."""
        if self.config.reads_features:
            return self.features.table
        return self.item.weight if self.config.tied else self.item_out.weight

    def _features_of(self, rows: Tensor) -> Tensor:  # (B, T) -> (B, T, F)
        features: Tensor = self.features(rows)
        return features

    def next_item_scores(self, histories: Tensor) -> Tensor:
        """Score the items that may follow each history's last event: [B, T] -> [B, V].

        Only the last `max_length` events count. An empty history is scored from the state at
        position 0.
        """
        return self.score(self.last_states(histories))

    def losses(
        self,
        events: Tensor,
        candidates: Tensor,
        *beside: Tensor,
    ) -> Tensor:
        """Return each user's loss: the mean cross-entropy of what followed each event.

        Args:
            events: item ids in 1..V, right-padded with 0, int64 [B, T + 1].
            candidates: item ids in 1..V among which each next one is ranked, int64 [B, K]; with
                K = 0 it is ranked among all.
            *beside: what a kind reads beside histories, [B, ...] each; here nothing.

        Returns:
            [B]; 0 for a user without a next item.
        """
        inputs, targets = next_item_pairs(self.augmentation(events))
        if candidates.shape[1] == 0:
            return loss_per_user(self.among_selected(self(inputs)), targets)
        # A place without a target scores item 1, which then counts for nothing.
        ranked = torch.cat([targets.clamp(min=1), candidates], dim=1)
        scores = self.score(self.states(inputs), ranked)
        return sampled_loss_per_user(scores, targets, candidates)

    def invented_beside(self, rows: int, length: int, seed: int) -> tuple[Tensor, ...]:
        """Return what `losses` reads beside histories, of invented users, [rows, ...] each.

        Args:
            rows: users.
            length: events that the model reads of each.
            seed: tells calls apart; one seed gives the same in every call.
        """
        return ()

    def last_states(self, histories: Tensor) -> Tensor:
        """Return the hidden state after each history's last event: [B, T] -> [B, D].

        Of the last block, one position is computed.
        """
        lengths = (histories != 0).sum(1)  # (B,)
        window = self._window(histories, lengths)
        last = lengths.clamp(1, window.shape[1]) - 1  # (B,)
        if self.training:  # dropout is drawn for all positions
            users = torch.arange(len(window), device=window.device)
            return self.states(window)[users, last]
        x = self._embed(window)  # (B, T, D)
        *others, final = [block for block in self.blocks if isinstance(block, Block)]
        for block in others:
            x = block(x)
        out: Tensor = self.norm(final.apply_at(x, last))
        return out

    def last_attention(self, histories: Tensor) -> Tensor:
        """Return how much the last event attends to each event that is read: [B, T] -> [B, S].

        The mean over blocks and heads. S = min(T, `max_length`); the last S events are read, and
        column s is the s-th of them. Each row's sum is 1; an empty history attends to position 0.
        """
        lengths = (histories != 0).sum(1)  # (B,)
        window = self._window(histories, lengths)
        last = lengths.clamp(1, window.shape[1]) - 1  # (B,)
        rows = torch.arange(window.shape[0], device=window.device)
        x, parts = self._embed(window), []
        for block in self.blocks:
            assert isinstance(block, Block)
            parts.append(block.attention.weights(block.attention_norm(x)).mean(1)[rows, last])
            x = block(x)
        return torch.stack(parts).mean(0)

    def item_attention(self, histories: Tensor, items: Tensor) -> Tensor:
        """Return how much each event counts for each item: [B, T], [K] -> [B, K, S].

        Here `last_attention`, which is the same for all items.
        """
        return self.last_attention(histories)[:, None].expand(-1, len(items), -1)

    def _window(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """Keep the last `max_length` events, right-padded: [B, T] -> [B, min(T, max_length)]."""
        size = self.config.max_length
        if histories.shape[1] <= size:
            return histories
        starts = (lengths - size).clamp(min=0)  # (B,)
        columns = starts[:, None] + torch.arange(size, device=histories.device)  # (B, max_length)
        return histories.gather(1, columns)

    def _embed(self, histories: Tensor, described: Tensor | None = None) -> Tensor:
        """Return what is read of each event: [B, T] -> [B, T, D].

        Args:
            histories: as of `forward`.
            described: descriptors of the events' items, [B, T, F]; None: those of the table.
        """
        users, length = histories.shape
        # Positions get a batch axis: per-user gradients need to know the user of each row.
        positions = torch.arange(length, device=histories.device).repeat(users, 1)  # (B, T)
        x: Tensor = self.position(positions)
        # Padding has no row in the tables, so that no noise is spent on one. It reads item 1, and
        # the result is multiplied by 0.
        real, rows = (histories != 0)[..., None], (histories - 1).clamp(min=0)
        kind = ItemRepresentation(self.config.item_representation)
        if kind.learns_ids:
            x = x + self.item(rows) * real
        if kind.uses_features:
            described = self._features_of(rows) if described is None else described
            x = x + apply_linear(self.feature_in, described) * real
        out: Tensor = self.dropout(x)
        return out


def _without_offset(states: Tensor, table: Tensor, candidates: Tensor | None) -> Tensor:
    return ItemScores.scores(states, table, None, candidates)


def append_own_directions(features: Tensor, own_items: Sequence[int]) -> Tensor:
    """Append one column per own item: sqrt(feature_size) in that item's row, 0 elsewhere.

    The scale is the expected length of a row of independent features of variance 1.

    Args:
        features: [V, feature_size].
        own_items: internal ids in 1..V, distinct.

    Returns:
        Item descriptors [V, F], F = feature_size + len(own_items).
    """
    own = features.new_zeros(len(features), len(own_items))
    own[[item - 1 for item in own_items], range(len(own_items))] = features.shape[1] ** 0.5
    return torch.cat([features, own], dim=1)


def _draw_weights(module: nn.Module) -> None:
    """Draw weights from Normal(0, 0.02) and set biases to 0, as in arXiv:2309.07602."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _init_isometry_(weight: Tensor) -> None:
    """Set the weight to the identity, or to an orthonormal map where the sizes differ."""
    if weight.shape[0] == weight.shape[1]:
        nn.init.eye_(weight)
    else:
        nn.init.orthogonal_(weight)


def item_descriptors(model: ModelConfig, catalogue: Catalogue) -> Tensor:
    """Return the table of `append_own_directions` that a model reads, [V, F].

    Raises:
        ConfigError: the catalogue does not have the features that the model reads.
    """
    return append_own_directions(public_features(model, catalogue), model.own_items)


def public_features(model: ModelConfig, catalogue: Catalogue) -> Tensor:
    """Return the catalogue's features, [V, feature_size], if they are those that a model reads.

    Raises:
        ConfigError: they are not.
    """
    features = catalogue.features
    size = 0 if features is None else features.shape[1]
    if features is None or size != model.feature_size:
        raise ConfigError(
            f"model.feature_size = {model.feature_size}, but the catalogue has {size} features "
            "an item: make the catalogue anew, or set model.feature_size to match."
        )
    if model.own_items and model.own_items[-1] > len(catalogue):
        raise ConfigError(
            f"model.own_items names item {model.own_items[-1]} of {len(catalogue)}: leave it out."
        )
    return features


def build(model: ModelConfig, catalogue: Catalogue) -> AttentionRecommender:
    """Build a recommender over a catalogue.

    Initial weights that are to be trained are drawn from torch's seed; frozen ones are the same
    everywhere (`shared.models.frozen`).

    Raises:
        ConfigError: the catalogue does not have the features that the model reads.
    """
    features = public_features(model, catalogue) if model.items.uses_features else None
    recommender = AttentionRecommender(attention_config(model, len(catalogue)), features)
    draw_frozen(recommender)
    return recommender


def shape_of_model(model: ModelConfig, items: int) -> AttentionConfig:
    """Return the shape that the settings give; as `attention_config`."""
    return attention_config(model, items)


def bare(model: ModelConfig, items: int) -> AttentionRecommender:
    """Return a recommender of this shape, untrained and without public features."""
    return AttentionRecommender(attention_config(model, items))


def from_pretrained(folder: str | os.PathLike[str]) -> AttentionRecommender:
    """Load a saved recommender; see `AttentionRecommender.from_pretrained`."""
    return AttentionRecommender.from_pretrained(folder)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that training changes and messages carry, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
