"""The server's optimiser: computes the next weights from a round's changes, and keeps its state.

The arithmetic is Flower's (`FedAvg`, `FedAvgM`, `FedAdam`). It receives only changes that
`server.rounds.replies` has checked, weighted by public constants: never by a client's example
count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from server.aggregation.records import aggregate, to_arrays
from server.aggregation.robust import robust_change
from server.state.checkpoint import State
from shared.config import Aggregation, ServerConfig, StrategyName
from shared.messages import Weights

__all__ = ["ServerOptimiser"]


class ServerOptimiser:
    """One of Flower's strategies and its state from round to round.

    Args:
        config: optimiser and aggregation rule, with their parameters.
        names: of the weights, in order; the state is stored under them.
    """

    def __init__(self, config: ServerConfig, names: Sequence[str]) -> None:
        self._config, self._names, self._inner = config, list(names), _flower_strategy(config)

    @property
    def name(self) -> str:
        """Name of optimiser and rule, for log lines."""
        rule = self._config.aggregation
        optimiser = type(self._inner).__name__
        return optimiser if rule is Aggregation.MEAN else f"{optimiser} of the {rule}"

    def step(
        self, number: int, weights: Weights, changes: Sequence[Weights], shares: Sequence[float]
    ) -> Weights:
        """Return the next weights.

        Args:
            number: of the round, 1-based.
            weights: global weights that the round began with.
            changes: one for each organisation that answered, in a fixed order.
            shares: weight of each change in a mean; a robust rule weighs all alike.
        """
        if self._config.aggregation is not Aggregation.MEAN:
            changes, shares = [robust_change(changes, self._config)], [1.0]
        if isinstance(self._inner, FedAdam):
            self._inner.current_arrays = dict(weights)
        if isinstance(self._inner, FedAvgM):
            self._inner.current_arrays = to_arrays(weights)
        moved = [{name: weights[name] + change[name] for name in weights} for change in changes]
        return aggregate(self._inner, moved, shares, number)

    @property
    def state(self) -> State:
        """Arrays by name; empty before the first step, and for "fedavg"."""
        inner, state = self._inner, State()
        if isinstance(inner, FedAdam):
            for moment, arrays in (("m", inner.m_t), ("v", inner.v_t)):
                state |= {f"{moment}/{name}": value for name, value in (arrays or {}).items()}
        if isinstance(inner, FedAvgM) and inner.momentum_vector is not None:
            vector = zip(self._names, inner.momentum_vector, strict=True)
            state = {f"momentum/{name}": np.asarray(value) for name, value in vector}
        return state

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        inner, names = self._inner, self._names
        if isinstance(inner, FedAdam) and state:
            inner.m_t = {name: state[f"m/{name}"] for name in names}
            inner.v_t = {name: state[f"v/{name}"] for name in names}
        if isinstance(inner, FedAvgM) and state:
            inner.momentum_vector = [state[f"momentum/{name}"] for name in names]


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
