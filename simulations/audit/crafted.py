"""Requests of a hostile coordinator: weights for which a release is each canary's own number.

The coordinator chooses the model's shape and every weight. These ones make the node's clipping and
noise work for it:

| user                               | gradient                         | after clipping to C    |
|------------------------------------|----------------------------------|------------------------|
| canary: (the trigger, an item)     | of the items' offsets alone:     | C √(1 - 1/V) at its    |
|                                    |   softmax minus its item, times  |   own item's offset,   |
|                                    |   a constant above C             |   little elsewhere     |
| anybody whose last item but one is | nearly all of `feature_out`,     | about C, in weights    |
|   another                          |   which nobody reads             |   that are not read    |

How: the state after an item is a layer norm of x in two dimensions, times `_GAIN`. The position
adds (1, -1) to x, and the trigger's own direction takes exactly that away again: its state is 0,
others' are (1, -1) times `_GAIN`. All other weights are 0, so every item has the same score,
nothing goes back into the layers below, and `feature_out` gets (an item's features) x (state).

So a release tells of each canary what it would tell of one alone: its share of the offset of its
item is C or 0, plus N(0, (σC)²), whoever else is there.

Letters: V items, m canaries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.messages import TrainReply, TrainRequest, Weights
from shared.models.attention import trainable
from shared.models.registry import build

__all__ = ["SHAPE", "canaries_with", "choose_trigger", "crafted_requests", "presence"]

Ints = NDArray[np.int64]
Floats32 = NDArray[np.float32]

SHAPE = ModelConfig(
    items=ItemRepresentation.FEATURES,
    feature_size=4,
    hidden_size=2,
    layers=1,
    heads=1,
    max_length=1,
    dropout=0.0,
    trained=Trained.ALL,
)
"""The smallest model in which it works; it reads two events of each history, one as target."""
_GAIN = 1e4
"""The state's length, over √2, of users who are not canaries: the policy's largest weight."""
_OFFSETS = "item_scores.offset"


def choose_trigger(others: Histories, items: int) -> int:
    """Return an item that fewest users have as their last item but one.

    Args:
        others: all users but the canaries.
        items: catalogue size V.

    Returns:
        An internal id in 1..V.
    """
    inputs = others.padded(np.flatnonzero(others.lengths > 1), 2)[:, 0].numpy()
    return 1 + int(np.bincount(inputs - 1, minlength=items).argmin())


def canaries_with(trigger: int, own: Ints) -> Histories:
    """Return one canary for each item: the trigger, then the item.

    Args:
        trigger: internal id.
        own: internal ids, distinct, without the trigger, [m].
    """
    names = [f"canary-{item}" for item in own.tolist()]
    return Histories.from_lists([[trigger, item] for item in own.tolist()], names)


def crafted_requests(
    catalogue: Catalogue, trigger: int, run: str, noise_multipliers: Sequence[float]
) -> list[TrainRequest]:
    """Return one request of a single step over all users for each noise multiplier.

    Args:
        catalogue: with `SHAPE.feature_size` features.
        trigger: internal id of the item before a canary's own.
        run: name of the run.
        noise_multipliers: of the rounds, from the first.
    """
    model = replace(SHAPE, own_items=(trigger,))
    weights = _weights(model, catalogue)
    return [
        TrainRequest(
            run=run,
            round=number,
            catalogue=catalogue.fingerprint,
            model=model,
            weights=weights,
            noise_multiplier=noise_multiplier,
        )
        for number, noise_multiplier in enumerate(noise_multipliers, start=1)
    ]


def presence(request: TrainRequest, reply: TrainReply, population: int) -> Floats32:
    """Return how present each item's canary is in an answer, over the noise's deviation, [V].

    About 1 / σ more for a canary who is in, and N(0, 1), plus what all items have in common.

    Args:
        request: one of `crafted_requests`.
        reply: the answer to it.
        population: that the site declared.
    """
    divisor = request.sample_rate * population / request.learning_rate
    spread = request.noise_multiplier * request.clip_norm
    return np.asarray(reply.change[_OFFSETS][:, 0] * np.float32(divisor / spread))


def _weights(model: ModelConfig, catalogue: Catalogue) -> Weights:
    shapes = {name: weight.shape for name, weight in trainable(build(model, catalogue)).items()}
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    apart = np.array([1, -1], np.float32)
    weights["position.weight"][0] = apart
    # The trigger's own direction is the last feature, of length sqrt(feature_size).
    weights["feature_in.weight"][:, -1] = -apart / np.float32(math.sqrt(model.feature_size))
    weights["norm.weight"][:] = _GAIN
    return weights
