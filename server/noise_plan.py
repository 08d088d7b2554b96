"""The noise that a run asks its partners for, computed from its parameters and public constants.

A run's ε is split between the statistics of a warm start and the training steps that follow, and
the statistics' budget between popularity and moment. Under secure aggregation each partner is asked
for a share of the noise, and the claim rests on the shares of the honest ones that stay
(`shared.privacy.distributed_noise`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from shared.config import RunConfig
from shared.errors import ConfigError
from shared.groups import tables_of
from shared.messages import Statistic, evaluation_bound
from shared.models.moments import POPULARITY_FADE
from shared.privacy.accounting.accountant import epsilon, noise_multiplier_for
from shared.privacy.distributed_noise import MOST_ORGANISATIONS, share_for
from shared.privacy.release import Release, ReleaseKind

__all__ = [
    "MIN_SHARE",
    "NoisePlan",
    "about_groups",
    "check_masking",
    "most_own_items",
    "noise_for_share",
    "plan_noise",
    "planned_releases",
    "popularity_fade",
    "popularity_share",
    "relative_noise",
    "release_of",
    "split_epsilon",
    "statistics_noise",
    "statistics_part",
]

MIN_SHARE, MAX_SHARE = 0.05, 0.9
"""Bounds on popularity's share of the statistics' budget."""
MAX_SHARE_WITH_FADE = 0.7
"""Above this share of popularity the noise is too strong for its drift to be measured."""
NOISE_AT_FULL_SHARE = 100.0
"""Noise, in units of the mean number of users per item, at which popularity would get all."""
LITTLE_NOISE, MOST_TIMES = 0.8, 4.0
"""Noise, in the same units, below which more items get a direction of their own, and how many times
as many at most; fitted on MovieLens-1M validation events (docs/experiments/recipe.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePlan:
    """Noise multipliers of each partner, with which all releases of a run cost at most its ε.

    Attributes:
        statistics: of one release that costs as much as all statistics together; 0 if none is
            asked for. See `noise_for_share`.
        training: of each step; 0 if there is none.
        groups: of each measurement of groups; 0 if there is none.
    """

    statistics: float = 0.0
    training: float = 0.0
    groups: float = 0.0


def check_masking(config: RunConfig, *, simulated: bool) -> None:
    """Refuse secure aggregation without masks outside the lab, and of too many organisations.

    Args:
        config: the run's parameters.
        simulated: whether the organisations are the lab's.

    Raises:
        ConfigError: it is asked for.
    """
    privacy, organisations = config.privacy, config.server.organisations
    if privacy.secure and not privacy.masked and not simulated:
        raise ConfigError(
            f"privacy.trust = '{privacy.trust}' with privacy.masking = '{privacy.masking}': each "
            "answer would leave with a share of the noise alone. The lab simulates that; a real "
            "run takes privacy.masking = 'on'."
        )
    if privacy.masked and organisations > MOST_ORGANISATIONS:
        raise ConfigError(
            f"server.organisations = {organisations} with privacy.trust = '{privacy.trust}': the "
            f"sum of more than {MOST_ORGANISATIONS} answers may wrap. Choose fewer."
        )


def plan_noise(config: RunConfig) -> NoisePlan:
    """Return each partner's noise, with which all that the run asks for costs at most its ε.

    Raises:
        AccountingError: no usable noise multiplier meets it.
    """
    if config.privacy.epsilon is None:
        return NoisePlan()
    noise = split_epsilon(
        config.privacy.epsilon,
        config.privacy.delta,
        share=config.statistics_share,
        sample_rate=config.training.sample_rate,
        steps=config.noised_sums,
        measured=config.groups.share,
        measurements=config.measurements,
    )
    if not config.privacy.secure:
        return noise
    shares = config.privacy.honest_shares(config.server.organisations)
    return NoisePlan(
        statistics=share_for(noise.statistics, shares),
        training=share_for(noise.training, shares),
        groups=share_for(noise.groups, shares) if noise.groups else 0.0,
    )


def release_of(
    config: RunConfig, kind: ReleaseKind, noise_multiplier: float, sample_rate: float, steps: int
) -> Release:
    """Return what the claim counts, where each partner is asked for this noise.

    Args:
        config: the run's parameters.
        kind: purpose of the sums.
        noise_multiplier: that a request holds.
        sample_rate: in (0, 1].
        steps: how many sums, >= 1.
    """
    own = Release(
        kind=kind, noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps
    )
    if not config.privacy.secure:
        return own
    return own.with_shares(config.privacy.honest_shares(config.server.organisations))


@lru_cache(maxsize=256)
def split_epsilon(
    epsilon: float,
    delta: float,
    *,
    share: float,
    sample_rate: float,
    steps: int,
    measured: float = 0.0,
    measurements: int = 1,
) -> NoisePlan:
    """Return the least noise for statistics of all users, then `steps` sums at `sample_rate`.

    Args:
        epsilon: cost of everything together, > 0.
        delta: in (0, 1).
        share: of ε, in [0, 1], that the statistics may cost by themselves; 0 asks for none. The
            steps get more than the rest: composition costs less than the sum.
        sample_rate: of a step, in (0, 1].
        steps: >= 0; 0 if the share is 1.
        measured: share of 1 / σ² of one release at ε, in [0, 1), that measurements of groups of
            all users get; statistics get so much less of theirs. 0 measures nothing.
        measurements: how many divide that share, >= 1.

    Raises:
        AccountingError: no usable noise multiplier meets it.
    """
    statistics, groups, spent = 0.0, 0.0, []
    if measured > 0:
        of_all = noise_multiplier_for(epsilon, delta, sample_rate=1.0, steps=1)
        groups = noise_for_share(of_all, measured / measurements)
        spent += [_of_all_users(ReleaseKind.EVALUATE, groups, measurements)]
    if share > 0:
        alone = noise_multiplier_for(share * epsilon, delta, sample_rate=1.0, steps=1)
        statistics = noise_for_share(alone, 1 - measured)
        spent += [_of_all_users(ReleaseKind.STATISTICS, statistics)]
    if not steps:
        return NoisePlan(statistics=statistics, groups=groups)
    training = noise_multiplier_for(
        epsilon, delta, sample_rate=sample_rate, steps=steps, spent=spent
    )
    return NoisePlan(statistics=statistics, training=training, groups=groups)


def _of_all_users(kind: ReleaseKind, noise_multiplier: float, steps: int = 1) -> Release:
    return Release(kind=kind, noise_multiplier=noise_multiplier, sample_rate=1.0, steps=steps)


def about_groups(config: RunConfig) -> str:
    """Say what the measurement of groups asks for and costs, before it does; "" without one.

    Raises:
        AccountingError: no usable noise multiplier meets the run's ε.
    """
    share, tables = config.groups.share, tables_of(config.groups.tables)
    if not share:
        return ""
    times = config.measurements
    asked = release_of(config, ReleaseKind.EVALUATE, plan_noise(config).groups, 1.0, times)
    often = "once" if times == 1 else f"{times} times, the last after the last round"
    bound = evaluation_bound(len(tables))
    return (
        f"Groups: {sum(table.size for table in tables)} in {len(tables)} tables are measured "
        f"{often}, with {share:.0%} of the budget (by itself ε = "
        f"{epsilon([asked], config.privacy.delta):.2f}). A user changes the sums of one by "
        f"{bound:.3g} at most; each gets noise of {asked.noise_multiplier * bound:.1f} users."
    )


def planned_releases(config: RunConfig) -> list[Release]:
    """Return what the run asks every site to release in all.

    The statistics are one release that costs as much as they do together. An evaluation costs as
    much as a step and counts as one; the measurement of groups is a release of its own.

    Raises:
        AccountingError: no usable noise multiplier meets the run's ε.
    """
    noise = plan_noise(config)
    sums = (
        (ReleaseKind.STATISTICS, noise.statistics, 1.0, int(config.statistics_share > 0)),
        (ReleaseKind.TRAIN, noise.training, config.training.sample_rate, config.noised_sums),
        (ReleaseKind.EVALUATE, noise.groups, 1.0, config.measurements),
    )
    return [
        release_of(config, kind, sigma, rate, steps) for kind, sigma, rate, steps in sums if steps
    ]


def popularity_share(noise_multiplier: float, populations: Sequence[int], items: int) -> float:
    """Return popularity's share of the statistics' budget; the moment gets the rest.

    √(noise on an item's popularity / mean users per item / `NOISE_AT_FULL_SHARE`): with few users
    for many items the moment is lost in the noise and popularity may still be estimated; with many,
    popularity is accurate at little cost. It depends on public constants alone. The square root was
    fitted on MovieLens validation events (docs/experiments/recipe.md).

    Args:
        noise_multiplier: of all statistics as one release.
        populations: declared users of each organisation; each organisation adds its own noise.
        items: catalogue size V.

    Returns:
        In [`MIN_SHARE`, `MAX_SHARE`].
    """
    noise = relative_noise(noise_multiplier, len(populations), sum(populations), items)
    return min(max(math.sqrt(noise / NOISE_AT_FULL_SHARE), MIN_SHARE), MAX_SHARE)


def relative_noise(noise_multiplier: float, organisations: int, users: int, items: int) -> float:
    """Return the noise on an item's popularity over the mean number of users an item has.

    Args:
        noise_multiplier: σ of each organisation's noise, for all it releases as one release.
        organisations: K; each adds its own noise.
        users: N, of all organisations.
        items: catalogue size V.

    Returns:
        σ √K V / N, >= 0.
    """
    return noise_multiplier * math.sqrt(organisations) * items / max(users, 1)


def statistics_part(config: RunConfig) -> float:
    """Return the statistics' part of all that a run releases of all its users.

    By 1 / σ², as Gaussian releases add up. Sampled steps are left out, and so is a run whose
    statistics have no noise: 1.

    Raises:
        AccountingError: no usable noise multiplier meets the run's ε.
    """
    noise, sums = plan_noise(config), config.noised_sums
    if not noise.statistics or not sums or config.training.sample_rate < 1:
        return 1.0
    return 1 / (1 + sums * (noise.statistics / noise.training) ** 2)


def most_own_items(own_items: int, share: float | None, part: float = 1.0) -> int:
    """Return how many items at most get a direction of their own.

    A user's moment has length 1, however many directions it is spread over, and each of its numbers
    gets the same noise: more directions are worth it where there is little noise. Their number
    grows with the inverse square of the noise, from `LITTLE_NOISE` down.

    Args:
        own_items: the run's setting, >= 0.
        share: of the statistics' budget, that popularity gets: the root of the noise, see
            `popularity_share`. None where no statistic is asked for.
        part: `statistics_part`: rounds that follow learn the same directions, so that the noise of
            all releases together decides.

    >>> most_own_items(200, 0.5), most_own_items(200, 0.07), most_own_items(200, 0.05)
    (200, 533, 800)
    """
    if share is None:
        return own_items
    noise = NOISE_AT_FULL_SHARE * share**2 * math.sqrt(part)
    return round(own_items * min(max((LITTLE_NOISE / noise) ** 2, 1.0), MOST_TIMES))


def popularity_fade(share: float) -> float:
    """Return the exponent by which older events weigh less in popularity.

    Args:
        share: of the statistics' budget, that popularity gets.

    Returns:
        `fade` of `StatisticsRequest`: 0, all events alike, where noise would hide any drift.
    """
    return POPULARITY_FADE if share <= MAX_SHARE_WITH_FADE else 0.0


def statistics_noise(noise_multiplier: float, share: float) -> dict[Statistic, float]:
    """Return the noise multiplier of each statistic.

    Args:
        noise_multiplier: of all as one release; 0 without privacy.
        share: of the budget that popularity gets, in (0, 1).
    """
    return {
        Statistic.POPULARITY: noise_for_share(noise_multiplier, share),
        Statistic.MOMENT: noise_for_share(noise_multiplier, 1 - share),
    }


def noise_for_share(noise_multiplier: float, share: float) -> float:
    """Return the noise multiplier of one of several releases that cost as much as a single one.

    Gaussian releases of all users with multipliers σ_i are one of multiplier σ, where
    1 / σ² = Σ 1 / σ_i² (Dong, Roth & Su 2019, arXiv:1905.02383, corollary 3.3): exactly, however
    unequal they are.

    Args:
        noise_multiplier: σ of the single one; 0 without privacy.
        share: of 1 / σ², in (0, 1]; the shares of all releases add up to 1.

    >>> noise_for_share(1.0, 0.25)
    2.0
    """
    return noise_multiplier / math.sqrt(share)
