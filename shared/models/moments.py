"""What a user adds to a warm start: which items it chose, and what followed what.

Letters: T events of one user, V items, F directions that describe an item (`item_table`).

A user's state after an event is what the untrained recommender makes of its past: layer norm of the
mean, weighted by recency, of layer-normed descriptions. The moment Σ_t state_t ⊗ description of the
next item is what the gradient of the recommender's loss begins with, where all items score the
same: one release tells of it what many noised steps would.

Everybody weighs the same: a user's moment, and its popularity vector, have length 1 or 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from shared.data.histories import Histories

__all__ = [
    "FADE",
    "LEAST",
    "LONGEST",
    "layer_norm",
    "moment_sum",
    "popularity_sum",
    "states",
]

FADE = 0.5
"""How popularity fades, where noise leaves room to hear it."""
LONGEST = 1.0
"""Length of what a user adds to a sum: the clip norm."""
_EPSILON = 1e-5  # torch's, in LayerNorm
LEAST = 1e-6
"""Length of a moment below which it is only rounding."""

Floats = NDArray[np.float64]


def popularity_sum(histories: Histories, items: int, fade: float) -> Floats:
    """How often each item is chosen, and how lately, [V].

    A user weighs an item by a^-fade, where its last event with that item is its a-th last event,
    and adds these weights scaled to length 1, or nothing without events. Popularity drifts, so what
    is recent may weigh more; nothing is left out, since every item that a user adds makes the sum
    stand out more from the noise.

    Args:
        histories: any users.
        items: catalogue size V.
        fade: in [0, 1]; with 0 all that a user chose weighs the same.
    """
    total = np.zeros(items)
    for history in histories:
        if len(history) == 0:
            continue
        chosen, before = np.unique(history[::-1], return_index=True)
        weights = (1.0 + before) ** -fade
        total[chosen - 1] += weights / np.linalg.norm(weights)
    return total


def moment_sum(histories: Histories, table: NDArray[np.float32], recency: float) -> Floats:
    """Σ over users of the moment of states and next items, each scaled to Frobenius norm 1.

    Args:
        histories: any users; those with fewer than two events add nothing.
        table: what describes each item, [V, F].
        recency: what an event weighs relative to the one after it, in (0, 1].

    Returns:
        [F, F]; rows belong to states, columns to next items.
    """
    normed, total = layer_norm(table), np.zeros((table.shape[1],) * 2)
    for history in histories:
        if len(history) < 2:
            continue
        moment = states(normed, history[:-1], recency).T @ table[history[1:] - 1]
        length = float(np.linalg.norm(moment.astype(np.float64)))
        if length > LEAST and np.isfinite(length):
            total += moment.astype(np.float64) / length
    return total


def states(
    normed: NDArray[np.float32], items: NDArray[np.int64], recency: float
) -> NDArray[np.float32]:
    """The state after each event: layer norm of Σ_s recency^(t-s) normed_s / Σ_s recency^(t-s).

    Args:
        normed: layer-normed descriptions, [V, F].
        items: internal ids in 1..V in time order, [T].
        recency: in (0, 1].

    Returns:
        [T, F].
    """
    filtered = lfilter([1.0], [1.0, -recency], normed[items - 1], axis=0)
    weight = lfilter([1.0], [1.0, -recency], np.ones(len(items)))
    return layer_norm((filtered / weight[:, None]).astype(np.float32))


def layer_norm(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows with mean 0 and variance 1, as torch's LayerNorm makes them; [N, F] -> [N, F]."""
    centred = rows - rows.mean(1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(1, keepdims=True) + _EPSILON))
