"""Random numbers that privacy rests on.

`SystemRandom` holds no state: every call expands a key of its own, fresh from the operating system,
by AES-256 in counter mode. So no two clients, rounds, processes, threads or copies can share a
stream, and none can be predicted from its output. `SeededRandom` repeats itself; it exists for
the lab alone, where the data is public, and `client.site.site` refuses it on a real site.

Tails. The radius of a pair of normals is made of 63 bits, so none is beyond 9.42; an exact pair
would be with chance 2^-64. A million normals in each of 1,000 steps miss something with chance
2.7e-11, which adds at most (1 + e^ε) times that to δ.

Floating point. Which floats a noised sum can be tells of the sum beneath, where noise is simply
added (Mironov 2012, doi:10.1145/2382196.2382264; Jin et al. 2022, arXiv:2112.05307). `noised`
moves sum and noise to one grid first: what comes out depends on nothing but an integer, and every
sum can reach every integer out to 9 deviations. Not claimed: that an integer's chance is that of a
rounded Gaussian to the last bit (logarithm and cosine are float64's), or that the time taken says
nothing.

`user_bytes` gives each user random numbers of its own, which no other user's presence changes.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["RandomSource", "SeededRandom", "SystemRandom", "noised", "user_bytes"]

GRID_BITS = 30
"""A noised sum's grid is this many binary places below the noise's standard deviation."""

_AT_ONCE, _PAIRS = 2**17, 2**14
"""Elements noised and pairs of normals made at a time: what a processor's caches hold."""
_LOW_63_BITS = 2**63 - 1


class RandomSource(Protocol):
    """Where noise and samples come from."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Independent standard normals, float64, of the given shape, on the CPU."""

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` independent uniforms in [0, 1), multiples of 2^-53."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` independent words of 64 random bits."""

    def key(self) -> bytes:
        """Return a fresh secret key for `user_bytes`, 8 to 64 bytes."""


def noised(total: Tensor, scale: float, random: RandomSource) -> Tensor:
    """`total` plus N(0, scale²) in each element, as a function of an integer alone.

    Both are rounded to multiples of g, the power of two in (scale/2^31, scale/2^30], and added
    exactly. Rounding the total moves it by at most g a coordinate between neighbours: over d
    coordinates, the sensitivity grows by at most g √d, a share σ √d / 2^30 of the clip norm for
    noise multiplier σ (1e-5 at σ = 10, a million weights).

    Noise is drawn on the CPU and copied to where `total` is: no cryptographic generator runs on a
    GPU. Eight bytes a normal are copied.

    A total that is not finite would show through noise of any size. Clipping leaves none; should
    there be one all the same, noise alone is returned. To fail would tell as much as the total.

    Args:
        total: any float type and device; left as it is.
        scale: standard deviation of the noise, > 0.
        random: where the noise comes from.

    Returns:
        A new tensor like `total`; finite.

    Raises:
        ValueError: the scale is not a positive number.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"the noise's scale must be a positive number, not {scale}")
    per_unit = math.ldexp(1.0, GRID_BITS + 1 - math.frexp(scale)[1])
    if total.numel():
        total = total.where(torch.stack(total.aminmax()).isfinite().all(), 0)
    result = torch.empty_like(total, memory_format=torch.contiguous_format)
    largest = torch.finfo(total.dtype).max
    parts = total.reshape(-1).split(_AT_ONCE), result.view(-1).split(_AT_ONCE)
    for part, into in zip(*parts, strict=True):
        noise = random.normal((len(part),)).mul_(scale * per_unit).round_()
        points = part.to(torch.float64, copy=True).mul_(per_unit).round_()
        into.copy_(points.add_(noise.to(total.device)).div_(per_unit).clamp_(-largest, largest))
    return result


class SystemRandom:
    """Cryptographic randomness; not reproducible, and meant to be so."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normals by Box & Muller 1958 (doi:10.1214/aoms/1177706645)."""
        count = math.prod(shape)
        values = torch.empty(count + count % 2, dtype=torch.float64)
        stream, zeros = _key_stream(), bytes(8 * min(len(values), 2 * _PAIRS))
        buffer = bytearray(len(zeros) + 15)  # as much as the cipher asks for
        words = torch.from_numpy(np.frombuffer(buffer, dtype=np.int64, count=len(zeros) // 8))
        for chunk in values.split(2 * _PAIRS):
            stream.update_into(zeros[: 8 * len(chunk)], buffer)
            _box_muller(words[: len(chunk)], chunk)
        return values[:count].reshape(shape)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return uniforms from the top 53 bits of each 64-bit word of the key stream."""
        return np.asarray((self.words(count) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the key stream in words of 64 bits."""
        return np.frombuffer(_key_stream().update(bytes(8 * count)), dtype="<u8")

    def key(self) -> bytes:
        """32 bytes of the operating system's."""
        return os.urandom(32)


def user_bytes(key: bytes, user: str, number: int, count: int) -> bytes:
    """Return `count` bytes of one user's own stream: of key, user and number alone.

    Whoever else takes part, a user's random choices stay what they are. Without the key they
    cannot be told from chance: AES-256 in counter mode under BLAKE2b of user and number.

    Args:
        key: secret, from `RandomSource.key`.
        user: any text, one a user.
        number: tells uses apart, such as steps; >= 0.
        count: >= 0.
    """
    name = user.encode("utf-8", "surrogatepass")
    own = hashlib.blake2b(name, key=key, digest_size=32, salt=number.to_bytes(16, "big")).digest()
    return Cipher(algorithms.AES(own), modes.CTR(bytes(16))).encryptor().update(bytes(count))


def _key_stream() -> CipherContext:
    """Return the key stream of a key that is used for one call only, so no counter is reused."""
    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()


def _box_muller(words: Tensor, into: Tensor) -> None:
    """Fill `into` with normals from as many random 64-bit words, which are overwritten."""
    pairs = len(into) // 2
    # (n + 1/2) / 2^63 is exact where it is small, so the tail is too; its logarithm is finite.
    small = words[:pairs].bitwise_and_(_LOW_63_BITS).to(torch.float64).add_(0.5).mul_(2.0**-63)
    radius = small.log_().mul_(-2.0).sqrt_()
    angle = words[pairs:].to(torch.float64).mul_(2.0**-63 * math.pi)
    torch.mul(angle.cos(), radius, out=into[:pairs])
    torch.mul(angle.sin_(), radius, out=into[pairs:])


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
        """Standard normals that repeat with the seed and the path; of float32 precision."""
        return torch.from_numpy(self._generator.standard_normal(shape, dtype=np.float32)).double()

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return uniforms that depend on the seed and the path only."""
        return self._generator.random(count)

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return words that depend on the seed and the path only."""
        return np.asarray(self._generator.bit_generator.random_raw(count), dtype=np.uint64)

    def key(self) -> bytes:
        """8 bytes that repeat with the seed and the path."""
        return self.uniform(1).tobytes()
