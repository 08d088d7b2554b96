"""How a run's ε is split between the noised statistics it begins with and the steps that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.privacy.accounting.accountant import noise_multiplier_for
from shared.privacy.release import Release, ReleaseKind

__all__ = ["NoisePlan", "noise_for_part", "noise_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePlan:
    """Noise multipliers, with which everything together costs at most the run's ε.

    Attributes:
        statistics: of one release that costs what all statistics cost together; 0 where none is
            asked for. See `noise_for_part`.
        training: of each step; 0 where none is taken.
    """

    statistics: float = 0.0
    training: float = 0.0


def noise_plan(
    epsilon: float, delta: float, *, share: float, sample_rate: float, steps: int
) -> NoisePlan:
    """The least noise for statistics of all users, then `steps` sums at `sample_rate`.

    Args:
        epsilon: what all may cost together, > 0.
        delta: in (0, 1).
        share: of ε, in [0, 1], that the statistics may cost by themselves; 0 asks for none. What
            is left to the steps is more than the rest: composition costs less than the sum.
        sample_rate: of a step, in (0, 1].
        steps: >= 0; 0 where the share is 1.

    Raises:
        AccountingError: no usable noise meets it.
    """
    statistics, spent = 0.0, []
    if share > 0:
        statistics = noise_multiplier_for(share * epsilon, delta, sample_rate=1.0, steps=1)
        spent = [
            Release(
                kind=ReleaseKind.STATISTICS,
                noise_multiplier=statistics,
                sample_rate=1.0,
                steps=1,
            )
        ]
    if not steps:
        return NoisePlan(statistics=statistics)
    training = noise_multiplier_for(
        epsilon, delta, sample_rate=sample_rate, steps=steps, spent=spent
    )
    return NoisePlan(statistics=statistics, training=training)


def noise_for_part(noise_multiplier: float, part: float) -> float:
    """Noise multiplier of one of several releases that together cost what a single one would.

    Gaussian releases of all users with multipliers σ_i are one of multiplier σ, where
    1 / σ² = Σ 1 / σ_i² (Dong, Roth & Su 2019, arXiv:1905.02383, corollary 3.3): exactly, however
    unequal they are.

    Args:
        noise_multiplier: σ, of the single one; 0 without privacy.
        part: of 1 / σ², in (0, 1]; those of all releases add up to 1.
    """
    return noise_multiplier / math.sqrt(part)
