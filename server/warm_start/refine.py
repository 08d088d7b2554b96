"""Refine the first weights by moment matching on states of public users, or of drawn ones.

Model: the next item after a state is drawn from softmax(items · W state + offsets), as the
recommender scores. In this exponential family the gradient of the log-likelihood in W is the
observed moment less the model's own moment (Wainwright & Jordan 2008, doi:10.1561/2200000001). The
model's moment needs states but no next items, so those of public users serve, or of users that the
model draws (`server.warm_start.synthetic`): many gradient steps without asking any private user
again.

Each step is regularised towards the first weights W₀, which are one step from the moment. The ridge
(a Gaussian prior; Dudík, Phillips & Schapire 2007, jmlr.org/papers/v8/dudik07a.html) grows with the
moment's noise-to-signal ratio: with noise alone the weights stay where they are. If no site was
asked, the moment is that of the public users and has no noise.

This is post-processing: it costs no privacy. Letters: S states, V items, F columns of an item's
descriptor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from server.warm_start.denoise import Posterior
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender
from shared.models.item_scores import ItemScores
from shared.models.moments import MIN_MOMENT_NORM, layer_norm, states

__all__ = ["PublicStates", "match_moment", "model_moment", "sample_public_states", "step_size"]

MAX_STATES = 6_000
"""States sampled from all public users; more cost time and change little."""
MAX_SCORES = 2**24
"""Scores in memory at a time; it does not change the result."""
RIDGE = 90.0
"""Ridge times the columns F, in units of the inverse step size, at a noise-to-signal ratio of 1:
with more columns the likelihood is less curved along most of them."""


@dataclass(frozen=True, slots=True)
class PublicStates:
    """States of public users and their weights.

    Attributes:
        states: [S, F].
        shares: > 0, [S], summing to 1: each event weighs as in its user's moment.
        others: bool [G, V], the items that are not of each domain, which a state of that domain is
            never followed by; None for one domain.
        domains: of each state, int64 [S].
    """

    states: Tensor
    shares: Tensor
    others: Tensor | None = None
    domains: Tensor | None = None

    def logits(self, scores: Tensor, rows: slice) -> Tensor:
        """Return scores [n, V] of some states with -inf for items of other domains."""
        if self.others is None or self.domains is None:
            return scores
        return scores.masked_fill(self.others[self.domains[rows]], -torch.inf)


def sample_public_states(
    histories: Histories,
    table: NDArray[np.float32],
    recency: float,
    domains: NDArray[np.int64] | None = None,
) -> PublicStates:
    """Return states at evenly spaced events of public users; none if nobody has two events.

    Args:
        histories: of public users, each of one domain.
        table: item descriptors, [V, F].
        recency: weight of an event relative to the one after it, in (0, 1].
        domains: the number of each item's domain, from 0, [V]; None for one domain.
    """
    normed = layer_norm(table)
    long = [history for history in histories if len(history) >= 2]
    ends = np.cumsum([0, *(len(history) - 1 for history in long)])
    sampled = np.linspace(0, ends[-1] - 1, min(int(ends[-1]), MAX_STATES)).astype(np.int64)
    parts, weights = [np.zeros((0, table.shape[1]), np.float32)], [np.zeros(0)]
    whose = [np.zeros(0, np.int64)]
    for number, history in enumerate(long):
        low, high = np.searchsorted(sampled, ends[number : number + 2])
        if low == high:
            continue
        past = states(normed, history[:-1], recency)
        length = float(np.linalg.norm(past.T @ table[history[1:] - 1]))
        if length > MIN_MOMENT_NORM and np.isfinite(length):
            parts.append(past[sampled[low:high] - ends[number]])
            weights.append(np.full(high - low, 1 / length))
            whose.append(np.full(high - low, 0 if domains is None else domains[history[0] - 1]))
    shares = np.concatenate(weights)
    sampled_states = torch.from_numpy(np.concatenate(parts))
    weighed = torch.from_numpy(shares / max(shares.sum(), MIN_MOMENT_NORM)).float()
    if domains is None:
        return PublicStates(sampled_states, weighed)
    others = torch.from_numpy(domains != np.arange(domains.max() + 1)[:, None])
    return PublicStates(sampled_states, weighed, others, torch.from_numpy(np.concatenate(whose)))


@torch.no_grad()
def match_moment(
    model: AttentionRecommender, posterior: Posterior, public: PublicStates, steps: int
) -> None:
    """Move `feature_out` towards the weights whose model moment is the estimated one.

    The estimated moment is a sum over an unknown number of users: it is scaled so that the
    likelihood is stationary along the first weights, whose length is kept.

    Args:
        model: of features, with the first weights.
        posterior: of the moment, [F, F], rows of states.
        public: states to predict from.
        steps: gradient steps, >= 0; each uses all states.
    """
    weight = model.feature_out.weight  # [F, F], rows of next items
    first, target = weight.clone(), torch.from_numpy(posterior.mean.T).to(weight)
    current, step = model_moment(model, public), step_size(model, public)
    model_along, target_along = float((current * first).sum()), float((target * first).sum())
    if posterior.gain <= 0 or min(model_along, target_along, step) <= 0:
        return
    target = target * (model_along / target_along)
    ridge = RIDGE / len(weight) * (1 - posterior.gain) / posterior.gain
    for _ in range(steps):
        ascent = step * (target - current) - ridge * (weight - first)
        weight += ascent / (1 + ridge)
        current = model_moment(model, public)


@torch.no_grad()
def model_moment(model: AttentionRecommender, public: PublicStates) -> Tensor:
    """Return Σ share · (expected next descriptor ⊗ state), [F, F], rows of next items."""
    total = torch.zeros_like(model.feature_out.weight)
    size = max(1, MAX_SCORES // model.config.items)
    describe = _expected_descriptor(model)
    for start in range(0, len(public.states), size):
        rows = slice(start, start + size)
        past = public.states[rows]
        expected = describe(F.softmax(public.logits(model.score(past), rows), dim=1))
        total += (expected * public.shares[rows, None]).T @ past
    return total


def _expected_descriptor(model: AttentionRecommender) -> Callable[[Tensor], Tensor]:
    """Return the map of distributions over the items [S, V] to their mean descriptors [S, F].

    Of the own directions, which are most columns, each has one item: no product is needed.
    """
    table, size = model.features.table, model.config.feature_size
    features = table[:, :size].contiguous()
    rows = torch.tensor(model.config.own_items, dtype=torch.int64) - 1
    lengths = table[rows, torch.arange(size, table.shape[1])]

    def describe(chances: Tensor) -> Tensor:
        return torch.cat([chances @ features, chances[:, rows] * lengths], dim=1)

    return describe


def step_size(model: AttentionRecommender, public: PublicStates) -> float:
    """Return the inverse of the log-likelihood's largest curvature at W = 0; 0 if it is flat.

    There, where popularity alone decides, the curvature is the Kronecker product of the
    descriptors' covariance and the states' second moment.
    """
    table, probabilities = model.features.table, F.softmax(_offsets(model), dim=0)
    mean = probabilities @ table
    covariance = (table * probabilities[:, None]).T @ table - mean[:, None] * mean
    second = (public.states * public.shares[:, None]).T @ public.states
    norms = torch.linalg.matrix_norm(covariance, 2), torch.linalg.matrix_norm(second, 2)
    largest = float(norms[0] * norms[1])
    return 1 / largest if largest > 0 else 0.0


def _offsets(model: AttentionRecommender) -> Tensor:
    offset = model.item_scores.offset
    if offset is None:
        return model.features.table.new_zeros(len(model.features.table))
    return ItemScores.OFFSET_SCALE * offset.detach()[:, 0]
