"""The shape of the recommender: its configuration, and sizes that follow from it.

Apart from the model (`shared.models.attention`): who checks a request or estimates memory needs
the shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

from pydantic import TypeAdapter

from shared.config import ItemRepresentation, ModelConfig
from shared.models.augmentation import Augmentation
from shared.models.products import LARGE, NUMBERS

__all__ = ["LAYERS_ALIVE", "AttentionConfig", "attention_config", "extended"]

LAYERS_ALIVE = 64
"""About how many values a position's hidden state is kept in, until a training pass is done."""
RANKED_STATES = 16
"""Hidden states of each position that are alive while a user's items are ranked."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Shape of an `AttentionRecommender`; saved beside its weights.

    Attributes:
        items: catalogue size V; >= 1.
        item_representation: "ids", "features" or "both".
        tied: whether one table of learned vectors serves as both input and output.
        item_bias: whether each item has a learned offset (its popularity).
        feature_size: public features per item; 0 when none are used.
        own_items: internal ids of the items that have an additional one-hot feature;
            F = feature_size + len(own_items).
        hidden_size: width D, a multiple of `heads`.
        layers: number of attention blocks.
        heads: number of attention heads H.
        recency: initial attention weight of an event relative to the next one, in (0, 1].
        max_length: events of a history that are read, T.
        dropout: probability in [0, 1).
        augment: share of a history's events that are cropped, masked or reordered, in [0, 1).
        compared: features R that attention compares events by; 0 is all of the width, by
            projections of its own.
        trained: "all" weights; "scores": only `feature_out` and the offsets; "attention": these and
            attention's queries.
    """

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
    augment: float = 0.0
    compared: int = 0
    trained: str = "all"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a shape from an object of its settings; keys that a shape has not are ignored.

        Raises:
            ValueError: the text is not such an object, or a value is of another type.
        """
        return TypeAdapter(cls).validate_json(text, strict=True)

    @property
    def described(self) -> int:
        """Columns of an item's descriptor, F."""
        return self.feature_size + len(self.own_items)

    @property
    def vector_size(self) -> int:
        """Numbers of an item's vector h_j: its descriptor, or else its learned vector."""
        return self.described if self.reads_features else self.hidden_size

    @property
    def reads_features(self) -> bool:
        """Whether items have public features."""
        return ItemRepresentation(self.item_representation).uses_features

    def pass_numbers(self, candidates: int, length: int | None = None) -> int:
        """Return about how many numbers one user's training pass keeps.

        Args:
            candidates: drawn for each user; 0 ranks the whole catalogue.
            length: events that are read; None: as many as the model reads.
        """
        length = self.max_length if length is None else length
        scored = length + candidates if candidates else self.items
        heads = self.layers * self.heads
        return length * (scored + LAYERS_ALIVE * self.hidden_size + 4 * heads * length)

    def mask_numbers(self) -> int:
        """Return how many random numbers one user's pass over `max_length` events takes."""
        length, width = self.max_length, self.hidden_size
        attended = length * (length + -length % NUMBERS if length < LARGE else length)
        layer = self.heads * attended + 2 * length * width
        masks = length * width + self.layers * layer if self.dropout else 0
        return masks + (Augmentation.numbers(length + 1) if self.augment else 0)

    def ranking_numbers(self) -> int:
        """Return about how many numbers are kept while the catalogue is ranked for one user."""
        attended = 2 * self.layers * self.heads * self.max_length
        return self.max_length * (RANKED_STATES * self.hidden_size + attended) + self.items

    def weight_numbers(self) -> int:
        """Return about how many numbers the weights and the items' tables have."""
        width, size = self.hidden_size, self.described
        learned = ItemRepresentation(self.item_representation).learns_ids * (2 - self.tied)
        tables, blocks = self.items * (size + width * learned), 12 * self.layers * width * width
        return tables + blocks + 2 * size * width + self.max_length * width


def attention_config(model: ModelConfig, items: int) -> AttentionConfig:
    """Translate the run's model settings into the recommender's own configuration.

    Args:
        model: the settings.
        items: catalogue size V.
    """
    uses_features = model.items.uses_features
    return AttentionConfig(
        items=items,
        item_representation=str(model.items),
        tied=model.tied,
        item_bias=model.item_bias,
        feature_size=model.feature_size if uses_features else 0,
        own_items=model.own_items if uses_features else (),
        hidden_size=model.width,
        layers=model.layers,
        heads=model.heads,
        recency=model.recency,
        max_length=model.max_length,
        dropout=model.dropout,
        augment=model.augment,
        compared=model.compared,
        trained=str(model.trained),
    )


C = TypeVar("C", bound=AttentionConfig)


def extended(kind: type[C], model: ModelConfig, items: int, **own: int) -> C:
    """Return the shape of a kind that extends the recommender: its own sizes beside the shared.

    Args:
        kind: the class of its configuration.
        model: the settings.
        items: catalogue size V.
        own: the kind's own sizes, by name.
    """
    base = attention_config(model, items)
    sizes: dict[str, Any] = {field.name: getattr(base, field.name) for field in fields(base)}
    return kind(**sizes | own)
