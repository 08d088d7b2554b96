"""What each modality of an item's features brings to its score, by a model with gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shared.data.catalogue import Catalogue
from shared.models.attention import AttentionRecommender
from shared.models.modalities import ModalitiesRecommender

__all__ = ["OWN", "BlockScores", "block_scores_of"]

OWN = "own direction"
"""Name of what is known of an item beside its features."""
BlockScores = Callable[[Sequence[int], Tensor], list[dict[str, float]]]
"""Of a history and K items, internal ids: by block, what it adds to each item's logit."""


def block_scores_of(model: AttentionRecommender, catalogue: Catalogue) -> BlockScores | None:
    """Return what says it for a model; None for one without gates, or a catalogue of one block.

    See `ModalitiesRecommender.block_scores`; the own direction is named where an item has one.
    """
    if not isinstance(model, ModalitiesRecommender) or not catalogue.blocks:
        return None
    names, own = [block.name for block in catalogue.blocks], set(model.config.own_items)

    def by_block(history: Sequence[int], items: Tensor) -> list[dict[str, float]]:
        events = torch.tensor([list(history) or [0]], device=model.device)
        with torch.no_grad():
            rows = model.block_scores(events, items)[0].tolist()
        return [
            dict(zip(names, row, strict=False)) | ({OWN: row[-1]} if item in own else {})
            for item, row in zip(items.tolist(), rows, strict=True)
        ]

    return by_block
