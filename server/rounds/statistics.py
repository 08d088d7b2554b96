"""Collect the noised statistics of a warm start, and add them up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.serverapp import Grid

from server.aggregation.robust import robust_mean
from server.rounds.collection import LookUp, Memory, OnMiss
from server.rounds.collection_report import CollectionReport
from server.rounds.participants import Partner
from server.rounds.replies import Floats
from server.rounds.requests import statistic_spec
from server.rounds.secure_collection import collection_of
from server.state.attempts import Attempts
from shared.config import Aggregation, RunConfig
from shared.messages import Statistic, StatisticsRequest

__all__ = ["StatisticTotal", "StatisticsCollector"]


@dataclass(frozen=True, slots=True)
class StatisticTotal:
    """A statistic over all sites that answered.

    Attributes:
        total: the sum, or under a robust rule a mean; None if no site was asked.
        noise_std: standard deviation of the noise in each of its entries.
        bytes_up: size of the arrays received.
    """

    total: Floats | None = None
    noise_std: float = 0.0
    bytes_up: int = 0


@dataclass(slots=True, kw_only=True)
class StatisticsCollector:
    """Asks every site for one statistic after the other.

    Attributes:
        grid: Flower's.
        look_up: returns the organisations; called before every attempt.
        run: name of the run.
        catalogue: fingerprint of the catalogue.
        config: the run's parameters.
        noise_multipliers: of the statistics; 0 without privacy.
        fade: exponent of popularity, in [0, 1].
        on_begin: called with the name of each statistic before it is asked for.
        on_miss: called with each attempt that had too few valid replies.
        on_finish: called with each statistic that has a quorum.
        attempts: the run's counter under secure aggregation; None where each site answers for
            itself.
        memory: what the next collection must know.
    """

    grid: Grid
    look_up: LookUp
    run: str
    catalogue: str
    config: RunConfig
    noise_multipliers: Mapping[Statistic, float]
    fade: float
    on_begin: Callable[[str], None] = lambda _: None
    on_miss: OnMiss = lambda _: None
    on_finish: Callable[[CollectionReport], None] = lambda _: None
    attempts: Attempts | None = None
    memory: Memory = field(default_factory=Memory)

    def total(
        self, statistic: Statistic, own_items: tuple[int, ...], shape: tuple[int, ...]
    ) -> StatisticTotal:
        """Collect a statistic, and combine the answers by the run's aggregation rule.

        Args:
            statistic: which one.
            own_items: internal ids of the items with a direction of their own.
            shape: of the statistic.

        Raises:
            QuorumError: too few replies were valid in every attempt.
        """
        request = StatisticsRequest(
            run=self.run,
            round=list(Statistic).index(statistic) + 1,
            catalogue=self.catalogue,
            model=replace(self.config.model, own_items=own_items),
            noise_multiplier=self.noise_multipliers[statistic],
            statistic=statistic,
            fade=self.fade,
            weights_of_groups=self.config.groups.weights,
            trust=self.config.privacy.trust_asked,
        )
        spec = statistic_spec(request, shape)
        collection = collection_of(spec, self.config, self.memory, self.attempts)
        self.on_begin(spec.name)
        collection.collect(self.grid, self.look_up, self.on_miss)
        self.memory = collection.memory
        report = collection.report
        self.on_finish(report)
        total, noise_std = self._combine(collection.valid, request.noise_multiplier)
        return StatisticTotal(total, noise_std, report.bytes_up)

    def _combine(
        self, answers: list[tuple[Partner, Floats]], noise_multiplier: float
    ) -> tuple[Floats, float]:
        totals = [total for _, total in answers]
        if self.config.server.aggregation is Aggregation.MEAN:
            return np.sum(totals, axis=0), noise_multiplier * math.sqrt(len(totals))
        users = [partner.population for partner, _ in answers]
        return robust_mean(totals, users, noise_multiplier, self.config.server)
