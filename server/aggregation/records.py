"""Conversion between our weights and the records that Flower's strategies take and return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from shared.messages import TRAIN, Weights

__all__ = ["aggregate", "to_arrays", "to_weights"]

_COUNT = "num-examples"
"""The key of the weight that Flower's strategies give a reply."""
_ANY_NODE = 1
"""A message needs a destination; these are never sent."""


def to_arrays(weights: dict[str, NDArray[Any]]) -> ArrayRecord:
    """Return weights as a Flower record."""
    return ArrayRecord({name: Array(value) for name, value in weights.items()})


def to_weights(arrays: ArrayRecord) -> Weights:
    """Return a Flower record as float32 weights: some strategies compute in float64."""
    return {name: array.numpy().astype(np.float32) for name, array in arrays.items()}


def aggregate(
    strategy: FedAvg,
    parts: Sequence[dict[str, NDArray[Any]]],
    shares: Sequence[float],
    round_number: int = 1,
) -> Weights:
    """Aggregate arrays with one of Flower's strategies.

    Args:
        strategy: Flower's; it may keep state.
        parts: one for each organisation, in a fixed order: floating-point sums depend on it.
        shares: weight of each part; > 0.
        round_number: 1-based; FedAdam corrects its moments by it.

    Raises:
        ValueError: the strategy returns nothing, which it does for too few parts.
    """
    messages = [
        Message(
            RecordDict({"arrays": to_arrays(part), "metrics": MetricRecord({_COUNT: share})}),
            _ANY_NODE,
            TRAIN,
        )
        for part, share in zip(parts, shares, strict=True)
    ]
    arrays, _ = strategy.aggregate_train(round_number, messages)
    if arrays is None:
        raise ValueError(f"{type(strategy).__name__} returned nothing for {len(parts)} parts")
    return to_weights(arrays)
