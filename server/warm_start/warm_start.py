"""A private warm start: two noised statistics from every site become the first weights.

| round | asked of every site                                  | what it decides                   |
|-------|------------------------------------------------------|-----------------------------------|
| 1     | popularity of every item                             | offsets; which items get a        |
|       |                                                      | direction of their own            |
| 2     | moment of past and next items, in these directions   | the bilinear form that scores     |

Public interactions, where there are any, say what to expect; without statistics they say all. Their
users' states then take the first weights further (`server.warm_start.refine`), and nobody is asked
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from server.rounds.replies import Floats
from server.rounds.statistics import StatisticsCollector, StatisticTotal
from server.warm_start.denoise import Prior, moment, popularity, set_weights
from server.warm_start.refine import match_moment, public_states
from shared.config import RunConfig
from shared.data.catalogue import Catalogue
from shared.messages import Statistic, Weights
from shared.models.attention import build, item_descriptors, trainable
from shared.models.moments import POPULARITY_FADE

__all__ = ["Choice", "FirstWeights", "warm_start", "worth_the_noise"]

LOUD = 4.0
"""How often the noise's deviation an item's popularity must be for a direction of its own."""


@dataclass(frozen=True, slots=True)
class FirstWeights:
    """What training begins with.

    Attributes:
        own_items: internal ids, ascending, of the items with a direction of their own.
        weights: of the recommender with these directions.
        bytes_up: arrays received in the larger of the two rounds.
    """

    own_items: tuple[int, ...]
    weights: Weights
    bytes_up: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """Which items get a direction of their own, once and for all.

    Attributes:
        made: in an earlier start of the run; None where it was not.
        tell: called with what is chosen now, before anything is asked about it.
    """

    made: tuple[int, ...] | None
    tell: Callable[[tuple[int, ...]], None]


def warm_start(
    asker: StatisticsCollector | None,
    config: RunConfig,
    catalogue: Catalogue,
    prior: Prior,
    choice: Choice,
) -> FirstWeights:
    """The first weights, from the sites' noised statistics and from public interactions.

    Args:
        asker: None where the sites are not asked: public interactions then say all.
        config: the run's parameters.
        catalogue: with features.
        prior: what public interactions say.
        choice: of own directions.

    Raises:
        QuorumError: too few sites gave a valid answer.
    """
    items = len(catalogue)
    counted = asker.total(Statistic.POPULARITY, (), (items,)) if asker else StatisticTotal()
    expected = prior.popularity(items, asker.fade if asker else POPULARITY_FADE)
    popular = popularity(counted.total, counted.noise_std, expected)
    own = choice.made
    if own is None:
        own = worth_the_noise(popular, counted.noise_std, config.warm_start.own_items)
        choice.tell(own)
    shape = replace(config.model, own_items=own)
    table = item_descriptors(shape, catalogue).numpy()
    summed = (
        asker.total(Statistic.MOMENT, own, (shape.described,) * 2) if asker else StatisticTotal()
    )
    known = moment(summed.total, summed.noise_std, prior.moment(table, shape.recency))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build(shape, catalogue)
    set_weights(model, known, popular)
    if prior.histories is not None and config.warm_start.steps:
        match_moment(
            model,
            known,
            public_states(prior.histories, table, shape.recency),
            config.warm_start.steps,
        )
    weights = {name: p.detach().numpy() for name, p in trainable(model).items()}
    return FirstWeights(own, weights, max(counted.bytes_up, summed.bytes_up))


def worth_the_noise(popular: Floats, spread: float, most: int) -> tuple[int, ...]:
    """Internal ids, ascending, of the items that get a direction of their own.

    Args:
        popular: popularity, > 0, [V].
        spread: standard deviation of the noise that went into it.
        most: how many at most; the most popular.
    """
    order = np.argsort(-popular, kind="stable")[:most]
    return tuple(sorted(int(place) + 1 for place in order if popular[place] >= LOUD * spread))
