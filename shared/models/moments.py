"""The two statistics that one user adds to a warm start: item popularity and a transition moment.

Letters: T events of one user, V items, F columns of an item's descriptor (`item_descriptors`).

A user's state after an event is what the untrained recommender computes from the past: the layer
norm of the recency-weighted mean of layer-normed descriptors. The user's moment is

    M = Σ_t state_t ⊗ descriptor(item_{t+1}),    [F, F].

Where all items have equal scores, as in the untrained model, M is the part of the loss's gradient
that depends on the data. One noised release of it replaces many noised gradient steps.

Every user has the same weight: its moment and its popularity vector are scaled to length 1, or
are 0; or to a shorter length, where groups of users count differently. They are summed as integers,
in multiples of 2^-40: the sum with a user is the sum without plus what that user adds, in every
bit. `outer_products` shows it for moments. Rounding makes a popularity vector of d numbers longer
by √d 2^-41 at most: 1e-9 for a million.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.models.outer_products import OuterProductSum, row_sums

__all__ = [
    "MIN_MOMENT_NORM",
    "POINTS_OF_LENGTH",
    "POPULARITY_FADE",
    "STATISTIC_CLIP_NORM",
    "batch_states",
    "grid_points",
    "layer_norm",
    "moment_sum",
    "popularity_sum",
    "states",
    "transition_batches",
]

POPULARITY_FADE = 0.5
"""Default `fade` of `popularity_sum`, for popularity that is exact or has little noise."""
STATISTIC_CLIP_NORM = 1.0
"""Clip norm of both statistics: the largest L2 norm of one user's contribution."""
MIN_MOMENT_NORM = 1e-6
"""Frobenius norm below which a moment is treated as rounding error and left out."""
_EPSILON = 1e-5  # as in torch's LayerNorm
POINTS_OF_LENGTH = 2.0**40
"""Steps of the grid of sums in the clip norm; 2^22 users' add up within float64's integers."""

_NUMBERS = 2**17
"""Numbers of a batch's states."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def popularity_sum(
    histories: Histories, items: int, fade: float, counts: Floats | None = None
) -> Floats:
    """Sum the recency-weighted popularity vectors of all users.

    A user's weight of an item is a^-fade if the user's last event with that item is the a-th from
    the end of the history, counted from 1. The vector of these weights is scaled to length 1; a
    user without events adds nothing. Recent events weigh more because popularity drifts. Old ones
    are kept, since each item that a user adds raises the sum above the noise.

    Args:
        histories: any number of users.
        items: catalogue size V.
        fade: exponent in [0, 1]; with 0 all items of a user weigh the same.
        counts: the length of each user's vector, in [0, 1], [N]; None is 1 for all.

    Returns:
        float64 [V]; entry j belongs to item j + 1.
    """
    total = np.zeros(items, np.int64)
    lengths = np.ones(len(histories)) if counts is None else np.clip(counts, 0.0, 1.0)
    for history, length in zip(histories, lengths, strict=True):
        if len(history) == 0:
            continue
        # From the end of the history: `unique` gives each item's first index, its last event.
        chosen, later_events = np.unique(history[::-1], return_index=True)
        weights = (1.0 + later_events) ** -fade
        total[chosen - 1] += grid_points(weights / np.linalg.norm(weights) * length)
    return total / POINTS_OF_LENGTH


def moment_sum(
    histories: Histories,
    table: NDArray[np.float32],
    recency: float,
    counts: Floats | None = None,
) -> Floats:
    """Sum the moments of states and next items over users, each scaled to Frobenius norm 1.

    Args:
        histories: any number of users; those with fewer than two events add nothing.
        table: item descriptors, [V, F].
        recency: weight of an event relative to the next one, in (0, 1].
        counts: the length of each user's moment, in [0, 1], [N]; None is 1 for all.

    Returns:
        float64 [F, F]; rows belong to states, columns to next items.
    """
    total = OuterProductSum(table, table.shape[1], MIN_MOMENT_NORM)
    with np.errstate(over="ignore", invalid="ignore"):
        normed = layer_norm(table)
        for rows, before, after in transition_batches(histories, table.shape[1]):
            own = None if counts is None else counts[rows]
            total.add(batch_states(normed, before, recency), after, own)
    return total.total()


def grid_points(vector: Floats) -> NDArray[np.int64]:
    """Return a user's part of a sum in steps of the grid, of which sums are exact."""
    return np.rint(vector * POINTS_OF_LENGTH).astype(np.int64)


def transition_batches(histories: Histories, numbers: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Yield the events of users of two or more, and the event that follows each, in batches.

    Users of similar length come together: T - 1 transitions are padded to a length that depends
    on T alone, by an eighth at most.

    Args:
        histories: any number of users.
        numbers: that an event takes, which bounds a batch.

    Yields:
        The users' rows, int64 [B], and two int64 [B, L]: internal ids, and those one event later;
        0 is padding.
    """
    counts = histories.lengths - 1
    steps = 2 ** np.maximum(0, np.log2(np.maximum(counts - 1, 1)).astype(np.int64) - 3)
    widths = -(-counts // steps) * steps
    for width in np.unique(widths[counts > 0]):
        users, places = np.flatnonzero((widths == width) & (counts > 0)), np.arange(width)
        size = max(1, _NUMBERS // int(width * numbers))
        for rows in (users[start : start + size] for start in range(0, len(users), size)):
            filled = places < counts[rows, None]  # [B, L]
            events = np.where(filled, histories.offsets[rows, None] + places, 0)
            yield (
                rows,
                np.where(filled, histories.items[events], 0),
                np.where(filled, histories.items[events + filled], 0),
            )


def states(
    normed: NDArray[np.float32], items: NDArray[np.int64], recency: float
) -> NDArray[np.float32]:
    """Compute the state after each event of one user: `batch_states` of [T], [T, F]."""
    of_one: NDArray[np.float32] = batch_states(normed, items[None], recency)[0]
    return of_one


def batch_states(normed: NDArray[np.float32], items: Ints, recency: float) -> NDArray[np.float32]:
    """Compute the state after each event t of some users.

    state_t = layer_norm(Σ_{s <= t} recency^(t-s) normed_s / Σ_{s <= t} recency^(t-s)).

    Every number is computed from its own user's alone, in the same order whoever else is there.

    Args:
        normed: layer-normed item descriptors, [V, F].
        items: internal ids in 1..V in time order, [B, T]; what follows a 0 has no meaning.
        recency: in (0, 1].

    Returns:
        float32 [B, T, F].
    """
    past = normed[items - 1]  # (B, T, F)
    summed, weight = np.zeros((len(items), past.shape[2])), 0.0
    for event in range(items.shape[1]):
        summed *= recency
        summed += past[:, event]
        weight = weight * recency + 1
        np.divide(summed, weight, out=past[:, event], casting="same_kind")
    return layer_norm(past)


def layer_norm(rows: NDArray[Any]) -> NDArray[Any]:
    """Scale each row to mean 0 and variance 1, as torch's LayerNorm does; [..., F] -> [..., F]."""
    size = rows.shape[-1]
    centred = rows - (row_sums(rows) / size)[..., None]
    centred /= np.sqrt(row_sums(centred**2) / size + _EPSILON)[..., None]
    return np.asarray(centred)
