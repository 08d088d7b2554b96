"""Translates between Flower's messages and what is done with them.

Flower's loop asks once a round. Where too few replies are valid, `aggregate_train` asks again,
waits longer each time, and at last gives up with a `QuorumError`: what is finished is saved.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server.aggregation.optimiser import ServerOptimiser
from server.aggregation.records import to_arrays, to_weights
from server.rounds.evaluation import checked_sums, mean_metrics
from server.rounds.grid import PatientGrid
from server.rounds.participants import Partner
from server.rounds.round import Memory, Round, RoundReport
from server.state.checkpoint import State
from shared.config import RunConfig, Weighting
from shared.errors import QuorumError, ReplyError
from shared.messages import EVALUATE, EvaluateRequest, TrainRequest

__all__ = ["FederatedStrategy", "LookUp", "Terms"]

log = logging.getLogger("sotto.server")
LookUp = Callable[[Grid], Sequence[Partner]]
"""Says which organisations there are, now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every request of a run holds, beside its parameters.

    Attributes:
        run: the run's name.
        catalogue: fingerprint of the catalogue.
        noise_multiplier: noise that every partner is asked to add; 0 without privacy.
    """

    run: str
    catalogue: str
    noise_multiplier: float


class FederatedStrategy(Strategy):
    """Asks every partner each round, and aggregates what may be aggregated.

    Args:
        config: the run's parameters.
        terms: what every request holds.
        look_up: which organisations there are; called before every attempt at a round.
        names: the weights' in order.
        rounds_done: rounds finished before this start: Flower counts from 1 each time.
        on_miss: told of each attempt at a round that had too few valid replies.
    """

    def __init__(
        self,
        config: RunConfig,
        terms: Terms,
        look_up: LookUp,
        *,
        names: Sequence[str],
        rounds_done: int = 0,
        on_miss: Callable[[RoundReport], None] = lambda _: None,
    ) -> None:
        self._config, self._terms, self._look_up = config, terms, look_up
        self._rounds_done, self._on_miss = rounds_done, on_miss
        self._optimiser = ServerOptimiser(config.server, names)
        self._partners: Sequence[Partner] = ()
        self._grid: Grid | None = None
        self._round: Round | None = None
        self._memory = Memory()
        self._evaluation: EvaluateRequest | None = None
        self.metrics: Mapping[str, float] = {}
        """What partners released with the last round, if that was asked for and can be told."""

    @property
    def report(self) -> RoundReport:
        """What became of the last round."""
        return self._current.report

    @property
    def answers(self) -> Mapping[str, str]:
        """Digests of the partners' last answers; see `Memory`."""
        return (self._round.memory if self._round else self._memory).answers

    @property
    def state(self) -> State:
        """The server optimiser's arrays."""
        return self._optimiser.state

    def restore(self, state: State, answers: Mapping[str, str]) -> None:
        """Puts back what `state` and `answers` gave."""
        self._optimiser.restore(state)
        self._memory = Memory(answers=answers)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One request to every partner that is connected."""
        self._grid, training = grid, self._config.training
        number = self._rounds_done + server_round
        request = TrainRequest(
            run=self._terms.run,
            round=number,
            catalogue=self._terms.catalogue,
            model=self._config.model,
            weights=to_weights(arrays),
            noise_multiplier=self._terms.noise_multiplier,
            sample_rate=training.sample_rate,
            clip_norm=training.clip_norm,
            local_steps=training.local_steps,
            optimiser=training.optimiser,
            learning_rate=training.learning_rate_in(number),
            weight_decay=training.weight_decay,
            candidates=training.candidates,
        )
        memory = self._round.memory if self._round else self._memory
        self._round = Round(request, self._config.server, memory)
        return self._ask(grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next global weights.

        Raises:
            QuorumError: too few replies were valid, at every attempt; says who failed and why.
        """
        current = self._current
        current.take(replies)
        for retry in range(self._config.server.retries):
            if current.enough or current.hopeless:
                break
            self._on_miss(current.report)
            time.sleep(self._config.server.retry_seconds * 2**retry)
            self._ask_again()
        if not current.enough:
            raise _paused(current.report)
        if current.report.failures:
            log.warning("round %d goes on without %s", current.report.number, self.report.failures)
        return self._aggregate(current), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Every `server.evaluate_every` rounds, a request for noised metrics to every partner.

        Each costs what one training step costs: the same noise and sample rate.
        """
        number, every = self._rounds_done + server_round, self._config.server.evaluate_every
        self._evaluation, self.metrics = None, {}
        if not every or number % every:
            return []
        self._evaluation = EvaluateRequest(
            run=self._terms.run,
            round=number,
            catalogue=self._terms.catalogue,
            model=self._config.model,
            weights=to_weights(arrays),
            noise_multiplier=self._terms.noise_multiplier,
            sample_rate=self._config.training.sample_rate,
        )
        content, self._partners = self._evaluation.to_content(), self._look_up(grid)
        return [
            Message(content, partner.node_id, EVALUATE, group_id=str(number))
            for partner in self._partners
            if partner.connected
        ]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Means over the partners that answer; a partner may decline, and the run goes on."""
        request, sums = self._evaluation, {}
        if request is None:
            return None
        partners = {partner.node_id: partner for partner in self._partners}
        for reply in replies:
            partner = partners.get(reply.metadata.src_node_id)
            if partner is None:  # an error reply for a dead node carries another source
                continue
            try:
                sums[partner.node_id] = checked_sums(reply, request, partner.population)
            except ReplyError as error:
                log.warning("no metrics from %s: %s", partner.organisation, error)
        means = mean_metrics(list(sums.values()), request)
        if means is None:
            log.warning("round %d: too few users answered to tell metrics", request.round)
            return None
        figures = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        log.info("round %d, %d organisations: %s", request.round, len(sums), figures)
        self.metrics = means
        return MetricRecord(dict(means))

    def summary(self) -> None:
        """Logs how replies are aggregated."""
        log.info("aggregated by %s", self._optimiser.name)

    @property
    def _current(self) -> Round:
        if self._round is None:
            raise ValueError("no round has begun")
        return self._round

    def _ask(self, grid: Grid) -> list[Message]:
        self._partners = self._look_up(grid)
        if isinstance(grid, PatientGrid):
            self._current.take(grid.late())
        return [] if self._current.enough else self._current.ask(self._partners)

    def _ask_again(self) -> None:
        if self._grid is not None:
            again = self._ask(self._grid)
            timeout = self._config.server.deadline_seconds
            self._current.take(self._grid.send_and_receive(again, timeout=timeout))

    def _aggregate(self, current: Round) -> ArrayRecord:
        by_population = self._config.server.weighting is Weighting.POPULATION
        request, changes = current.request, [change for _, change in current.valid]
        shares = [float(p.population) if by_population else 1.0 for p, _ in current.valid]
        return to_arrays(self._optimiser.step(request.round, request.weights, changes, shares))


def _paused(report: RoundReport) -> QuorumError:
    return QuorumError(
        f"round {report.number} has {report.valid} valid replies of {len(report.verdicts)}, "
        f"{report.needed} are needed ({report.failures or 'nobody is connected'}), after "
        f"{report.attempts} attempts. Finished rounds are saved: mend the cause and resume, or "
        "lower server.quorum."
    )
