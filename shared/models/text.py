"""The kind "text": the item is its text, read by an encoder that users adapt.

A recommender of the kind "attention" whose items' features come from a text encoder, as in UniSRec
(Hou et al. 2022, arXiv:2206.05941), where the encoder's last blocks have adapters of low rank
(`shared.models.text_blocks`). So

    φ_j(θ) = features of the catalogue + (u_j(θ) - u_j⁰) P

takes the place of the frozen features, as what is read of a past item and as what a next one is
scored by. Adapters begin at 0, where φ_j is the catalogue's: before the first step it scores
exactly what "attention" scores.

Letters: B users, T positions, V items, K candidates, F feature size.

Items' features are kept in a table, which is computed anew when adapters have changed and somebody
asks for it. A saved model has the table and not the encoder: it ranks without one. To train it
further, `build` it over the catalogue.

Per-user gradients: of a user's own items, and of candidates that are drawn for it, features are
computed by the adapted blocks with gradients, and summed over items and tokens before they are
clipped. With `training.candidates` = 0, a next item is ranked among the whole catalogue by the
table. The gradient that goes to the adapters through items that the user has not chosen is then
estimated by `OTHERS` of all V items, drawn for the user, each counting V / `OTHERS` times: its
expectation is that gradient. All other gradients are exact.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from shared.config import ModelConfig
from shared.data.adaptable_text import MOST_TOKENS, AdaptableText
from shared.data.catalogue import Catalogue
from shared.errors import ConfigError
from shared.models.attention import AttentionRecommender, public_features
from shared.models.attention_config import AttentionConfig, extended
from shared.models.dropout import BITS, Dropout
from shared.models.frozen import draw_frozen
from shared.models.losses import loss_per_user, next_item_pairs, sampled_loss_per_user
from shared.models.products import linear_by_user, product_by_user
from shared.models.text_blocks import TextBlocks

__all__ = [
    "OTHERS",
    "TextConfig",
    "TextRecommender",
    "bare",
    "build",
    "from_pretrained",
    "shape_of_model",
]

OTHERS = 16
"""Items drawn for a user in a pass through which the gradient of all that it did not choose is
estimated."""
_ALIVE = 48
"""How many numbers one of D of a token is kept in for each block, until a pass is done."""
_TOKENS_SHARE = 8
"""Tokens' states count for so much less than weights: of half the size, and never copied."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(AttentionConfig):
    """Shape of a `TextRecommender`; saved beside its weights.

    Attributes:
        text_width: width D of the encoder.
        text_blocks: its last blocks that have adapters.
        lora_rank: of an adapter.
    """

    text_width: int = 384
    text_blocks: int = 1
    lora_rank: int = 8

    def pass_numbers(self, candidates: int, length: int | None = None) -> int:
        """Return about how many numbers one user's training pass keeps; as of the base."""
        places = self.max_length if length is None else length
        texts = places + 1 + (candidates or OTHERS)
        tokens = texts * MOST_TOKENS * self.text_width * (2 + _ALIVE * self.text_blocks)
        return super().pass_numbers(candidates, length) + tokens + 4 * texts * self.described

    def mask_numbers(self) -> int:
        """Return how many random numbers one user's pass over `max_length` events takes."""
        return super().mask_numbers() + Others.NUMBERS

    def weight_numbers(self) -> int:
        """Return about how many numbers the weights and the items' tables have."""
        width, tables = self.text_width, 2 * self.items * self.described
        tokens = self.items * (MOST_TOKENS // _TOKENS_SHARE + 1) * width
        blocks = self.text_blocks * width * (4 * self.lora_rank + 12 * width)
        return super().weight_numbers() + tables + tokens + blocks


class Others(Dropout):
    """Draws items of the whole catalogue in training; by given numbers where masks are given."""

    NUMBERS: ClassVar[int] = 2 * OTHERS
    """Random numbers of a user's draws."""

    def __init__(self, items: int) -> None:
        super().__init__(0.0)
        self._items = items

    def forward(self, events: Tensor) -> Tensor:
        """Return ids in 1..V, int64 [B, `OTHERS`]; none where it does not train."""
        if not self.training:
            return events[:, :0]
        high, low = self.uniform(len(events), self.NUMBERS, events.device).double().chunk(2, 1)
        rows = ((high + low * 2.0**-BITS) * self._items).long()
        return 1 + rows.clamp(max=self._items - 1)


class AdaptedFeatures(nn.Module):
    """Items' descriptors by the adapted encoder, one row per item; in place of `PublicFeatures`.

    Args:
        config: the model's shape.
        table: descriptors with adapters at 0, [V, F].
    """

    current: Tensor  # (V, F)
    start: Tensor  # (V, F) with adapters at 0, once the encoder's part is there

    def __init__(self, config: TextConfig, table: Tensor) -> None:
        super().__init__()
        self.blocks = TextBlocks(config.text_width, config.text_blocks, config.lora_rank)
        self.register_buffer("current", table)
        self._size = config.feature_size
        self._made_of: Tensor | None = None

    def attach(self, text: AdaptableText) -> None:
        """Take the encoder's part from a catalogue; descriptors are those of adapters at 0."""
        self.blocks.attach(text, self._size)
        self.register_buffer("start", self.current.clone(), persistent=False)

    @property
    def table(self) -> Tensor:
        """The descriptors with the adapters as they are, [V, F]."""
        if not self.blocks.attached:  # a saved model's
            return self.current
        adapters, known = self.blocks.adapters(), self._made_of
        if known is None or not _same_bits(known, adapters):
            with torch.no_grad():
                self.current.copy_(self.start)
                if adapters.any():
                    self.current[:, : self._size] += self.blocks.all_changes()
            self._made_of = adapters
        return self.current

    def forward(self, rows: Tensor) -> Tensor:  # (B, T) -> (B, T, F)
        return self.table[rows]

    def moving(self, items: Tensor) -> Tensor:
        """Return descriptors through which adapters get gradients: ids [B, M] -> [B, M, F].

        Raises:
            ConfigError: the model was loaded, and has no encoder.
        """
        if not self.blocks.attached:
            raise ConfigError("a saved model of kind 'text' cannot be trained: build it anew.")
        changes = self.blocks.changes(items)
        own = changes.new_zeros(*changes.shape[:2], self.start.shape[1] - self._size)
        return self.start[items - 1] + torch.cat([changes, own], dim=2)


class TextRecommender(AttentionRecommender):
    """Next-item scores by features of an encoder with adapters.

    Args:
        config: the model's shape; items are represented by features.
        features: the catalogue's, as of an `AttentionRecommender`.
    """

    config: TextConfig
    features: AdaptedFeatures  # type: ignore[assignment]  # its table is computed
    model_type = "sotto-text"
    shape = TextConfig
    item_tensors = dict(AttentionRecommender.item_tensors) | {"features.current": 0}

    def __init__(self, config: TextConfig, features: Tensor | None = None) -> None:
        super().__init__(config, features)
        table = self.features.table
        del self.features
        self.features = AdaptedFeatures(config, table)
        self.others = Others(config.items)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the shape, and the weights with the table; the encoder's part is left out.

        Raises:
            OSError: a file cannot be written.
        """
        _ = self.features.table  # as the adapters are
        super().save_pretrained(folder)

    def select_items(self, rows: Tensor) -> Self:
        """Return a model of some items alone; it has the table, and no encoder."""
        _ = self.features.table  # as the adapters are
        return super().select_items(rows)

    def losses(self, events: Tensor, candidates: Tensor, *beside: Tensor) -> Tensor:
        """Return each user's loss: as of an `AttentionRecommender`.

        Its value is that of the table; adapters get their gradient through the user's own items
        and drawn ones.
        """
        events = self.augmentation(events)
        inputs, targets = next_item_pairs(events)
        ranked_all = candidates.shape[1] == 0
        drawn = self.others(events) if ranked_all else candidates
        items = torch.cat([events.clamp(min=1), drawn], dim=1)  # (B, T + 1 + K)
        vectors = self.features.moving(items)
        states = self._apply_blocks(self._embed(inputs, vectors[:, : inputs.shape[1]]))
        if ranked_all:
            scores, counts = self.score(states), self._counts(events, drawn)
            moved = self._through_adapters(states, vectors) * counts[:, None]
            places = (items - 1)[:, None].expand_as(moved)
            scores = scores.scatter_add(2, places, moved.to(scores))
            return loss_per_user(self.among_selected(scores), targets)
        ranked = items[:, 1:]
        scores = self.score(states, ranked) + self._through_adapters(states, vectors[:, 1:])
        return sampled_loss_per_user(scores, targets, candidates)

    def _counts(self, events: Tensor, drawn: Tensor) -> Tensor:
        """Return how often each of a user's items and drawn ones counts, [B, T + 1 + K].

        Of its own items each counts once, and one that was drawn counts for others alone.
        """
        earlier = (events[:, :, None] == events[:, None]).tril(-1).any(2)
        others = ~(drawn[:, :, None] == events[:, None]).any(2)
        counts = [~earlier & (events != 0), others * (self.config.items / OTHERS)]
        return torch.cat([count.to(self.dtype) for count in counts], dim=1)

    def _through_adapters(self, states: Tensor, vectors: Tensor) -> Tensor:
        """Return zeros whose gradient is that of scores with respect to items' vectors.

        The scores themselves are those of the table, which has the same vectors: [B, T, D] and
        [B, M, F] -> [B, T, M].
        """
        described = linear_by_user(states.detach(), self.feature_out.weight.detach(), None)
        return product_by_user(described, (vectors - vectors.detach()).mT)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two rows of numbers are the same, NaN included: weights may diverge."""
    if (one.dtype, one.device) != (other.dtype, other.device):
        return False
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def shape_of_model(model: ModelConfig, items: int) -> TextConfig:
    """Return the shape that the settings give over a catalogue of so many items."""
    return extended(
        TextConfig,
        model,
        items,
        text_width=model.text_width,
        text_blocks=model.text_blocks,
        lora_rank=model.lora_rank,
    )


def build(model: ModelConfig, catalogue: Catalogue) -> TextRecommender:
    """Build a recommender over a catalogue; as `shared.models.attention.build`.

    Raises:
        ConfigError: the catalogue does not have the features, or the encoder's last blocks, that
            the model reads.
    """
    features, text = public_features(model, catalogue), catalogue.text
    if text is None:
        raise ConfigError(
            f"model.kind = '{model.kind}', but the catalogue has no encoder's last blocks: make it "
            "with sotto-lab items encode --encoder FOLDER --adaptable BLOCKS."
        )
    for name, stated, has in (
        ("text_width", model.text_width, text.width),
        ("text_blocks", model.text_blocks, len(text.weights)),
    ):
        if stated != has:
            raise ConfigError(
                f"model.{name} = {stated}, but that of the catalogue's encoder is {has}: set "
                f"model.{name} = {has}, or make the catalogue anew."
            )
    recommender = TextRecommender(shape_of_model(model, len(catalogue)), features)
    draw_frozen(recommender)
    recommender.features.attach(text)
    return recommender


def bare(model: ModelConfig, items: int) -> TextRecommender:
    """Return a recommender of this shape, untrained and without public features."""
    return TextRecommender(shape_of_model(model, items))


def from_pretrained(folder: str | os.PathLike[str]) -> TextRecommender:
    """Load a saved recommender; see `AttentionRecommender.from_pretrained`."""
    return TextRecommender.from_pretrained(folder)
