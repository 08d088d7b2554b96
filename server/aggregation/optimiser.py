"""The server's optimiser: from the round's changes to the next weights, with a state to save.

The arithmetic is Flower's own (`FedAvg`, `FedAvgM`, `FedAdam`). It is only ever given changes that
`server.rounds.replies` has checked, with shares from public constants: never a client's example
count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from server.aggregation.records import aggregated, to_arrays
from server.aggregation.robust import robust_change
from server.state.checkpoint import State
from shared.config import Aggregation, ServerConfig, StrategyName
from shared.messages import Weights

__all__ = ["ServerOptimiser"]


class ServerOptimiser:
    """One of Flower's strategies, and what it remembers from round to round.

    Args:
        config: names optimiser and rule, with their parameters.
        names: the weights' in order; the state is kept by them.
    """

    def __init__(self, config: ServerConfig, names: Sequence[str]) -> None:
        self._config, self._names, self._inner = config, list(names), _flower_strategy(config)

    @property
    def name(self) -> str:
        """What it is called, for people."""
        rule = self._config.aggregation
        optimiser = type(self._inner).__name__
        return optimiser if rule is Aggregation.MEAN else f"{optimiser} of the {rule}"

    def step(
        self, number: int, weights: Weights, changes: Sequence[Weights], shares: Sequence[float]
    ) -> Weights:
        """The next weights.

        Args:
            number: the round's, counted from 1.
            weights: the round's.
            changes: one for each organisation that answered, in a fixed order.
            shares: how much each counts in a mean; a robust rule counts all alike.
        """
        if self._config.aggregation is not Aggregation.MEAN:
            changes, shares = [robust_change(changes, self._config)], [1.0]
        if isinstance(self._inner, FedAdam):
            self._inner.current_arrays = dict(weights)
        if isinstance(self._inner, FedAvgM):
            self._inner.current_arrays = to_arrays(weights)
        moved = [{name: weights[name] + change[name] for name in weights} for change in changes]
        return aggregated(self._inner, moved, shares, number)

    @property
    def state(self) -> State:
        """Its arrays by name; none before the first step, and none of "fedavg"."""
        inner, state = self._inner, State()
        if isinstance(inner, FedAdam):
            for moment, arrays in (("m", inner.m_t), ("v", inner.v_t)):
                state |= {f"{moment}/{name}": value for name, value in (arrays or {}).items()}
        if isinstance(inner, FedAvgM) and inner.momentum_vector is not None:
            vector = zip(self._names, inner.momentum_vector, strict=True)
            state = {f"momentum/{name}": np.asarray(value) for name, value in vector}
        return state

    def restore(self, state: State) -> None:
        """Puts back what `state` gave."""
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
