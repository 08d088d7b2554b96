"""Exact samples of the discrete Gaussian: integers z with chance proportional to exp(-z² / 2m²).

Algorithm D of Karney 2016 (arXiv:1303.6257), for whole m, on arrays. With z = ± (k m + j) and
0 <= j < m, the exponent is k²/2 + x (2k + x) / 2, where x = j / m: k is drawn from a table, sign
and j uniformly, and the draw is kept with chance exp(-x (2k + x) / 2), but never as -0.

Exactness. Every comparison of a uniform number with a threshold is made in 64 bits where these
decide it, and otherwise in 192 bits against the threshold in decimal arithmetic of 80 digits
(for the table one draw in 2^60 needs that, for the second comparison one in 2^43). So a sample's
distribution is off by less than 2^-180 in total variation, its tail beyond 17 m included: a million
releases of 2^28 numbers each add less than (1 + e^ε) 2^-130 to δ. No floating-point rounding enters
beside that. Not claimed: that the time taken says nothing.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from shared.privacy.noise import RandomSource

__all__ = ["FARTHEST", "LARGEST_DEVIATION", "discrete_gaussian"]

FARTHEST = 17
"""No sample is as far from 0 as this many m."""
LARGEST_DEVIATION = 2**51
"""Largest m: below 2^53, floating point divides by it with an error of 2^-53."""

_AT_ONCE = 2**15
"""Draws made at a time: what a processor's caches hold."""
_LONG, _SHORT = 192, 64
_DIGITS = 80
_MARGIN = 2.0**-44
"""More than the error of a chance of acceptance in floating point, and of a word as a float."""

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]


def discrete_gaussian(count: int, deviation: int, random: RandomSource) -> Integers:
    """Draw `count` independent integers z with chance proportional to exp(-z² / 2 `deviation`²).

    Args:
        count: >= 0.
        deviation: m, in 1..`LARGEST_DEVIATION`; the standard deviation, for all but the smallest m.
        random: where the bits come from.

    Raises:
        ValueError: the deviation is out of range.
    """
    if not 1 <= deviation <= LARGEST_DEVIATION:
        raise ValueError(f"the deviation must be in 1..2^51, not {deviation}")
    result, done = np.empty(count, np.int64), 0
    while done < count:
        # Half of the draws or more are kept for most m, a third at the worst.
        draws = min(_AT_ONCE, int(1.6 * (count - done)) + 16)
        kept = _accepted(draws, deviation, random)[: count - done]
        result[done : done + len(kept)] = kept
        done += len(kept)
    return result


def _accepted(draws: int, deviation: int, random: RandomSource) -> Integers:
    """Return the draws that are kept, out of `draws`."""
    words = random.words(3 * draws).reshape(3, draws)
    k = _blocks(words[0], random)
    # The top bit is the sign; the low bits are j, where they are less than m.
    negative = words[1] >> np.uint64(63) == 1
    j = (words[1] & np.uint64((1 << (deviation - 1).bit_length()) - 1)).astype(np.int64)
    possible = (j < deviation) & ~(negative & (k == 0) & (j == 0))
    k, j, negative, word = (values[possible] for values in (k, j, negative, words[2]))
    x = j / deviation
    chance, uniform = np.exp(-0.5 * x * (2 * k + x)), word * 2.0**-_SHORT
    keep = uniform < chance
    for row in np.flatnonzero(np.abs(uniform - chance) < _MARGIN).tolist():
        keep[row] = _is_kept(int(word[row]), int(k[row]), int(j[row]), deviation, random)
    sizes = k[keep] * deviation + j[keep]
    return np.asarray(np.where(negative[keep], -sizes, sizes), np.int64)


def _is_kept(word: int, k: int, j: int, deviation: int, random: RandomSource) -> bool:
    """Compare a uniform number that begins with `word` with the chance of acceptance."""
    with localcontext(prec=_DIGITS):
        exponent = Decimal(j * (2 * k * deviation + j)) / Decimal(2 * deviation * deviation)
        threshold = int((-exponent).exp() * 2**_LONG)
    return _lengthened(word, random) < threshold


def _blocks(words: Words, random: RandomSource) -> Integers:
    """Return k of each word: with chance proportional to exp(-k²/2), below `FARTHEST`."""
    k = np.searchsorted(_TABLE_SHORT, words, side="right").astype(np.int64)
    # A word that equals the first 64 bits of a threshold decides nothing.
    for row in np.flatnonzero(np.isin(words, _TABLE_SHORT)).tolist():
        uniform = _lengthened(int(words[row]), random)
        k[row] = sum(uniform >= threshold for threshold in _TABLE)
    return k


def _lengthened(word: int, random: RandomSource) -> int:
    """Return a uniform integer of 192 bits whose first 64 are given."""
    high, low = (int(more) for more in random.words(2))
    return (word << (_LONG - _SHORT)) | (high << _SHORT) | low


def _table() -> list[int]:
    """Return the cumulative chances of k = 0, 1, ..., `FARTHEST` - 2, in units of 2^-192."""
    with localcontext(prec=_DIGITS):
        chances = [(-Decimal(k * k) / 2).exp() for k in range(FARTHEST)]
        total = sum(chances)
        return [math.floor(sum(chances[: k + 1]) / total * 2**_LONG) for k in range(FARTHEST - 1)]


_TABLE = _table()
_TABLE_SHORT = np.array([threshold >> (_LONG - _SHORT) for threshold in _TABLE], np.uint64)
