"""Poisson sampling of users, as the accounting assumes it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.privacy.noise import RandomSource

__all__ = ["poisson_samples"]


def poisson_samples(
    users: int, *, sample_rate: float, steps: int, random: RandomSource
) -> Iterator[NDArray[np.int64]]:
    """Yield `steps` samples; each contains each user independently with chance `sample_rate`.

    An empty sample is yielded too. It must be noised and charged like any other: leaving it out
    would reveal that no user was drawn.

    Args:
        users: actual number of users at the site. It is private, and used for the draw only.
        sample_rate: a public constant in (0, 1], never derived from `users`. Uniform draws are
            multiples of 2^-53, so the chance is up to 2^-53 larger: a relative 1e-10 at 1e-6.
        steps: a public constant, >= 1.
        random: source of the uniform draws.

    Yields:
        Row numbers in 0..users-1, increasing.
    """
    for _ in range(steps):
        yield np.flatnonzero(random.uniform(users) < sample_rate)
