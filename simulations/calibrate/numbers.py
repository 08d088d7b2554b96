"""Predict a run's noise-to-signal ratios and the rounds that fit a budget, without any data.

A noised sum of d numbers over N users, each of norm at most C and sampled with probability q, has
an expected norm of at most q N C (if all users' contributions point in one direction). Its noise
has a standard deviation of σ C on every number, and a norm of about σ C √d. For K organisations
that each add their own noise, the ratio of noise to signal is σ √(d K) / Σ q N; for one trusted
party that adds noise once, it is σ √d / Σ q N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from server.noise_plan import (
    most_own_items,
    plan_noise,
    popularity_share,
    statistics_noise,
    statistics_part,
)
from server.training_plan import about_rounds, with_plan
from shared.config import RunConfig
from shared.errors import AccountingError, ConfigError
from shared.messages import Statistic
from shared.models.attention import trainable
from shared.models.moments import STATISTIC_CLIP_NORM
from shared.models.registry import bare
from shared.models.shapes import shapes_alone
from shared.privacy.accounting.accountant import noise_multiplier_for, rounds_for
from shared.privacy.release import Release, ReleaseKind
from simulations.datasets.load import EMBEDDED, load_items
from simulations.experiment.config import SimulationConfig

__all__ = [
    "MOMENT",
    "STEP",
    "Calibration",
    "Fit",
    "NoisedSum",
    "calibrate",
    "fits",
    "items_of",
    "trained_numbers",
]

STEP, MOMENT = "step", "moment"
"""Names of the sum of clipped gradients, and of the warm start's moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisedSum:
    """One noised sum that every organisation releases.

    Attributes:
        name: what is summed.
        times: how often it is released.
        noise_multiplier: σ.
        clip_norm: C, the largest norm of one user's contribution.
        sample_rate: q.
        numbers: d, the length of the sum.
        populations: users of each organisation.
    """

    name: str
    times: int
    noise_multiplier: float
    clip_norm: float
    sample_rate: float
    numbers: int
    populations: tuple[int, ...]

    @property
    def per_number(self) -> float:
        """Return the standard deviation of the noise on each number, σ C."""
        return self.noise_multiplier * self.clip_norm

    @property
    def noise_norm(self) -> float:
        """Return the root mean square norm of one organisation's noise, σ C √d."""
        return self.per_number * math.sqrt(self.numbers)

    @property
    def signal(self) -> tuple[float, float]:
        """Return the largest expected norm q N C, at the smallest and the largest organisation."""
        longest = self.sample_rate * self.clip_norm
        return longest * min(self.populations), longest * max(self.populations)

    @property
    def single(self) -> tuple[float, float]:
        """Return noise over signal at the smallest and the largest organisation by itself."""
        smallest, largest = self.signal
        return self.noise_norm / smallest, self.noise_norm / largest

    @property
    def together(self) -> float:
        """Return noise over signal of all organisations, each with its own noise."""
        return self.central * math.sqrt(len(self.populations))

    @property
    def central(self) -> float:
        """Return noise over signal of one trusted party that has all users and adds noise once."""
        users = self.sample_rate * sum(self.populations)
        return self.noise_norm / (users * self.clip_norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The noised sums of a run at one ε.

    Attributes:
        epsilon: of every organisation's users.
        delta: of the claim.
        sums: in the order of their release.
        features: of every item, that transitions are learned by; 0 without statistics.
        own_items: items at most that have a direction of their own beside these.
        plan: what was chosen for the rounds, in a sentence; "" where nothing is said of them.
    """

    epsilon: float
    delta: float
    sums: tuple[NoisedSum, ...]
    features: int = 0
    own_items: int = 0
    plan: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The number of rounds that fit a budget at one noise multiplier, after the statistics.

    Attributes:
        epsilon: of all releases together.
        noise_multiplier: of a training step.
        rounds: >= 0.
        more: whether more rounds may fit: the search stops at a million steps.
    """

    epsilon: float
    noise_multiplier: float
    rounds: int
    more: bool


def calibrate(
    config: SimulationConfig, populations: tuple[int, ...], items: int, numbers: int | None = None
) -> Calibration:
    """Return the noised sums of a run.

    Args:
        config: of the run; private.
        populations: users of each organisation, >= 1 each.
        items: catalogue size V.
        numbers: trained parameters; None takes those of the recommender.

    Raises:
        ConfigError: the run is not private, a number is out of range, or δ is too large for the
            populations.
        AccountingError: no usable noise meets ε.
    """
    _check(config, populations, items, numbers)
    run = with_plan(config.planned, sum(populations), items)
    if run.privacy.epsilon is None:
        raise ConfigError("privacy.epsilon = none: without privacy there is no noise. State an ε.")
    noise, sums, own_items = plan_noise(run), [], 0
    if run.statistics_share:
        part = popularity_share(noise.statistics, populations, items)
        each = statistics_noise(noise.statistics, part)
        popularity = NoisedSum(
            name="popularity",
            times=1,
            noise_multiplier=each[Statistic.POPULARITY],
            clip_norm=STATISTIC_CLIP_NORM,
            sample_rate=1.0,
            numbers=items,
            populations=populations,
        )
        own_items = min(most_own_items(run.warm_start.own_items, part, statistics_part(run)), items)
        width = run.model.feature_size + own_items
        moment = replace(
            popularity,
            name=MOMENT,
            noise_multiplier=each[Statistic.MOMENT],
            numbers=width**2,
        )
        sums = [popularity, moment]
    if run.noised_sums:
        step = NoisedSum(
            name=STEP,
            times=run.noised_sums,
            noise_multiplier=noise.training,
            clip_norm=run.training.clip_norm,
            sample_rate=run.training.sample_rate,
            numbers=numbers or trained_numbers(run, items, own_items),
            populations=populations,
        )
        sums.append(step)
    return Calibration(
        epsilon=run.privacy.epsilon,
        delta=run.privacy.delta,
        sums=tuple(sums),
        features=run.model.feature_size if run.statistics_share else 0,
        own_items=own_items,
        plan=about_rounds(run, sum(populations), items),
    )


def _check(
    config: SimulationConfig, populations: tuple[int, ...], items: int, numbers: int | None
) -> None:
    if not populations or min(populations) < 1:
        raise ConfigError(f"--population {populations}: give numbers of users, each 1 or more.")
    for option, value in (("--items", items), ("--dimension", numbers)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} {value}: choose a whole number >= 1.")
    if config.privacy.delta >= 1 / max(populations):
        raise ConfigError(
            f"privacy.delta = {config.privacy.delta:g} is not below 1 / {max(populations)}, an "
            "organisation's users: at such a δ a mechanism may publish a user outright."
        )


def trained_numbers(run: RunConfig, items: int, own_items: int) -> int:
    """Return the number of parameters that training changes.

    Args:
        run: the run's parameters.
        items: catalogue size V.
        own_items: how many of them have a direction of their own.
    """
    model = replace(run.model, own_items=tuple(range(1, own_items + 1)))
    with shapes_alone():
        made = bare(model, items)
    return sum(parameter.numel() for parameter in trainable(made).values())


def items_of(config: SimulationConfig) -> int:
    """Return the catalogue's size, from the public list of items.

    Raises:
        DataError: the folder has no list of items.
    """
    lab = config.lab
    return len(load_items(Path(lab.data) if lab.data else EMBEDDED, lab.item_columns))


def fits(config: SimulationConfig, noises: Sequence[float]) -> list[Fit]:
    """Return how many rounds fit the run's ε at each noise multiplier.

    Raises:
        ConfigError: the run is not private, or a noise multiplier is not above 0.
        AccountingError: no usable noise meets the statistics' share.
    """
    privacy, training = config.privacy, config.training
    if privacy.epsilon is None:
        raise ConfigError("privacy.epsilon = none: without privacy there is no noise. State an ε.")
    spent, fitting = _statistics(config), []
    for noise in noises:
        if not 0 < noise < math.inf:
            raise ConfigError(f"--noise-multipliers {noise}: give numbers above 0.")
        like = Release(
            kind=ReleaseKind.TRAIN,
            noise_multiplier=noise,
            sample_rate=training.sample_rate,
            steps=training.local_steps,
        )
        rounds, more = rounds_for(privacy.epsilon, privacy.delta, like, spent)
        fitting.append(
            Fit(epsilon=privacy.epsilon, noise_multiplier=noise, rounds=rounds, more=more)
        )
    return fitting


def _statistics(config: SimulationConfig) -> list[Release]:
    """Return the warm start's release, as it is before training."""
    share, privacy = config.warm_start.share, config.privacy
    if not share or privacy.epsilon is None:
        return []
    try:
        noise = noise_multiplier_for(
            share * privacy.epsilon, privacy.delta, sample_rate=1.0, steps=1
        )
    except AccountingError as error:
        raise AccountingError(f"warm_start.share = {share:g}: {error}") from error
    return [
        Release(
            kind=ReleaseKind.STATISTICS,
            noise_multiplier=noise,
            sample_rate=1.0,
            steps=1,
        )
    ]
