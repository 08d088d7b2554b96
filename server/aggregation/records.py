"""Weights as Flower's strategies take and give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from shared.messages import TRAIN, Weights

__all__ = ["aggregated", "to_arrays", "to_weights"]

_COUNT = "num-examples"  # the key Flower's strategies weigh by
_NOBODY = 1


def to_arrays(weights: dict[str, NDArray[Any]]) -> ArrayRecord:
    """Weights as a Flower record."""
    return ArrayRecord({name: Array(value) for name, value in weights.items()})


def to_weights(arrays: ArrayRecord) -> Weights:
    """A Flower record as float32 weights: some strategies return float64."""
    return {name: array.numpy().astype(np.float32) for name, array in arrays.items()}


def aggregated(
    rule: FedAvg,
    parts: Sequence[dict[str, NDArray[Any]]],
    shares: Sequence[float],
    number: int = 1,
) -> Weights:
    """What one of Flower's strategies makes of arrays.

    Args:
        rule: the strategy; it may keep state.
        parts: one for each organisation, in a fixed order: floating-point sums depend on it.
        shares: how much each one counts; > 0.
        number: the round's; FedAdam corrects its moments by it.

    Raises:
        ValueError: the strategy declines, which it does for too few parts.
    """
    messages = [
        Message(
            RecordDict({"arrays": to_arrays(part), "metrics": MetricRecord({_COUNT: share})}),
            _NOBODY,
            TRAIN,
        )
        for part, share in zip(parts, shares, strict=True)
    ]
    arrays, _ = rule.aggregate_train(number, messages)
    if arrays is None:
        raise ValueError(f"{type(rule).__name__} makes nothing of {len(parts)} parts")
    return to_weights(arrays)
