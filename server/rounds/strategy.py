"""Flower's Strategy, as a translator between Flower's messages and our own functions.

Flower's loop asks once a round. If too few replies are valid, `aggregate_train` asks again with
growing waits, and finally raises a `QuorumError`; finished rounds are saved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server.aggregation.optimiser import ServerOptimiser
from server.aggregation.records import to_arrays, to_weights
from server.rounds.collection import Collection, LookUp, Memory, OnMiss
from server.rounds.collection_report import CollectionReport
from server.rounds.evaluation import mean_metrics
from server.rounds.replies import Sums
from server.rounds.requests import (
    Terms,
    evaluate_request,
    evaluation_spec,
    train_request,
    training_spec,
)
from server.rounds.secure_collection import SecureCollection, collection_of
from server.state.attempts import Attempts
from server.state.checkpoint import State
from shared.config import RunConfig, Weighting
from shared.messages import EvaluateRequest, TrainRequest, Weights

__all__ = ["FederatedStrategy", "Step"]

log = logging.getLogger("sotto.server")
R = TypeVar("R", TrainRequest, EvaluateRequest)
Value = TypeVar("Value")
Weigh = Callable[[int, Weights], str | None]
Step = Callable[[TrainRequest, Weights, Sequence[float], Sequence[float]], Weights]


class FederatedStrategy(Strategy):
    """Ask every partner in each round, and aggregate the valid replies.

    Args:
        config: the run's parameters.
        terms: what every request holds.
        look_up: returns the organisations; called before every attempt.
        names: of the weights, in order.
        rounds_done: rounds finished before this start: Flower counts from 1 each time.
        on_miss: called with each attempt at a round that had too few valid replies.
        attempts: the run's counter under secure aggregation, where the aggregate methods ask for
            sums; None where Flower's loop asks each organisation for its own answer.
    """

    def __init__(
        self,
        config: RunConfig,
        terms: Terms,
        look_up: LookUp,
        *,
        names: Sequence[str],
        rounds_done: int = 0,
        on_miss: OnMiss = lambda _: None,
        attempts: Attempts | None = None,
    ) -> None:
        self._config, self._terms, self._look_up = config, terms, look_up
        self._rounds_done, self._on_miss, self._attempts = rounds_done, on_miss, attempts
        self._optimiser = ServerOptimiser(config.server, names)
        self._memory = Memory()
        self._training: _Asked[TrainRequest, Weights] | None = None
        self._evaluation: _Asked[EvaluateRequest, Sums] | None = None
        self.weigh: Weigh = lambda _, __: None
        """Called with each round's number and weights before it is asked for; returns what users of
        each group count in it, None as the run states."""
        self.refine: Step = lambda _, weights, __, ___: weights
        """Called with a round's request, the weights after the mean change, and each
        organisation's declared users and share in the mean; returns the next weights."""
        self.metrics: Mapping[str, float] = {}
        """Metrics released with the last round; empty if none were, or noise hides them."""

    @property
    def report(self) -> CollectionReport:
        """The result of the last round."""
        return self._current.collection.report

    @property
    def memory(self) -> Memory:
        """What the next round must know."""
        return self._training.collection.memory if self._training else self._memory

    @property
    def state(self) -> State:
        """The server optimiser's arrays."""
        return self._optimiser.state

    def restore(self, state: State, memory: Memory) -> None:
        """Restore what `state` and `memory` returned."""
        self._optimiser.restore(state)
        self._memory = memory

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one request for every partner that is connected."""
        number = self._rounds_done + server_round
        weights = to_weights(arrays)
        of_groups = self.weigh(number, weights)
        request = train_request(self._config, self._terms, number, weights, of_groups)
        spec = training_spec(request, self._config.server.max_update_norm)
        collection = collection_of(spec, self._config, self.memory, self._attempts)
        self._training = _Asked(request, collection, grid)
        return collection.requests(grid, self._look_up(grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next global weights.

        Raises:
            QuorumError: too few replies were valid in every attempt; it names each organisation
                without a valid reply, and why.
        """
        collection, request = self._current.collection, self._current.request
        collection.take(replies)
        collection.retry_until_quorum(self._current.grid, self._look_up, self._on_miss)
        by_population = self._config.server.weighting is Weighting.POPULATION
        users = [float(p.population) for p, _ in collection.valid]
        shares = users if by_population else [1.0] * len(users)
        changes = [change for _, change in collection.valid]
        weights = self._optimiser.step(request.round, request.weights, changes, shares)
        return to_arrays(self.refine(request, weights, users, shares)), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a request for noised metrics to every partner, each `evaluate_every` rounds."""
        number, every = self._rounds_done + server_round, self._config.server.evaluate_every
        self._evaluation, self.metrics = None, {}
        if not every or number % every:
            return []
        request = evaluate_request(self._config, self._terms, number, to_weights(arrays))
        spec = evaluation_spec(request, f"the evaluation of round {number}")
        collection = collection_of(spec, self._config, Memory(), self._attempts)
        self._evaluation = _Asked(request, collection, grid)
        return collection.requests(grid, self._look_up(grid))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return means over the partners that answer; a partner may decline."""
        if self._evaluation is None:
            return None
        collection, request = self._evaluation.collection, self._evaluation.request
        number = self._rounds_done + server_round
        collection.take(replies)
        if isinstance(collection, SecureCollection):
            collection.ask_once(self._evaluation.grid, self._look_up)
        if failures := collection.report.failures:
            log.warning("round %d: no metrics from %s", number, failures)
        means = mean_metrics([sums for _, sums in collection.valid], request)
        if means is None:
            log.warning("round %d: too few users for metrics above the noise", number)
            return None
        figures = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        log.info("round %d, %d organisations: %s", number, len(collection.valid), figures)
        self.metrics = means
        return MetricRecord(dict(means))

    def summary(self) -> None:
        """Log how replies are aggregated."""
        log.info("aggregated by %s", self._optimiser.name)

    @property
    def _current(self) -> _Asked[TrainRequest, Weights]:
        if self._training is None:
            raise ValueError("no round has begun")
        return self._training


@dataclass(frozen=True)
class _Asked(Generic[R, Value]):
    """A round or an evaluation in progress."""

    request: R
    collection: Collection[Value] | SecureCollection[Value]
    grid: Grid
