"""Shamir's secret sharing (1979, doi:10.1145/359168.359176) over the integers modulo 2^521 - 1.

A secret of 32 bytes is the value at 0 of a polynomial of degree t - 1 whose other coefficients are
uniform; holder i has the value at i + 1. Any t shares give the polynomial; for t - 1 shares and any
secret there is exactly one polynomial through all of them, so they say nothing of the secret.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping

from shared.errors import SecureAggregationError

__all__ = ["PRIME", "SECRET_SIZE", "SHARE_SIZE", "interpolate", "recover", "split"]

PRIME = 2**521 - 1
"""A Mersenne prime above every secret of 32 bytes."""
SECRET_SIZE, SHARE_SIZE = 32, 66
"""Bytes of a secret and of a share."""


def split(
    secret: bytes, threshold: int, holders: Collection[int], random: Callable[[int], bytes]
) -> dict[int, int]:
    """Return each holder's share of a secret.

    Args:
        secret: 32 bytes.
        threshold: how many shares recover it; >= 1.
        holders: their indices, >= 0.
        random: returns that many uniform bytes.
    """
    if len(secret) != SECRET_SIZE:
        raise SecureAggregationError(f"a secret has {SECRET_SIZE} bytes, not {len(secret)}.")
    coefficients = [_uniform(random) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    return {holder: _value(coefficients, holder + 1) for holder in holders}


def recover(shares: Mapping[int, int], threshold: int) -> bytes:
    """Return the secret from the shares of the `threshold` holders with the lowest indices.

    Raises:
        SecureAggregationError: there are too few, or they are not shares of a secret of 32 bytes.
    """
    if len(shares) < threshold:
        raise SecureAggregationError(f"{len(shares)} shares cannot replace {threshold}.")
    chosen = {holder: shares[holder] for holder in sorted(shares)[:threshold]}
    secret = interpolate(chosen, -1)
    if secret >> 8 * SECRET_SIZE:
        raise SecureAggregationError("these are not shares of one secret.")
    return secret.to_bytes(SECRET_SIZE, "big")


def interpolate(shares: Mapping[int, int], holder: int) -> int:
    """Return the share that the polynomial through `shares` gives to a holder; -1 has the secret.

    >>> line = {0: 5, 1: 7}
    >>> interpolate(line, 2), interpolate(line, -1)
    (9, 3)
    """
    holders = tuple(sorted(shares))
    factors = _lagrange(holders, holder)
    return sum(shares[i] * factor for i, factor in zip(holders, factors, strict=True)) % PRIME


@functools.lru_cache(maxsize=1024)
def _lagrange(holders: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Each holder's factor in the value at another point."""
    factors = []
    for i in holders:
        above = below = 1
        for j in holders:
            if j != i:
                above, below = above * (at - j) % PRIME, below * (i - j) % PRIME
        factors.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(factors)


def _value(coefficients: list[int], x: int) -> int:
    """The polynomial at x, by Horner's rule; the constant comes last."""
    value = 0
    for coefficient in coefficients:
        value = (value * x + coefficient) % PRIME
    return value


def _uniform(random: Callable[[int], bytes]) -> int:
    """A uniform number modulo the prime."""
    while (drawn := int.from_bytes(random(SHARE_SIZE), "big") & PRIME) == PRIME:
        pass
    return drawn
