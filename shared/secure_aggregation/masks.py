"""A key of 32 bytes expanded to numbers modulo 2^64: AES-256 in counter mode, from counter 0.

A key is used for one mask. Both partners of a pair, and the coordinator for one that dropped out,
get the same numbers from it on any machine (little-endian).
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["add_mask", "subtract_mask"]

_AT_ONCE = 2**14
"""Numbers expanded at a time: what a processor's caches hold."""
_ZEROS = bytes(8 * _AT_ONCE)


def add_mask(values: NDArray[np.uint64], key: bytes) -> None:
    """Add the numbers that `key` stands for to `values`, uint64 [m], in place, modulo 2^64."""
    _apply(np.add, values, key)


def subtract_mask(values: NDArray[np.uint64], key: bytes) -> None:
    """Subtract the numbers that `key` stands for from `values`, uint64 [m], in place."""
    _apply(np.subtract, values, key)


def _apply(operation: np.ufunc, values: NDArray[np.uint64], key: bytes) -> None:
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    buffer = np.empty(8 * _AT_ONCE, np.uint8)
    numbers = buffer.view("<u8")
    for start in range(0, len(values), _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        stream.update_into(_ZEROS, buffer.data)
        operation(part, numbers[: len(part)], out=part)
