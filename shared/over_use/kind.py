"""The model of over-use as one of the kinds that a run may train (`shared.models.registry`).

Of the settings of a model it takes three: `max_length`, the sessions S that are read of a user,
`hidden_size`, its width D (0 is `WIDTH`), and `heads`, H. What is read of a user beside them is
`shared.over_use_task`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.over_use.model import OverUseConfig, OverUseModel
from shared.over_use.sessions import FEATURES, SessionRule

__all__ = ["WIDTH", "OverUseShape", "bare", "build", "from_pretrained", "shape_of_model"]

WIDTH = 16
"""Of a model whose settings leave it open."""
_ALIVE = 4
"""Values of a width that are kept of each session until a pass is done."""


@dataclass(frozen=True, slots=True)
class OverUseShape:
    """Sizes of a model, from public constants; see `shared.models.registry.ModelShape`.

    Attributes:
        sessions: that are read of a user, S.
        width: D.
        heads: H.
    """

    sessions: int
    width: int
    heads: int

    def pass_numbers(self, candidates: int, length: int | None = None) -> int:
        """Return about how many numbers one user's training pass keeps.

        Args:
            candidates: none are drawn.
            length: sessions that are read; None: as many as the model reads.
        """
        session = len(FEATURES) + _ALIVE * self.width + self.heads * (2 * self.width + 4)
        return (length or self.sessions) * session + 2 * (self.heads + 1) * self.width

    def mask_numbers(self) -> int:
        """Return 0: there is no dropout."""
        return 0

    def ranking_numbers(self) -> int:
        """Return 0: nothing is ranked."""
        return 0

    def weight_numbers(self) -> int:
        """Return how many weights there are.

        >>> OverUseShape(sessions=16, width=16, heads=2).weight_numbers()
        243
        """
        attention = (self.width + 1) * self.heads
        return (len(FEATURES) + 1) * self.width + attention + (self.heads + 1) * self.width + 1


def shape_of_model(model: ModelConfig, items: int) -> OverUseShape:  # noqa: ARG001 the catalogue
    """Return the sizes that the settings give; those of the catalogue have no part in them."""
    return OverUseShape(model.max_length, model.hidden_size or WIDTH, model.heads)


def bare(model: ModelConfig, items: int) -> OverUseModel:
    """Return a model of these sizes, with weights of torch's seed."""
    shape = shape_of_model(model, items)
    rule = SessionRule(sessions=shape.sessions)
    return OverUseModel(OverUseConfig(rule=rule, hidden_size=shape.width, heads=shape.heads))


def build(model: ModelConfig, catalogue: Catalogue) -> OverUseModel:
    """Return the same; no feature of an item is read."""
    return bare(model, len(catalogue))


def from_pretrained(folder: str | os.PathLike[str]) -> OverUseModel:
    """Load a saved model; see `OverUseModel.from_pretrained`."""
    return OverUseModel.from_pretrained(folder)
