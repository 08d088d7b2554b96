"""Translates between Flower's messages and one of Flower's aggregation strategies.

The arithmetic is Flower's own (`FedAvg`, `FedAvgM`, `FedAdam`). It is only ever given replies that
`server.replies` has checked, with weights from public constants: never a client's example count.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, Strategy

from server.checkpoint import State
from server.evaluation import checked_sums, mean_metrics
from server.replies import checked_change
from shared.config import RunConfig, ServerConfig, StrategyName, Weighting
from shared.errors import QuorumError, ReplyError
from shared.wire import EVALUATE, TRAIN, EvaluateRequest, TrainRequest, Weights, traffic

__all__ = ["FederatedStrategy", "Partner", "Traffic", "to_arrays", "to_weights"]

log = logging.getLogger("sotto.server")
_COUNT = "num-examples"  # the key Flower's strategies weigh by


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """A connected organisation and its public constants.

    Attributes:
        node_id: Flower's id of its node.
        organisation: its name.
        population: its declared users.
    """

    node_id: int
    organisation: str
    population: int


@dataclass(slots=True)
class Traffic:
    """Bytes of arrays in one round, over all partners."""

    up: int = 0
    down: int = 0


@dataclass(slots=True)
class _Round:
    """What the round in progress has asked, and of whom."""

    number: int
    weights: Weights
    asked: list[tuple[Message, Partner]]
    traffic: Traffic = field(default_factory=Traffic)


class FederatedStrategy(Strategy):
    """Asks every partner each round, and aggregates what may be aggregated.

    Args:
        config: the run's parameters.
        partners: who is asked.
        run: the run's name.
        catalogue: fingerprint of the catalogue.
        noise_multiplier: noise that every partner is asked to add; 0 without privacy.
        rounds_done: rounds finished before this start: Flower counts from 1 each time.
    """

    def __init__(
        self,
        config: RunConfig,
        partners: Sequence[Partner],
        *,
        run: str,
        catalogue: str,
        noise_multiplier: float,
        rounds_done: int = 0,
    ) -> None:
        self._config, self._run, self._catalogue = config, run, catalogue
        # A fixed order: floating-point sums depend on it, arrival does not repeat itself.
        self._partners = sorted(partners, key=lambda partner: partner.organisation)
        self._noise_multiplier, self._rounds_done = noise_multiplier, rounds_done
        self._inner = _flower_strategy(config.server)
        self._round = _Round(rounds_done, {}, [])
        self._evaluation: EvaluateRequest | None = None

    @property
    def traffic(self) -> Traffic:
        """Bytes of the last round."""
        return self._round.traffic

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One request to every partner."""
        weights, number = to_weights(arrays), self._rounds_done + server_round
        training = self._config.training
        content = TrainRequest(
            run=self._run,
            round=number,
            catalogue=self._catalogue,
            model=self._config.model,
            weights=weights,
            noise_multiplier=self._noise_multiplier,
            sample_rate=training.sample_rate,
            clip_norm=training.clip_norm,
            local_steps=training.local_steps,
            optimiser=training.optimiser,
            learning_rate=training.learning_rate_in(number),
            weight_decay=training.weight_decay,
            candidates=training.candidates,
        ).to_content()
        asked = [
            (Message(content, partner.node_id, TRAIN, group_id=str(number)), partner)
            for partner in self._partners
        ]
        self._round = _Round(number, weights, asked)
        self._round.traffic.down = sum(traffic(message) for message, _ in asked)
        return [message for message, _ in asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next global weights.

        Raises:
            QuorumError: too few replies were valid; says who failed and why.
        """
        valid, failures = self._sift(list(replies))
        asked, quorum = len(self._partners), self._config.server.quorum
        # Not a ceiling: 0.28 * 25 is a little above 7.
        needed = next(count for count in range(1, asked + 1) if count / asked >= quorum)
        if len(valid) < needed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
            raise QuorumError(
                f"round {self._round.number} has {len(valid)} valid replies of "
                f"{len(self._partners)}, {needed} are needed ({reasons}). Finished rounds are "
                "saved: mend the cause and resume, or lower server.quorum."
            )
        for name, reason in failures.items():
            log.warning("round %d goes on without %s: %s", self._round.number, name, reason)
        return self._aggregate(valid), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Every `server.evaluate_every` rounds, a request for noised metrics to every partner.

        Each costs what one training step costs: the same noise and sample rate.
        """
        number, every = self._rounds_done + server_round, self._config.server.evaluate_every
        self._evaluation = None
        if not every or number % every:
            return []
        self._evaluation = EvaluateRequest(
            run=self._run,
            round=number,
            catalogue=self._catalogue,
            model=self._config.model,
            weights=to_weights(arrays),
            noise_multiplier=self._noise_multiplier,
            sample_rate=self._config.training.sample_rate,
        )
        content = self._evaluation.to_content()
        return [
            Message(content, partner.node_id, EVALUATE, group_id=str(number))
            for partner in self._partners
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
        return MetricRecord(dict(means))

    def summary(self) -> None:
        """Logs who is asked, and by which strategy the replies are aggregated."""
        names = ", ".join(partner.organisation for partner in self._partners)
        log.info("%s over %s", type(self._inner).__name__, names)

    @property
    def state(self) -> State:
        """The server optimiser's arrays."""
        inner, names = self._inner, list(self._round.weights)
        state: State = {}
        if isinstance(inner, FedAdam):
            for moment, arrays in (("m", inner.m_t), ("v", inner.v_t)):
                state |= {f"{moment}/{name}": value for name, value in (arrays or {}).items()}
        if isinstance(inner, FedAvgM) and inner.momentum_vector is not None:
            vector = zip(names, inner.momentum_vector, strict=True)
            state = {f"momentum/{name}": np.asarray(value) for name, value in vector}
        return state

    def restore(self, state: State, names: Sequence[str]) -> None:
        """Puts back what `state` gave; `names` are the weights' in order."""
        inner = self._inner
        if isinstance(inner, FedAdam) and state:
            inner.m_t = {name: state[f"m/{name}"] for name in names}
            inner.v_t = {name: state[f"v/{name}"] for name in names}
        if isinstance(inner, FedAvgM) and state:
            inner.momentum_vector = [state[f"momentum/{name}"] for name in names]

    def _sift(self, replies: list[Message]) -> tuple[list[tuple[Partner, Weights]], dict[str, str]]:
        # By the message answered: an error reply for a dead node carries another source.
        answers = {reply.metadata.reply_to_message_id: reply for reply in reversed(replies)}
        self._round.traffic.up = sum(traffic(reply) for reply in replies)
        valid: list[tuple[Partner, Weights]] = []
        failures: dict[str, str] = {}
        for message, partner in self._round.asked:
            reply = answers.get(message.metadata.message_id)
            if reply is None:
                failures[partner.organisation] = "no reply before the deadline"
                continue
            try:
                limit = self._config.server.max_update_norm
                change = checked_change(reply, like=self._round.weights, max_norm=limit)
                valid.append((partner, change))
            except ReplyError as error:
                failures[partner.organisation] = str(error)
        return valid, failures

    def _aggregate(self, valid: list[tuple[Partner, Weights]]) -> ArrayRecord:
        weights = self._round.weights
        current = to_arrays(weights)
        if isinstance(self._inner, FedAdam):
            self._inner.current_arrays = dict(weights)
        if isinstance(self._inner, FedAvgM):
            self._inner.current_arrays = current
        by_population = self._config.server.weighting is Weighting.POPULATION
        request = self._round.asked[0][0]
        clean = [
            Message(
                RecordDict(
                    {
                        "arrays": to_arrays({k: weights[k] + change[k] for k in weights}),
                        "metrics": MetricRecord(
                            {_COUNT: float(partner.population) if by_population else 1.0}
                        ),
                    }
                ),
                reply_to=request,
            )
            for partner, change in valid
        ]
        arrays, _ = self._inner.aggregate_train(self._round.number, clean)
        if arrays is None:
            raise QuorumError(f"round {self._round.number}: nothing could be aggregated.")
        return to_arrays(to_weights(arrays))


def to_arrays(weights: Weights) -> ArrayRecord:
    """Weights as a Flower record."""
    return ArrayRecord({name: Array(value) for name, value in weights.items()})


def to_weights(arrays: ArrayRecord) -> Weights:
    """A Flower record as float32 weights: FedAdam returns float64."""
    return {name: array.numpy().astype(np.float32) for name, array in arrays.items()}


def _flower_strategy(config: ServerConfig) -> FedAvg:
    match config.strategy:
        case StrategyName.FEDAVG:
            return FedAvg()
        case StrategyName.FEDAVGM:
            return FedAvgM(
                server_learning_rate=config.learning_rate, server_momentum=config.momentum
            )
        case StrategyName.FEDADAM:
            return FedAdam(eta=config.learning_rate, beta_1=config.momentum, tau=config.tau)
