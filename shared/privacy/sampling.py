"""Poisson samples of users: the sampling that the accounting assumes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.privacy.noise import RandomSource

__all__ = ["poisson_samples"]


def poisson_samples(
    users: int, *, sample_rate: float, steps: int, random: RandomSource
) -> Iterator[NDArray[np.int64]]:
    """Exactly `steps` samples; each user is in each one with chance `sample_rate`, by itself.

    A sample may be empty, and is yielded all the same: it must be noised and charged like any
    other, or its absence would tell that nobody was drawn.

    Args:
        users: users that the site really holds; private, and only used to draw.
        sample_rate: a public constant in (0, 1]; never derived from `users`. Uniforms are
            multiples of 2^-53, so the chance is up to 2^-53 larger: a share of 1e-10 at 1e-6.
        steps: a public constant, >= 1.
        random: where the draws come from.

    Yields:
        Row numbers in 0..users-1, increasing.
    """
    for _ in range(steps):
        yield np.flatnonzero(random.uniform(users) < sample_rate)
