"""Random numbers that privacy rests on.

`SystemRandom` draws from AES-256 in counter mode under a key from the operating system, a fresh
key for every object and again after a fork: no two clients, rounds or processes share a stream,
and none can be predicted from its output. `SeededRandom` repeats itself; it exists for the lab
alone, where the data is public, and `client.site` refuses it on a real site.

Not claimed: the samples are float32 roundings of float64 Box-Muller variates, so the attacks on
floating-point noise (Mironov 2012, doi:10.1145/2382196.2382264) are not excluded. They need the
exact noised sum; what leaves a site is that sum after a division, an optimiser step and a
difference of float32 weights.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["RandomSource", "SeededRandom", "SystemRandom"]


class RandomSource(Protocol):
    """Where noise and samples come from."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Independent standard normals, float32, of the given shape, on the CPU."""

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` independent uniforms in [0, 1)."""


class SystemRandom:
    """Cryptographic randomness; not reproducible, and meant to be so."""

    def __init__(self) -> None:
        self._rekey()

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normals by Box & Muller 1958 (doi:10.1214/aoms/1177706645)."""
        count = int(np.prod(shape))
        pairs = (count + 1) // 2
        # 1 - u lies in (0, 1]: its logarithm is finite.
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(pairs)))
        angle = 2.0 * np.pi * self.uniform(pairs)
        values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
        return torch.from_numpy(values.astype(np.float32)).reshape(shape)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """The top 53 bits of each 64-bit word of the key stream."""
        if os.getpid() != self._process:
            self._rekey()
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")
        return np.asarray((words >> np.uint64(11)) * 2.0**-53, dtype=np.float64)

    def __reduce__(self) -> tuple[type[SystemRandom], tuple[()]]:
        # A pickled copy draws its own key: a stream that exists twice is noise that cancels.
        return SystemRandom, ()

    def _rekey(self) -> None:
        self._process = os.getpid()
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._stream: CipherContext = cipher.encryptor()


class SeededRandom:
    """Reproducible randomness for simulations on public data.

    Args:
        seed: the run's seed, >= 0.
        path: whatever tells streams apart, such as organisation and round, each >= 0.
    """

    def __init__(self, seed: int, *path: int) -> None:
        # A spawn key, since entropy is padded with zeros: [1] and [1, 0] would be one stream.
        entropy = np.random.SeedSequence(seed, spawn_key=path)
        self._generator = np.random.Generator(np.random.Philox(entropy))

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normals that repeat with the seed and the path."""
        return torch.from_numpy(self._generator.standard_normal(shape, dtype=np.float32))

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Uniforms that repeat with the seed and the path."""
        return self._generator.random(count)
