"""What a partner allows: the [policy] table of site.toml."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

from shared.config import ModelKind
from shared.sections import (
    Choice,
    ListOf,
    NonNegativeInt,
    NonNegativeNumber,
    OptionalOf,
    PositiveInt,
    PositiveNumber,
    Require,
    ShareAboveZero,
    TextsOf,
    section,
)

__all__ = ["Ask", "Policy"]

LEAST_NOISE = 0.3
"""Noise multiplier that a site with a budget insists on, unless its file says otherwise."""


LONGEST_LATENCY = 3600.0
"""Seconds; a reply that is held back longer misses every deadline."""


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
        max_epsilon_if_all_collude: limit on the ε that would hold if all other organisations of a
            secure aggregation colluded with the coordinator, > 0; `inf`, the default, sets none.
        answers: which requests are answered at all. "evaluate" lets noised metrics leave, and
            keeps each user's last event out of training: see `client.compute.evaluation`.
        kinds: which kinds of model are trained and measured, see `shared.models.registry`.
        min_noise_multiplier: least noise over clip norm, >= 0; None, the default, is 0.3, or 0
            where `max_epsilon` is `inf`.
        max_sample_rate: largest chance of a user to be in a sum, in (0, 1].
        max_clip_norm: largest bound on one user's part of a sum, > 0.
        max_steps: most noised sums in one request, >= 1.
        max_noise_multiplier: largest noise over clip norm, > 0: an answer that says nothing takes
            room on the disk all the same.
        max_length: most events that a model may read of a history, >= 1.
        max_layers: most attention blocks, >= 1.
        max_heads: most attention heads, >= 1.
        max_width: largest hidden size and feature size, >= 1.
        max_own_items: most items with a direction of their own, >= 0.
        max_candidates: most items drawn for a user in a step, >= 0.
        max_weight: largest absolute value of a global weight, > 0.
        max_events: last events of a history that are read at all, >= 2, whatever is asked.
        max_memory_gb: most memory that an answer may take beside the data, by an estimate from
            public constants, > 0; the machine should have as much.
        max_answer_mb: largest answer, > 0.
        max_stored_mb: room for the bodies of answers, > 0. Where it is full, those of older runs
            are dropped; a request whose own run has no more room is refused.
        max_answers: most requests that are ever charged, >= 1.
        group_columns: columns of `data.users` by which a coordinator may have noised metrics of
            groups, and weigh groups in training; users are "other" in any other column.
        answer_seconds: how long after a request its reply leaves, >= 0; 0 sends it when it is
            ready, which tells how long the computation took.
    """

    max_epsilon: Annotated[float, Require(lambda epsilon: epsilon > 0, "choose a number above 0")]
    delta: float
    max_epsilon_if_all_collude: Annotated[
        float, Require(lambda epsilon: epsilon > 0, "choose a number above 0")
    ] = math.inf
    answers: ListOf[Choice[Ask]] = (Ask.DESCRIBE, Ask.STATISTICS, Ask.TRAIN)
    kinds: ListOf[Choice[ModelKind]] = (
        ModelKind.ATTENTION,
        ModelKind.LSTM,
        ModelKind.MODALITIES,
        ModelKind.TEXT,
    )
    min_noise_multiplier: OptionalOf[NonNegativeNumber] = None
    max_sample_rate: ShareAboveZero = 1.0
    max_clip_norm: PositiveNumber = 100.0
    max_steps: PositiveInt = 1000
    max_noise_multiplier: PositiveNumber = 10_000.0
    max_length: PositiveInt = 1000
    max_layers: PositiveInt = 12
    max_heads: PositiveInt = 64
    max_width: PositiveInt = 4096
    max_own_items: NonNegativeInt = 2000
    max_candidates: NonNegativeInt = 20_000
    max_weight: PositiveNumber = 10_000.0
    max_events: Annotated[int, Require(lambda n: n >= 2, "choose a whole number >= 2")] = 10_000
    max_memory_gb: PositiveNumber = 8.0
    max_answer_mb: PositiveNumber = 256.0
    max_stored_mb: PositiveNumber = 1000.0
    max_answers: PositiveInt = 100_000
    group_columns: TextsOf = ()
    answer_seconds: Annotated[
        float, Require(lambda s: 0 <= s <= LONGEST_LATENCY, "choose seconds from 0 to 3600")
    ] = 0.0

    @property
    def least_noise(self) -> float:
        """The least noise over clip norm that is accepted."""
        if self.min_noise_multiplier is not None:
            return self.min_noise_multiplier
        return 0.0 if self.max_epsilon == math.inf else LEAST_NOISE
