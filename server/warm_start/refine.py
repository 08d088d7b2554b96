"""From a noised moment to weights whose predictions have that moment, on public users' states.

What follows a state is taken to be softmax(W state · items + offsets), as the recommender scores.
Of all such models the likeliest one gives next items the moment that was observed: the gradient of
the log-likelihood is the observed moment less the model's own (an exponential family; Wainwright &
Jordan 2008, doi:10.1561/2200000001). The model's own moment needs states and no next items, so
states of public users do: many steps of training, and no private user is asked anything.

Every step knows its noise. The first weights W₀ are what the moment says in one step, and a ridge
around them (a Gaussian prior; Dudík, Phillips & Schapire 2007, jmlr.org/papers/v8/dudik07a.html)
grows with the noise's part in the moment: where noise is all that was heard they do not move. Where
no site was asked, the public users' own moment is what is known, and holds no noise.
Post-processing of what was released: it costs no privacy.

Letters: S states, V items, F directions that describe an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from server.warm_start.denoise import Known
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, ItemScores
from shared.models.moments import MIN_MOMENT_NORM, layer_norm, states

__all__ = ["PublicStates", "match_moment", "own_moment", "public_states", "step_length"]

MOST_STATES = 6_000
"""States that stand for all of the public users'; more cost time and change little."""
NUMBERS_AT_ONCE = 2**24
"""Scores that are in memory together; changes no result."""
RIDGE = 0.1
"""Of the step's inverse length, where the moment's signal is as strong as its noise."""


@dataclass(frozen=True, slots=True)
class PublicStates:
    """States of public users, and what each of them counts.

    Attributes:
        states: [S, F].
        shares: > 0, [S], summing to 1: an event counts as in its user's moment.
    """

    states: Tensor
    shares: Tensor


def public_states(histories: Histories, table: NDArray[np.float32], recency: float) -> PublicStates:
    """Evenly drawn states of public users; none where nobody has two events.

    Args:
        histories: of public users.
        table: what describes each item, [V, F].
        recency: what an event weighs relative to the one after it, in (0, 1].
    """
    normed = layer_norm(table)
    long = [history for history in histories if len(history) >= 2]
    ends = np.cumsum([0, *(len(history) - 1 for history in long)])
    kept = np.linspace(0, ends[-1] - 1, min(int(ends[-1]), MOST_STATES)).astype(np.int64)
    found, counts = [np.zeros((0, table.shape[1]), np.float32)], [np.zeros(0)]
    for number, history in enumerate(long):
        low, high = np.searchsorted(kept, ends[number : number + 2])
        if low == high:
            continue
        past = states(normed, history[:-1], recency)
        length = float(np.linalg.norm(past.T @ table[history[1:] - 1]))
        if length > MIN_MOMENT_NORM and np.isfinite(length):
            found.append(past[kept[low:high] - ends[number]])
            counts.append(np.full(high - low, 1 / length))
    shares = np.concatenate(counts)
    return PublicStates(
        torch.from_numpy(np.concatenate(found)),
        torch.from_numpy(shares / max(shares.sum(), MIN_MOMENT_NORM)).float(),
    )


@torch.no_grad()
def match_moment(
    model: AttentionRecommender, known: Known, public: PublicStates, steps: int
) -> None:
    """Moves `feature_out` towards the weights whose own moment is the known one.

    The known moment counts users, whose number and lengths are not asked for: it is scaled so that
    the likelihood does not change along the first weights, whose size is right already.

    Args:
        model: of features, with the first weights.
        known: the moment, [F, F], rows of states.
        public: states to predict from.
        steps: gradient steps, >= 0; each passes over all states.
    """
    weight = model.feature_out.weight  # (F, F), rows of next items
    first, wanted = weight.clone(), torch.from_numpy(known.mean.T).to(weight)
    own, length = own_moment(model, public), step_length(model, public)
    loud, along = float((own * first).sum()), float((wanted * first).sum())
    if known.trust <= 0 or min(loud, along, length) <= 0:
        return
    wanted = wanted * (loud / along)
    ridge = RIDGE * (1 - known.trust) / known.trust
    for _ in range(steps):
        uphill = length * (wanted - own) - ridge * (weight - first)
        weight += uphill / (1 + ridge)
        own = own_moment(model, public)


@torch.no_grad()
def own_moment(model: AttentionRecommender, public: PublicStates) -> Tensor:
    """Σ share · what the model expects next ⊗ state, [F, F], rows of next items."""
    table, offsets = model.features.table, _offsets(model)
    total = torch.zeros_like(model.feature_out.weight)
    size = max(1, NUMBERS_AT_ONCE // len(table))
    for past, share in zip(public.states.split(size), public.shares.split(size), strict=True):
        expected = F.softmax(model.feature_out(past) @ table.T + offsets, dim=1) @ table
        total += (expected * share[:, None]).T @ past
    return total


def step_length(model: AttentionRecommender, public: PublicStates) -> float:
    """The likelihood's largest curvature, inverted, where items are chosen by popularity alone.

    There the curvature is the Kronecker product of the items' covariance and the states' second
    moment.
    """
    table, chances = model.features.table, F.softmax(_offsets(model), dim=0)
    mean = chances @ table
    items = (table * chances[:, None]).T @ table - mean[:, None] * mean
    past = (public.states * public.shares[:, None]).T @ public.states
    largest = float(torch.linalg.matrix_norm(items, 2) * torch.linalg.matrix_norm(past, 2))
    return 1 / largest if largest > 0 else 0.0


def _offsets(model: AttentionRecommender) -> Tensor:
    offset = model.item_scores.offset
    if offset is None:
        return model.features.table.new_zeros(len(model.features.table))
    return ItemScores.OFFSET_SCALE * offset.detach()[:, 0]
