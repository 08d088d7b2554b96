"""The noise that a run asks its partners for, from its parameters alone."""

from __future__ import annotations

from shared.config import RunConfig
from shared.privacy.planning import STATISTICS_ASKED, NoisePlan, noise_plan
from shared.privacy.release import Release, ReleaseKind

__all__ = ["noise_of", "planned_releases"]


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

    Raises:
        AccountingError: no usable noise meets the run's ε.
    """
    noise = noise_of(config)
    sums = (
        (
            ReleaseKind.STATISTICS,
            noise.statistics,
            1.0,
            STATISTICS_ASKED * (config.statistics_share > 0),
        ),
        (ReleaseKind.TRAIN, noise.training, config.training.sample_rate, config.noised_sums),
    )
    return [
        Release(kind=kind, noise_multiplier=sigma, sample_rate=rate, steps=steps)
        for kind, sigma, rate, steps in sums
        if steps
    ]
