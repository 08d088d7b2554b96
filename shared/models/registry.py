"""The kinds of model that a run may train: what each is, and where it is.

A run's setting `model.kind` names one. The table `KINDS` says in which module the kind is, which is
imported when it is needed; what the module gives is stated by `KindModule`. Code that builds, loads
or sizes a model does it here, and so works for a kind that is added.

| a kind reads | its examples                                     | its model                     |
|--------------|--------------------------------------------------|-------------------------------|
| `histories`  | a history a user: each next item is learned      | an `AttentionRecommender`, or |
|              |                                                  |   a class that extends it     |
| `sessions`   | a row a user: features of last sessions, a label | an `nn.Module` with one loss  |
|              |                                                  |   a user                      |

What a kind reads decides which data a partner's node prepares (`client.app`), and whether there is
a warm start, a ranking and a home model, which are of histories alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from shared.config import ModelConfig, ModelKind
from shared.errors import ConfigError

if TYPE_CHECKING:  # torch takes seconds, and who asks what a kind reads needs none
    from torch import nn

    from shared.data.catalogue import Catalogue
    from shared.models.attention import AttentionRecommender

__all__ = [
    "KINDS",
    "Examples",
    "Kind",
    "KindModule",
    "ModelShape",
    "bare",
    "build",
    "build_recommender",
    "examples_of",
    "frozen_fingerprint",
    "load_recommender",
    "shape_of_model",
]


class Examples(StrEnum):
    """What a kind's training reads of a user."""

    HISTORIES = "histories"
    SESSIONS = "sessions"


class ModelShape(Protocol):
    """Sizes of a model, from public constants alone: before it is made, and before data are read.

    All are upper estimates in numbers of float32.
    """

    def pass_numbers(self, candidates: int, length: int | None = None) -> int:
        """Return what one user's training pass keeps; 0 candidates rank the whole catalogue.

        Where batches of shorter histories are shorter, `length` is their events.
        """

    def mask_numbers(self) -> int:
        """Return the random numbers of one user's dropout masks in a pass."""

    def ranking_numbers(self) -> int:
        """Return what ranking the catalogue for one user keeps; 0 where a model ranks nothing."""

    def weight_numbers(self) -> int:
        """Return the numbers of all weights and tables."""


class KindModule(Protocol):
    """What the module of a kind gives."""

    def shape_of_model(self, model: ModelConfig, items: int) -> ModelShape:
        """Return the shape that the settings give over a catalogue of so many items."""

    def bare(self, model: ModelConfig, items: int) -> nn.Module:
        """Return a model of this shape without public features; also on torch's meta device."""

    def build(self, model: ModelConfig, catalogue: Catalogue) -> nn.Module:
        """Return a model to train: trained weights from torch's seed, frozen ones alike anywhere.

        It has `save_pretrained(folder)`.
        """

    def from_pretrained(self, folder: str | os.PathLike[str]) -> nn.Module:
        """Return what `save_pretrained` wrote, in evaluation mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One line of the table.

    Attributes:
        module: where the kind is, a `KindModule`.
        model_type: what `config.json` of a saved model calls it.
        examples: what its training reads.
    """

    module: str
    model_type: str
    examples: Examples = Examples.HISTORIES


KINDS: Mapping[ModelKind, Kind] = {
    ModelKind.ATTENTION: Kind(module="shared.models.attention", model_type="sotto-attention"),
    ModelKind.LSTM: Kind(module="shared.models.lstm", model_type="sotto-lstm"),
    ModelKind.QUERY: Kind(module="shared.models.query", model_type="sotto-query"),
    ModelKind.MODALITIES: Kind(module="shared.models.modalities", model_type="sotto-modalities"),
    ModelKind.TEXT: Kind(module="shared.models.text", model_type="sotto-text"),
    ModelKind.SOCIAL: Kind(module="shared.models.social", model_type="sotto-social"),
    ModelKind.OVER_USE: Kind(
        module="shared.over_use.kind", model_type="sotto-over-use", examples=Examples.SESSIONS
    ),
}


def examples_of(kind: ModelKind) -> Examples:
    """Return what a kind's training reads of a user."""
    return KINDS[kind].examples


def shape_of_model(model: ModelConfig, items: int) -> ModelShape:
    """Return the shape of the model that the settings give over a catalogue of so many items."""
    return _module(model.kind).shape_of_model(model, items)


def bare(model: ModelConfig, items: int) -> nn.Module:
    """Return a model of this shape, untrained and without public features."""
    return _module(model.kind).bare(model, items)


def build(model: ModelConfig, catalogue: Catalogue) -> nn.Module:
    """Build a model of any kind.

    Initial weights that are to be trained are drawn from torch's seed; frozen ones are the same
    everywhere (`shared.models.frozen`).

    Raises:
        ConfigError: the catalogue does not have the features that the model reads.
    """
    return _module(model.kind).build(model, catalogue)


def build_recommender(model: ModelConfig, catalogue: Catalogue) -> AttentionRecommender:
    """Build a model that ranks items after a history; as `build`.

    It learns to rank the catalogue's selected items alone, where some are.

    Raises:
        ConfigError: as `build`; or the kind ranks no items.
    """
    if examples_of(model.kind) is not Examples.HISTORIES:
        raise ConfigError(f"model.kind = '{model.kind}' ranks no items after a history.")
    recommender = cast("AttentionRecommender", build(model, catalogue))
    if catalogue.selected is not None:
        import torch  # noqa: PLC0415 takes seconds

        recommender.restrict(torch.from_numpy(catalogue.selected))
    return recommender


def load_recommender(folder: str | os.PathLike[str]) -> AttentionRecommender:
    """Load a saved model that ranks items, of whichever kind, in evaluation mode.

    Args:
        folder: where it lies; nothing is executed or fetched from elsewhere. A `config.json`
            without `model_type` is of the kind "attention".

    Raises:
        DataError: a tensor is missing, has another shape, or is not the model's.
        OSError: a file is missing or cannot be read.
        SafetensorError: the file of weights is damaged.
        ValueError: `config.json` is damaged, or of a kind that is not known or ranks no items.
    """
    kind = _saved_kind(folder)
    return cast("AttentionRecommender", _module(kind).from_pretrained(folder))


@lru_cache(maxsize=8)
def frozen_fingerprint(model: ModelConfig) -> str:
    """Return the fingerprint of the weights that `build` freezes; the catalogue has no part."""
    import torch  # noqa: PLC0415 takes seconds

    from shared.models.frozen import draw_frozen, fingerprint  # noqa: PLC0415 as torch

    with torch.random.fork_rng([]):
        made = bare(model, items=1)
    draw_frozen(made)
    return fingerprint(made)


def _module(kind: ModelKind) -> KindModule:
    return cast(KindModule, import_module(KINDS[kind].module))


def _saved_kind(folder: str | os.PathLike[str]) -> ModelKind:
    from shared.data.model_folder import read_shape  # noqa: PLC0415 as torch

    stated = json.loads(read_shape(folder))
    default = KINDS[ModelKind.ATTENTION].model_type
    model_type = stated.get("model_type", default) if isinstance(stated, dict) else default
    for kind, known in KINDS.items():
        if known.model_type == model_type and known.examples is Examples.HISTORIES:
            return kind
    raise ValueError(f"model_type is {str(model_type)[:100]!r}, which this release cannot rank by")
