"""A private warm start: two noised statistics from every site become the first weights.

| round | asked of every site                                  | what it decides                   |
|-------|------------------------------------------------------|-----------------------------------|
| 1     | popularity of every item                             | offsets; which items get a        |
|       |                                                      | direction of their own            |
| 2     | moment of past and next items, in these directions   | the bilinear form that scores     |

Public interactions, where there are any, say what to expect; without statistics they say all. Their
users' states then take the first weights further (`server.matching`), and nobody is asked again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server.matching import match_moment, public_states
from server.partners import Partner
from server.posterior import Prior, moment, popularity, set_weights
from server.replies import checked_content
from shared.catalogue import Catalogue
from shared.config import RunConfig
from shared.errors import Outcome, QuorumError, ReplyError, WireError
from shared.models.attention import build, described_items, trainable
from shared.wire import (
    STATISTICS,
    Statistic,
    StatisticsReply,
    StatisticsRequest,
    Weights,
    traffic,
)

__all__ = ["Asker", "Choice", "FirstWeights", "warm_start", "worth_the_noise"]

log = logging.getLogger("sotto.server")
LOUD = 10.0
"""How often the noise's deviation an item's popularity must be for a direction of its own."""
_OUTLIER = 20.0
"""Standard deviations of noise that no honest partner ever sees."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sites answered together.

    Attributes:
        total: the sum; None where nobody was asked.
        spread: standard deviation of the noise in it.
        bytes_up: arrays received.
    """

    total: Floats | None = None
    spread: float = 0.0
    bytes_up: int = 0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who is asked, and how.

    Attributes:
        grid: Flower's.
        partners: who is asked.
        run: the run's name.
        noise_multiplier: of each statistic; 0 without privacy.
        config: the run's parameters.
        catalogue: fingerprint of the catalogue.
    """

    grid: Grid
    partners: Sequence[Partner]
    run: str
    noise_multiplier: float
    config: RunConfig
    catalogue: str

    def sum(
        self, statistic: Statistic, own_items: tuple[int, ...], shape: tuple[int, ...]
    ) -> Answer:
        """The sum of the sites' answers.

        Raises:
            QuorumError: too few sites gave a valid answer.
        """
        number = list(Statistic).index(statistic) + 1
        request = StatisticsRequest(
            run=self.run,
            round=number,
            catalogue=self.catalogue,
            model=replace(self.config.model, own_items=own_items),
            noise_multiplier=self.noise_multiplier,
            statistic=statistic,
        )
        content = request.to_content()
        asked = [
            Message(content, partner.node_id, STATISTICS, group_id="0") for partner in self.partners
        ]
        deadline = self.config.server.deadline_seconds
        replies = list(self.grid.send_and_receive(asked, timeout=deadline))
        totals = self._valid(replies, shape)
        spread = self.noise_multiplier * math.sqrt(len(totals))
        # In the order of their names: floating-point sums depend on it.
        total = np.sum([totals[name] for name in sorted(totals)], axis=0)
        return Answer(total, spread, sum(map(traffic, replies)))

    def _valid(self, replies: Iterable[Message], shape: tuple[int, ...]) -> dict[str, Floats]:
        totals: dict[str, Floats] = {}
        # An error reply for a dead node carries another source: it counts as none.
        answers = {reply.metadata.src_node_id: reply for reply in replies}
        missing: dict[str, str] = {}
        for partner in self.partners:
            name, reply = partner.organisation, answers.get(partner.node_id)
            try:
                totals[name] = _checked(reply, shape, partner.population, self.noise_multiplier)
            except ReplyError as error:
                missing[name] = str(error)
                log.warning("the warm start goes on without %s: %s", name, error)
        asked, quorum = len(self.partners), self.config.server.quorum
        if len(totals) < quorum * asked or not totals:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            raise QuorumError(
                f"{len(totals)} of {asked} organisations answered the warm start, and "
                f"server.quorum = {quorum:g} ({reasons}). Nothing is paid twice: mend the cause "
                "and resume, or lower server.quorum."
            )
        return totals


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
    asker: Asker | None, config: RunConfig, catalogue: Catalogue, prior: Prior, choice: Choice
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
    counted = asker.sum(Statistic.POPULARITY, (), (items,)) if asker else Answer()
    popular = popularity(counted.total, counted.spread, prior.popularity(items))
    own = choice.made
    if own is None:
        own = worth_the_noise(popular, counted.spread, config.warm_start.own_items)
        choice.tell(own)
    shape = replace(config.model, own_items=own)
    table = described_items(shape, catalogue).numpy()
    summed = asker.sum(Statistic.MOMENT, own, (shape.described,) * 2) if asker else Answer()
    known = moment(summed.total, summed.spread, prior.moment(table, shape.recency))
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


def _checked(
    reply: Message | None, shape: tuple[int, ...], population: int, noise_multiplier: float
) -> Floats:
    """The total a reply carries, if it may be added up.

    Raises:
        ReplyError: an error or refusal, not of the wire's form, another shape, not finite, or more
            than the partner's declared users could add up to.
    """
    if reply is None:
        raise ReplyError(Outcome.MISSING, "no reply before the deadline")
    try:
        total = StatisticsReply.from_content(checked_content(reply)).total.astype(np.float64)
    except WireError as error:
        raise ReplyError(Outcome.MALFORMED, str(error)) from error
    if total.shape != shape:
        raise ReplyError(Outcome.WRONG_SHAPE, f"a statistic of shape {total.shape}, not {shape}")
    if not np.isfinite(total).all():
        raise ReplyError(Outcome.NOT_FINITE, "a statistic holds values that are not finite")
    norm = float(np.linalg.norm(total))
    noise = noise_multiplier * (math.sqrt(total.size) + _OUTLIER)
    if norm > (population + noise) * (1 + 1e-6):
        raise ReplyError(
            Outcome.TOO_LONG,
            f"a statistic of norm {norm:.3g}, more than {population} users add up to",
        )
    return total
