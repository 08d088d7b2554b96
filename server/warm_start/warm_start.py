"""Compute the first weights from two noised statistics of every site, and public interactions.

| request | statistic                                           | what it determines              |
|---------|-----------------------------------------------------|---------------------------------|
| 1       | popularity of every item                            | offsets; which items get a      |
|         |                                                     | direction of their own          |
| 2       | moment of past and next items, in these directions  | the bilinear form of the scores |

Public interactions give the prior; without statistics they are all there is. Their users' states,
or without them those of histories that the model draws, are then used to refine the first weights
(`server.warm_start.refine`) without another request.

Where the catalogue has domains (`shared.data.domains`), each item is followed by items of its own
domain alone: popularity counts within a domain, and public and drawn histories stay in one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from server.rounds.replies import Floats
from server.rounds.statistics import StatisticsCollector, StatisticTotal
from server.warm_start.denoise import (
    Posterior,
    Prior,
    estimate_moment,
    estimate_popularity,
    set_first_weights,
)
from server.warm_start.refine import match_moment, sample_public_states
from server.warm_start.synthetic import draw_histories
from shared.config import RunConfig
from shared.data.catalogue import Catalogue
from shared.data.domains import codes_of, split_histories
from shared.data.histories import Histories
from shared.messages import Statistic, Weights
from shared.models.attention import AttentionRecommender, item_descriptors, trainable
from shared.models.moments import POPULARITY_FADE
from shared.models.registry import build_recommender

__all__ = ["FirstWeights", "OwnItemsChoice", "compute_first_weights", "select_own_items"]

MIN_SIGNAL_TO_NOISE = 4.0
"""Popularity over the noise's standard deviation from which an item gets its own direction."""

GENERATIONS = 2
"""Times that histories are drawn, from the weights that the ones before led to: a third changes
nothing that can be measured (docs/utility.md)."""
MIN_GAIN = 0.1
"""Gain of the moment below which no histories are drawn: they would follow from noise."""


@dataclass(frozen=True, slots=True)
class FirstWeights:
    """What training begins with.

    Attributes:
        own_items: internal ids, ascending, of the items with a direction of their own.
        weights: of the recommender with these directions.
        bytes_up: size of the arrays received, in the larger of the two collections.
    """

    own_items: tuple[int, ...]
    weights: Weights
    bytes_up: int = 0


@dataclass(frozen=True, slots=True)
class OwnItemsChoice:
    """Which items get a direction of their own: chosen once in a run.

    Attributes:
        most: how many items at most.
        chosen: in an earlier start of the run; None if it was not.
        save: called with a new choice, before the request that names these items.
    """

    most: int
    chosen: tuple[int, ...] | None
    save: Callable[[tuple[int, ...]], None]


def compute_first_weights(
    collector: StatisticsCollector | None,
    config: RunConfig,
    catalogue: Catalogue,
    prior: Prior,
    choice: OwnItemsChoice,
) -> FirstWeights:
    """Return the weights that follow from the sites' statistics and from public interactions.

    Args:
        collector: of the statistics; None to use public interactions alone.
        config: the run's parameters.
        catalogue: with features.
        prior: from public interactions.
        choice: of the items with a direction of their own.

    Raises:
        QuorumError: too few sites gave a valid answer.
    """
    items, domains = len(catalogue), codes_of(catalogue) if catalogue.domains else None
    if domains is not None and prior.histories is not None:
        prior = Prior(split_histories(prior.histories, domains))
    counted = _collect(collector, Statistic.POPULARITY, (), (items,))
    expected = prior.popularity(items, collector.fade if collector else POPULARITY_FADE)
    popularity = estimate_popularity(counted.total, counted.noise_std, expected)
    own_items = choice.chosen
    if own_items is None:
        own_items = select_own_items(popularity, counted.noise_std, choice.most)
        choice.save(own_items)
    shape = replace(config.model, own_items=own_items)
    table = item_descriptors(shape, catalogue).numpy()
    summed = _collect(collector, Statistic.MOMENT, own_items, (shape.described,) * 2)
    moment = estimate_moment(summed.total, summed.noise_std, prior.moment(table, shape.recency))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_recommender(shape, catalogue)
    set_first_weights(model, moment, popularity, domains)
    _refine(model.eval(), moment, popularity, prior.histories, config, domains)
    weights = {name: p.detach().numpy() for name, p in trainable(model).items()}
    return FirstWeights(own_items, weights, max(counted.bytes_up, summed.bytes_up))


def _refine(
    model: AttentionRecommender,
    moment: Posterior,
    popularity: Floats,
    public: Histories | None,
    config: RunConfig,
    domains: NDArray[np.int64] | None,
) -> None:
    """Refine the first weights on states of public users, or of users that the model draws."""
    steps, recency = config.warm_start.steps, config.model.recency
    table = model.features.table.numpy()
    if not steps:
        return
    if public is not None:
        states = sample_public_states(public, table, recency, domains)
        match_moment(model, moment, states, steps)
        return
    if moment.gain < MIN_GAIN:
        return
    first = model.feature_out.weight.detach().clone()
    for generation in range(GENERATIONS):
        drawn = draw_histories(model, popularity, config.seed + generation, domains)
        with torch.no_grad():
            model.feature_out.weight.copy_(first)
        states = sample_public_states(drawn, table, recency, domains)
        match_moment(model, moment, states, steps)


def select_own_items(popularity: Floats, noise_std: float, limit: int) -> tuple[int, ...]:
    """Return internal ids, ascending, of the items that get a direction of their own.

    These are the most popular ones, as far as they stand out from the noise by
    `MIN_SIGNAL_TO_NOISE`.

    Args:
        popularity: > 0, [V].
        noise_std: standard deviation of the noise in each entry.
        limit: largest number of items.
    """
    order = np.argsort(-popularity, kind="stable")[:limit]
    threshold = MIN_SIGNAL_TO_NOISE * noise_std
    return tuple(sorted(int(index) + 1 for index in order if popularity[index] >= threshold))


def _collect(
    collector: StatisticsCollector | None,
    statistic: Statistic,
    own_items: tuple[int, ...],
    shape: tuple[int, ...],
) -> StatisticTotal:
    return collector.total(statistic, own_items, shape) if collector else StatisticTotal()
