"""The noise that a run asks its partners for, from its parameters alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from shared.config import RunConfig
from shared.messages import Statistic
from shared.models.moments import POPULARITY_FADE
from shared.privacy.accounting.planning import NoisePlan, noise_for_part, noise_plan
from shared.privacy.release import Release, ReleaseKind

__all__ = ["fade_of", "noise_of", "planned_releases", "popularity_part", "statistics_noise"]

LEAST_PART, MOST_PART = 0.05, 0.9
"""Of the statistics' budget, what popularity gets."""
STEADY = 0.7
"""With a larger part than that, popularity is too faint for its drift to be heard."""
DROWNED = 100.0
"""Noise, in mean numbers of users that an item has, at which popularity would get all."""


def noise_of(config: RunConfig) -> NoisePlan:
    """Noise multipliers with which all that the run asks for costs at most its ε.

    Raises:
        AccountingError: no usable noise meets it.
    """
    if config.privacy.epsilon is None:
        return NoisePlan()
    return noise_plan(
        config.privacy.epsilon,
        config.privacy.delta,
        share=config.statistics_share,
        sample_rate=config.training.sample_rate,
        steps=config.noised_sums,
    )


def planned_releases(config: RunConfig) -> list[Release]:
    """What the run asks every site to release, in all; evaluations cost what steps cost.

    Statistics count as the one release that costs what they cost together.

    Raises:
        AccountingError: no usable noise meets the run's ε.
    """
    noise = noise_of(config)
    sums = (
        (ReleaseKind.STATISTICS, noise.statistics, 1.0, int(config.statistics_share > 0)),
        (ReleaseKind.TRAIN, noise.training, config.training.sample_rate, config.noised_sums),
    )
    return [
        Release(kind=kind, noise_multiplier=sigma, sample_rate=rate, steps=steps)
        for kind, sigma, rate, steps in sums
        if steps
    ]


def popularity_part(noise_multiplier: float, populations: Sequence[int], items: int) -> float:
    """What popularity gets of the statistics' budget; the moment gets the rest.

    √(noise on an item's popularity / mean users of an item / `DROWNED`): with few users for many
    items nothing of a moment is heard through the noise, and popularity is what can be; with many,
    popularity is clear at little cost. Public constants alone decide. The root was fitted on
    MovieLens validation events (docs/utility.md).

    Args:
        noise_multiplier: of all statistics as one release.
        populations: declared users of each organisation, each of which adds noise of its own.
        items: catalogue size V.

    Returns:
        In [`LEAST_PART`, `MOST_PART`].
    """
    noise = noise_multiplier * math.sqrt(len(populations))
    users = max(sum(populations), 1) / items
    return min(max(math.sqrt(noise / users / DROWNED), LEAST_PART), MOST_PART)


def fade_of(part: float) -> float:
    """How older events weigh in a popularity that gets this part of the budget."""
    return POPULARITY_FADE if part <= STEADY else 0.0


def statistics_noise(noise_multiplier: float, part: float) -> dict[Statistic, float]:
    """Noise multiplier of each statistic.

    Args:
        noise_multiplier: of all as one release; 0 without privacy.
        part: of the budget that popularity gets, in (0, 1).
    """
    return {
        Statistic.POPULARITY: noise_for_part(noise_multiplier, part),
        Statistic.MOMENT: noise_for_part(noise_multiplier, 1 - part),
    }
