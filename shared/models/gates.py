"""The gates of the kind "modalities", apart from the model: who reads a file needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["GATES", "GATES_SCALE", "LARGEST_GATE", "gate_shares", "named_gate_shares"]

GATES = "gates.weight"
"""Name of the weights, in a saved model."""
GATES_SCALE = 8.0
"""Constant factor of a gate's logit γ. A gradient step moves γ by its square: with 32, as offsets
have it, a plan's steps went past the best gates and further back (docs/modalities.md)."""
LARGEST_GATE = 10.0
"""Bound on |γ|: no gate, nor the inverse of a sum of them, leaves float32's range."""


def gate_shares(weights: Sequence[float]) -> list[float]:
    """Return what each block weighs in an item that has all of them; they add up to 1.

    Args:
        weights: of the gates of a catalogue's blocks, γ / `GATES_SCALE`.

    >>> gate_shares([0.0, 0.0])
    [0.5, 0.5]
    """
    logits = np.clip(GATES_SCALE * np.asarray(weights, np.float64), -LARGEST_GATE, LARGEST_GATE)
    gates = np.exp(logits)
    return [float(share) for share in gates / gates.sum()]


def named_gate_shares(
    blocks: Sequence[str], weights: Mapping[str, NDArray[np.float32]]
) -> dict[str, float]:
    """Return what each block of features weighs, by its name; {} without gates or blocks.

    Args:
        blocks: names of the catalogue's blocks, in order.
        weights: of a model, by name.
    """
    if not blocks or GATES not in weights:
        return {}
    shares = gate_shares(weights[GATES][: len(blocks), 0].tolist())
    return dict(zip(blocks, shares, strict=True))
