"""The two statistics that one user adds to a warm start: item popularity and a transition moment.

Letters: T events of one user, V items, F columns of an item's descriptor (`item_descriptors`).

A user's state after an event is what the untrained recommender computes from the past: the layer
norm of the recency-weighted mean of layer-normed descriptors. The user's moment is

    M = Σ_t state_t ⊗ descriptor(item_{t+1}),    [F, F].

Where all items have equal scores, as in the untrained model, M is the part of the loss's gradient
that depends on the data. One noised release of it replaces many noised gradient steps.

Every user has the same weight: its moment and its popularity vector are scaled to length 1, or
are 0. They are summed as integers, in multiples of 2^-40: the sum with a user is the sum without
plus what that user adds, in every bit. Rounding makes a vector of d numbers longer by √d 2^-41 at
most: 1e-9 for a million. A user whose moment is not finite adds nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories

__all__ = [
    "MIN_MOMENT_NORM",
    "POPULARITY_FADE",
    "STATISTIC_CLIP_NORM",
    "layer_norm",
    "moment_sum",
    "popularity_sum",
    "states",
]

POPULARITY_FADE = 0.5
"""Default `fade` of `popularity_sum`, for popularity that is exact or has little noise."""
STATISTIC_CLIP_NORM = 1.0
"""Clip norm of both statistics: the largest L2 norm of one user's contribution."""
MIN_MOMENT_NORM = 1e-6
"""Frobenius norm below which a moment is treated as rounding error and left out."""
_EPSILON = 1e-5  # as in torch's LayerNorm
_POINTS = 2.0**40
"""Steps of the grid of sums in the clip norm; 2^22 users' add up within float64's integers."""

Floats = NDArray[np.float64]


def popularity_sum(histories: Histories, items: int, fade: float) -> Floats:
    """Sum the recency-weighted popularity vectors of all users.

    A user's weight of an item is a^-fade if the user's last event with that item is the a-th from
    the end of the history, counted from 1. The vector of these weights is scaled to length 1; a
    user without events adds nothing. Recent events weigh more because popularity drifts. Old ones
    are kept, since each item that a user adds raises the sum above the noise.

    Args:
        histories: any number of users.
        items: catalogue size V.
        fade: exponent in [0, 1]; with 0 all items of a user weigh the same.

    Returns:
        float64 [V]; entry j belongs to item j + 1.
    """
    total = np.zeros(items, np.int64)
    for history in histories:
        if len(history) == 0:
            continue
        # From the end of the history: `unique` gives each item's first index, its last event.
        chosen, later_events = np.unique(history[::-1], return_index=True)
        weights = (1.0 + later_events) ** -fade
        total[chosen - 1] += _points(weights / np.linalg.norm(weights))
    return total / _POINTS


def moment_sum(histories: Histories, table: NDArray[np.float32], recency: float) -> Floats:
    """Sum the moments of states and next items over users, each scaled to Frobenius norm 1.

    Args:
        histories: any number of users; those with fewer than two events add nothing.
        table: item descriptors, [V, F].
        recency: weight of an event relative to the next one, in (0, 1].

    Returns:
        float64 [F, F]; rows belong to states, columns to next items.
    """
    total = np.zeros((table.shape[1],) * 2, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        normed = layer_norm(table)
        for history in histories:
            if len(history) < 2:
                continue
            # (F, T - 1) @ (T - 1, F)
            moment = states(normed, history[:-1], recency).T @ table[history[1:] - 1]
            norm = float(np.linalg.norm(moment.astype(np.float64)))
            if norm > MIN_MOMENT_NORM and np.isfinite(norm):
                total += _points(moment.astype(np.float64) / norm)
    return total / _POINTS


def _points(vector: Floats) -> NDArray[np.int64]:
    return np.rint(vector * _POINTS).astype(np.int64)


def states(
    normed: NDArray[np.float32], items: NDArray[np.int64], recency: float
) -> NDArray[np.float32]:
    """Compute the state after each event t of one user.

    state_t = layer_norm(Σ_{s <= t} recency^(t-s) normed_s / Σ_{s <= t} recency^(t-s)).

    Args:
        normed: layer-normed item descriptors, [V, F].
        items: internal ids in 1..V in time order, [T].
        recency: in (0, 1].

    Returns:
        float32 [T, F].
    """
    # The recursive filter y_t = x_t + recency * y_{t-1} gives both sums in O(T).
    from scipy.signal import lfilter  # noqa: PLC0415 takes a second, for this function alone

    filtered = lfilter([1.0], [1.0, -recency], normed[items - 1], axis=0)
    weight = lfilter([1.0], [1.0, -recency], np.ones(len(items)))
    return layer_norm((filtered / weight[:, None]).astype(np.float32))


def layer_norm(rows: NDArray[Any]) -> NDArray[Any]:
    """Scale each row to mean 0 and variance 1, as torch's LayerNorm does; [N, F] -> [N, F]."""
    centred = rows - rows.mean(1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(1, keepdims=True) + _EPSILON))
