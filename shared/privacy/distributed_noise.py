"""One noise for the sum of several organisations: each adds a share, on one grid of integers.

Under secure aggregation only the sum over organisations is seen, modulo 2^64. Of n organisations up
to d may drop out and c may collude with the coordinator and subtract what they added. Then h = n -
d - c shares of noise remain, and these alone must be what is promised.

Mechanism. The grid's step is g = C / 2^30 for clip norm C. An organisation with sum S and share σ
(noise over clip norm) sends the integers round(S / g) + Y. Each number of Y is discrete Gaussian
with deviation m = ⌈2^30 σ⌉, sampled exactly (`shared.privacy.noise_share`).

Theorem. What the sum of h shares reveals is within a factor e^±τ of what follows from a sum with
continuous Gaussian noise of deviation √(h m² - r²) steps, r = 5, by a rounding that knows neither
data nor noise. So (ε, δ) of that Gaussian, with sampling of users and in any composition, gives
(ε + 2τ, e^τ δ) of the sum. In two steps, both by Poisson summation, η(s) = 2 exp(-2π²s²) / (1 -
exp(-2π²s²)) and with one number at a time:

1. The sum of h shares is within τ₁ = 10 Σ_{k<h} exp(-2π² m² k / (k+1)) of one discrete Gaussian
   with deviation √h m (Kairouz, Liu & Steinke 2021, arXiv:2102.06387, on sums of discrete
   Gaussians).
2. Let x be an integer, y = x + N(0, s²), and z an integer with chance proportional to
   exp(-(z - y)² / 2r²). The sum over z of these is r√(2π) times a factor within 1 ± η(r), whatever
   y is. So z - x has, to within τ₂ = 3 η(r), the chances of a discrete Gaussian with deviation
   √(s² + r²) (Peikert 2010, doi:10.1007/978-3-642-14623-7_5, theorem 3.1).

`closeness` bounds τ: below 1e-210 a number, so that 10^6 releases of 2^28 numbers add less than
1e-190 to ε. Nothing is left of the usual corrections of a coarse grid, and the bound holds for the
privacy loss itself: the Gaussian's numerical composition applies, not only its Rényi divergence.

Sensitivity. A user moves S by at most C. Rounding S moves each number by at most 1/2 with the
user and without: √d steps for d numbers in all. Floating point moves the difference by less than
2^-50 of the length of S / g, which N users limit to 2^30 N steps. With d <= 2^28 and N <= 2^33 both
together are below 2^-15.4 of C, and r takes less than 2^-36 of the noise: `sum_noise` takes 2^-15
off it.

No wrap. An organisation clamps its numbers to ±2^54, which moves no two sums apart, and its noise
is within 17 m < 2^54.1. So the sum of 128 organisations stays within ±2^63, always: the integers
modulo 2^64 tell it exactly. Were it otherwise, it would cost no privacy: reduction modulo 2^64 uses
no data.
"""

from __future__ import annotations

import math

__all__ = [
    "GRID_BITS",
    "LARGEST_POINT",
    "LARGEST_SHARE",
    "MOST_NUMBERS",
    "MOST_ORGANISATIONS",
    "SMALLEST_SHARE",
    "closeness",
    "share_deviation",
    "share_for",
    "sum_noise",
]

GRID_BITS = 30
"""The grid's step is this many binary places below the clip norm."""
MOST_NUMBERS = 2**28
"""Numbers of one sum."""
MOST_ORGANISATIONS = 128
"""Organisations whose sums can be added without a wrap."""
SMALLEST_SHARE, LARGEST_SHARE = 2.0**-10, 2.0**20
"""Noise multiplier of one organisation's share."""
LARGEST_POINT = 2.0**54
"""Bound, in steps of the grid, to which an organisation clamps its sum."""
_KERNEL_WIDTH = 5.0
_LOSS = 2.0**-15
"""Share of the noise that rounding of sum and noise may take."""


def share_deviation(share: float) -> int:
    """Return the deviation m of one organisation's noise, in steps of the grid.

    Args:
        share: its noise over the clip norm, in [`SMALLEST_SHARE`, `LARGEST_SHARE`].

    Raises:
        ValueError: the share is out of range.
    """
    if not SMALLEST_SHARE <= share <= LARGEST_SHARE:
        raise ValueError(
            f"a share of the noise of {share:g} clip norms is not in "
            f"[{SMALLEST_SHARE:g}, {LARGEST_SHARE:g}]"
        )
    return math.ceil(math.ldexp(share, GRID_BITS))


def sum_noise(share: float, organisations: int) -> float:
    """Return the noise multiplier of the Gaussian that bounds what a sum reveals.

    Args:
        share: noise over clip norm of each organisation.
        organisations: h, whose shares count; 1 tells what one organisation's numbers alone reveal.

    >>> sum_noise(1.0, 4)
    1.99993896484375
    """
    return share * math.sqrt(organisations) * (1 - _LOSS)


def share_for(noise_multiplier: float, organisations: int) -> float:
    """Return each organisation's share, with which the sum of `organisations` has this noise.

    The inverse of `sum_noise`.
    """
    return noise_multiplier / (math.sqrt(organisations) * (1 - _LOSS))


def closeness(share: float, organisations: int, *, numbers: int = 1, sums: int = 1) -> float:
    """Return a bound on τ of the theorem, for so many sums of so many numbers each.

    >>> closeness(SMALLEST_SHARE, 100, numbers=MOST_NUMBERS, sums=10**6) < 1e-190
    True
    """
    at = _sum_closeness(share_deviation(share), organisations) + _kernel_closeness(_KERNEL_WIDTH)
    return at * numbers * sums


def _sum_closeness(deviation: float, organisations: int) -> float:
    """Bound τ₁, of a sum of discrete Gaussians from one; the deviation is at least 1/2."""
    rate = 2 * math.pi**2 * deviation**2
    return 10 * sum(math.exp(-rate * k / (k + 1)) for k in range(1, organisations))


def _kernel_closeness(width: float) -> float:
    """Bound τ₂, of a rounded Gaussian from a discrete one; the width is at least 1/2."""
    smallest = math.exp(-2 * math.pi**2 * width**2)
    return 3 * 2 * smallest / (1 - smallest)
