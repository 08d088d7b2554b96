"""What a partner allows: the [policy] table of site.toml."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

from shared.sections import (
    Choice,
    ListOf,
    NonNegativeNumber,
    OptionalOf,
    PositiveInt,
    PositiveNumber,
    Require,
    ShareAboveZero,
    section,
)

__all__ = ["Ask", "Policy"]

LEAST_NOISE = 0.3
"""Noise multiplier that a site with a budget insists on, unless its file says otherwise."""


class Ask(StrEnum):
    """What a coordinator may ask of a site."""

    DESCRIBE = "describe"
    TRAIN = "train"
    STATISTICS = "statistics"
    EVALUATE = "evaluate"


@section("policy")
class Policy:
    """What the partner allows, whatever a coordinator asks. Every limit holds for each request.

    Attributes:
        max_epsilon: ε that its users may spend in all, > 0; `inf` allows training without
            privacy, for public data.
        delta: the δ that goes with it, in (0, 1) and below 1 / population, which `Site` checks.
        answers: which requests are answered at all. "evaluate" lets noised metrics leave, and
            keeps each user's last event out of training: see `client.compute.evaluation`.
        min_noise_multiplier: least noise over clip norm, >= 0; None, the default, is 0.3, or 0
            where `max_epsilon` is `inf`.
        max_sample_rate: largest chance of a user to be in a sum, in (0, 1].
        max_clip_norm: largest bound on one user's part of a sum, > 0.
        max_steps: most noised sums in one request, >= 1.
    """

    max_epsilon: Annotated[float, Require(lambda epsilon: epsilon > 0, "choose a number above 0")]
    delta: float
    answers: ListOf[Choice[Ask]] = (Ask.DESCRIBE, Ask.STATISTICS, Ask.TRAIN)
    min_noise_multiplier: OptionalOf[NonNegativeNumber] = None
    max_sample_rate: ShareAboveZero = 1.0
    max_clip_norm: PositiveNumber = 100.0
    max_steps: PositiveInt = 1000

    @property
    def least_noise(self) -> float:
        """The least noise over clip norm that is accepted."""
        if self.min_noise_multiplier is not None:
            return self.min_noise_multiplier
        return 0.0 if self.max_epsilon == math.inf else LEAST_NOISE
