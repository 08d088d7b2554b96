"""Weights that a run neither trains nor sends: the same everywhere, by construction.

They are drawn from their name and shape alone, with integers and exactly rounded operations, so
that torch's generator, its version and the processor have no part in them. A fingerprint in every
request shows that both sides have the same.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["INITIAL_STD", "draw_frozen", "fingerprint"]

INITIAL_STD = 0.02
"""Standard deviation of initial weights, as in arXiv:2309.07602."""


def draw_frozen(model: nn.Module) -> None:
    """Draw the frozen matrices of a model anew that its start drew at random.

    An isometry (see `isometry`) takes the place of `feature_in`, and uniform numbers of deviation
    `INITIAL_STD` that of the others. What the start set to zeros or to the identity stays.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad or weight.dim() != 2 or _is_set(weight):
                continue
            if name.startswith("feature_in"):
                weight.copy_(isometry(name, *weight.shape))
            else:
                numbers = _random(name, weight.numel()) >> np.uint64(40)  # 24 bits: exact
                uniform = numbers.astype(np.float32) * np.float32(2**-23) - np.float32(1)
                drawn = uniform * np.float32(INITIAL_STD * math.sqrt(3))
                weight.copy_(torch.from_numpy(drawn).view_as(weight))


def isometry(name: str, rows: int, columns: int) -> Tensor:
    """Return a sparse [rows, columns] map whose rows, or columns if fewer, are orthonormal.

    Each of the more is assigned to one of the fewer, evenly and with a random sign: a count sketch
    (Charikar, Chen & Farach-Colton 2002).

    >>> maps = isometry("a", 2, 6)
    >>> torch.allclose(maps @ maps.T, torch.eye(2))
    True
    """
    fewer, more = min(rows, columns), max(rows, columns)
    order = np.argsort(_random(name, more), kind="stable")
    signs = 1.0 - 2.0 * (_random(name + " signs", more) >> np.uint64(63))
    group = np.arange(more) % fewer
    dense = np.zeros((fewer, more), np.float32)
    if rows <= columns:
        sizes = np.bincount(group, minlength=fewer)
        dense[group, order] = signs / np.sqrt(sizes[group])
        return torch.from_numpy(dense)
    dense[np.arange(fewer), order[:fewer]] = signs[:fewer]
    return torch.from_numpy(dense.T.copy())


def fingerprint(model: nn.Module) -> str:
    """Return SHA-256, in hex, of the frozen weights' names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        if not weight.requires_grad:
            digest.update(f"{name} {tuple(weight.shape)}\n".encode())
            digest.update(weight.detach().cpu().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _is_set(weight: Tensor) -> bool:
    square = weight.shape[0] == weight.shape[1]
    zero = not bool(weight.count_nonzero())
    return zero or (square and bool(weight.count_nonzero() == len(weight)))


def _random(name: str, count: int) -> NDArray[np.uint64]:
    """Return random 64-bit words that depend on a name only; NumPy guarantees this stream."""
    key = int.from_bytes(hashlib.sha256(f"sotto frozen {name}".encode()).digest()[:16], "big")
    return np.asarray(np.random.Philox(key=key).random_raw(count), np.uint64)
