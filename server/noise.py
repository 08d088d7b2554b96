"""The noise that a run asks its partners for, from its parameters alone."""

from __future__ import annotations

from shared.config import RunConfig
from shared.privacy.planning import NoisePlan, noise_plan

__all__ = ["noise_of"]


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
