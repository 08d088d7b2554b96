"""The kind "modalities": blocks of an item's features, each weighed by a learned gate.

A catalogue's features may be blocks side by side: text, image, sound, relations. Late fusion with a
gate for each modality (Arevalo et al. 2017, arXiv:1702.01992, there a function of the item), a
softmax over the modalities P_i that item i has:

    a_im = |P_i| exp(γ_m) / Σ_{m' in P_i} exp(γ_m'),    y_i = the blocks a_im x_im side by side.

y_i takes the place of the features of an `AttentionRecommender`, at its input and at its output.
γ begins at 0: then a_im = 1, and the model begins as the kind "attention" after the same warm
start. What an item lacks is zeros, and the others have all of its weight. Own directions have no
gate.

Letters: B users, T positions, F features, V items, M blocks, K candidates.

No table of y_i is formed in training: a_im is exp(γ_m), by which states are multiplied, times a
number of the item, by which scores are. Per-user gradients: γ meets no user's data. A linear layer
that is given a 1 for each user puts out a copy for each, whose gradient is that user's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.data.feature_blocks import MOST_BLOCKS
from shared.models.attention import AttentionRecommender, public_features
from shared.models.attention_config import AttentionConfig, extended
from shared.models.frozen import draw_frozen
from shared.models.gates import GATES_SCALE, LARGEST_GATE
from shared.models.item_scores import ItemScores
from shared.models.products import linear_by_user

__all__ = [
    "ModalitiesConfig",
    "ModalitiesRecommender",
    "bare",
    "build",
    "from_pretrained",
    "shape_of_model",
]

_SCORES_ALIVE = 4
"""Copies of a score that are kept beside the base's, until a pass is done."""


@dataclass(frozen=True, kw_only=True)
class ModalitiesConfig(AttentionConfig):
    """Shape of a `ModalitiesRecommender`; saved beside its weights."""

    def pass_numbers(self, candidates: int, length: int | None = None) -> int:
        """Return about how many numbers one user's training pass keeps; as of the base."""
        places = self.max_length if length is None else length
        scored = places + candidates if candidates else self.items
        own = _SCORES_ALIVE * places * (scored + self.described) + MOST_BLOCKS * scored
        return super().pass_numbers(candidates, length) + own

    def weight_numbers(self) -> int:
        """Return about how many numbers the weights and the items' tables have."""
        return super().weight_numbers() + MOST_BLOCKS * (1 + self.items + self.feature_size)


class ModalitiesRecommender(AttentionRecommender):
    """Next-item scores by features of several modalities.

    Args:
        config: the model's shape; items have features.
        features: as of an `AttentionRecommender`.
        blocks: columns of each block, which add up to those of the features; () for one of all.
    """

    config: ModalitiesConfig
    model_type = "sotto-modalities"
    shape = ModalitiesConfig
    item_tensors = dict(AttentionRecommender.item_tensors) | {"present": 1}
    columns: Tensor  # (M, F); 1 where a column is the block's
    present: Tensor  # (M, V); 1 where an item has the block

    def __init__(
        self, config: ModalitiesConfig, features: Tensor | None = None, blocks: Sequence[int] = ()
    ) -> None:
        super().__init__(config, features)
        self.gates = nn.Linear(1, MOST_BLOCKS, bias=False)
        nn.init.zeros_(self.gates.weight)
        size = config.feature_size
        self.register_buffer("columns", torch.zeros(MOST_BLOCKS, size))
        self.register_buffer("present", torch.zeros(MOST_BLOCKS, config.items))
        if features is not None:
            self._set_blocks(features, list(blocks) or [size])

    def _set_blocks(self, features: Tensor, blocks: list[int]) -> None:
        held = torch.stack([part.any(dim=1) for part in features.split(blocks, dim=1)])  # (M, V)
        held |= ~held.any(dim=0)  # an item without any features: no gate changes zeros
        self.present[: len(blocks)] = held.to(self.present)
        columns = torch.arange(features.shape[1]).split(blocks)
        for block, own in zip(self.columns, columns, strict=False):
            block[own] = 1

    def item_table(self) -> Tensor:
        """Return the items' vectors y, [V, F], with their own directions."""
        size = self.config.feature_size
        with torch.no_grad():
            gates = self._gates(1)
            fused = self.features.table[:, :size] * self._by_column(gates)[0]
            fused *= self._by_item(gates)[0, :, None]
        return torch.cat([fused, self.features.table[:, size:]], dim=1)

    def block_scores(self, histories: Tensor, items: Tensor) -> Tensor:
        """Return what each block adds to items' scores: [B, T], [K] -> [B, K, M + 1].

        By how much it raises the logit of the item above that of the mean item; over blocks, the
        products of state and features add up. Own directions come last.
        """
        size = self.config.feature_size
        described = self.feature_out(self.last_states(histories))  # (B, F)
        table = self.item_table()
        above = table[items.to(table.device) - 1] - table.mean(0)  # (K, F)
        columns = table.new_zeros(len(self.columns) + 1, table.shape[1])
        columns[:-1, :size], columns[-1, size:] = self.columns, 1
        added: Tensor = (described[:, None] * above) @ columns.T
        return added

    def _gates(self, users: int) -> Tensor:
        """Return exp(γ), a copy for each user, [B, 1, M]."""
        ones = self.position.weight.new_ones(users, 1, 1)
        logits: Tensor = GATES_SCALE * self.gates(ones)
        return logits.clamp(-LARGEST_GATE, LARGEST_GATE).exp()

    def _by_column(self, gates: Tensor) -> Tensor:
        """Return the gate of each column: [B, 1, M] -> [B, 1, F]."""
        return linear_by_user(gates, self.columns.T, None)

    def _by_item(self, gates: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return |P_i| / Σ exp(γ_m) of all items, [B, V], or of those in `rows`, [B, K]."""
        present = self.present if rows is None else self.present[:, rows]  # (M, V) or (M, B, K)
        sums = [gates[:, 0, place, None] * held for place, held in enumerate(present)]
        return present.sum(0) / torch.stack(sums).sum(0)

    def _features_of(self, rows: Tensor) -> Tensor:  # (B, T) -> (B, T, F)
        gates, features = self._gates(rows.shape[0]), super()._features_of(rows)
        size = self.config.feature_size
        fused = (
            features[..., :size] * self._by_column(gates) * self._by_item(gates, rows)[..., None]
        )
        return torch.cat([fused, features[..., size:]], dim=2)

    def _score_features(
        self, score: Callable[..., Tensor], states: Tensor, candidates: Tensor | None
    ) -> Tensor:
        """Score by y_i and own directions: a_im is a number of the column, and one of the item."""
        described, table, size = (
            self.feature_out(states),
            self.features.table,
            self.config.feature_size,
        )
        gates = self._gates(states.shape[0] if states.dim() > 2 else 1)
        columns = self._by_column(gates)  # (B, 1, F)
        items = self._by_item(gates, None if candidates is None else candidates - 1)  # (B, V or K)
        if states.dim() > 2:
            items = items[:, None]
        else:
            columns = columns[0]
        products = ItemScores.scores(
            described[..., :size] * columns, table[:, :size], None, candidates
        )
        own = described[..., size:]
        if candidates is not None:
            return score(own, table[:, size:], candidates) + products * items
        # Of no directions a score is the offset alone.
        offsets = score(described[..., :0], table[:, :0], None)
        return self._add_own(offsets + products * items, own)


def shape_of_model(model: ModelConfig, items: int) -> ModalitiesConfig:
    """Return the shape that the settings give over a catalogue of so many items."""
    return extended(ModalitiesConfig, model, items)


def build(model: ModelConfig, catalogue: Catalogue) -> ModalitiesRecommender:
    """Build a recommender over a catalogue; as `shared.models.attention.build`.

    Raises:
        ConfigError: the catalogue does not have the features that the model reads.
    """
    features = public_features(model, catalogue)
    shape = shape_of_model(model, len(catalogue))
    recommender = ModalitiesRecommender(shape, features, catalogue.block_sizes)
    draw_frozen(recommender)
    return recommender


def bare(model: ModelConfig, items: int) -> ModalitiesRecommender:
    """Return a recommender of this shape, untrained and without public features."""
    return ModalitiesRecommender(shape_of_model(model, items))


def from_pretrained(folder: str | os.PathLike[str]) -> ModalitiesRecommender:
    """Load a saved recommender; see `AttentionRecommender.from_pretrained`."""
    return ModalitiesRecommender.from_pretrained(folder)
