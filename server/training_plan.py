"""The plan of a run's rounds: how many, how long each step is, and what the statistics keep of ε.

All of it follows from public constants: ε, δ, trust, organisations, declared users and items. They
enter as one number, ν: the noise on an item's popularity, if all of ε went into it, over the mean
number of users an item has (`server.noise_plan.relative_noise`). ν is 0 without privacy, .4 on
MovieLens-1M with secure aggregation at ε = 8, 1 with local noise, and 19 on the embedded data.

A step moves the weights by the learning rate times the mean clipped gradient, whose length is a
public constant, and adds noise in proportion to ν. Both grow with the sum L of all learning rates.
The loss falls by a multiple of L and rises by a multiple of (ν L)², so that the best L falls as
1 / ν²; as 1 / ν where what there is to learn is used up before. Gradient steps of one unit diverge
above `MOST_RATE`, and above V / 2 D where more than V / 2 numbers D describe an item: a step moves
all scores by the same numbers, and few items share the chances. Without noise nothing is clipped,
and each site goes through its users by Adam.
The constants were chosen on MovieLens-1M validation events (docs/experiments/recipe.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from server.noise_plan import MIN_SHARE, most_own_items, relative_noise
from shared.config import (
    Decay,
    ModelKind,
    Optimiser,
    RunConfig,
    StrategyName,
    TrainingConfig,
    WarmStartConfig,
    Weighting,
)
from shared.errors import ConfigError
from shared.privacy.accounting.accountant import noise_multiplier_for
from shared.privacy.distributed_noise import share_for

__all__ = ["DROWNED", "TrainingPlan", "about_rounds", "plan_of", "plan_training", "with_plan"]

FEWEST_ROUNDS, MOST_ROUNDS = 2, 4
MOST_RATE = 1.0
"""Learning rate of a round above which gradient steps overshoot."""
LENGTH_AT_UNIT_NOISE = 0.45
"""Best sum of all rounds' learning rates at ν = 1; below it falls as 1 / ν, above as 1 / ν²."""
STATISTICS, STATISTICS_WHERE_DROWNED = 0.82, 0.97
"""Shares of ε that the statistics keep: where rounds pay, and where noise drowns them."""
EXACT_ROUNDS, RATE_OF_ADAM = 4, 2e-4
"""Rounds without noise, and the first one's learning rate: more, or a constant rate, overfit."""
SAMPLE_RATE, LOCAL_STEPS = 0.1, 10
"""Users in a step and steps in a round without noise: each site goes through its users once."""
DROWNED = 1.5
"""ν above which rounds are not expected to learn anything."""
PAYS = 0.6
"""ν below which rounds pay."""
OVER_USE_ROUNDS, OVER_USE_EXACT_ROUNDS, OVER_USE_RATE = 60, 80, 0.1
"""Rounds of a model of over-use with noise and without, and the rate of the server's Adam."""
ITEMS_A_NUMBER = 2.0
"""Items for each number that describes one, below which steps are shorter."""
TOO_LONG = 4
"""Times the best sum of learning rates above which rounds chosen by hand are warned of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What the plan chose.

    Attributes:
        noise: ν, >= 0.
        share: of ε, that the statistics keep, in (0, 1).
        rounds: >= 1.
        learning_rate: of the first round, > 0; constant with noise, falling without.
    """

    noise: float
    share: float
    rounds: int
    learning_rate: float

    @property
    def training(self) -> Mapping[str, Any]:
        """The settings of a round, by their names in `TrainingConfig`."""
        chosen: dict[str, Any] = {"rounds": self.rounds, "learning_rate": self.learning_rate}
        if self.noise:
            return chosen
        steps = {"local_steps": LOCAL_STEPS, "sample_rate": SAMPLE_RATE}
        return chosen | steps | {"optimiser": Optimiser.ADAM, "decay": Decay.LINEAR}

    @property
    def drowned(self) -> bool:
        """Whether noise drowns what the rounds could learn."""
        return self.noise > DROWNED

    def __str__(self) -> str:
        """Say it in a sentence."""
        rounds = f"{self.rounds} rounds at learning rate {self.learning_rate:.2g}"
        if not self.noise:
            return f"The plan: {rounds}, each through all users by Adam, since there is no noise."
        what = "they are expected to learn more than they cost"
        if self.noise > PAYS:
            what = "they are expected to learn about what they cost"
        if self.drowned:
            what = "the noise drowns what they could learn, so that they are kept short"
        return f"The plan: {rounds}, after statistics with {self.share:.0%} of ε; {what}."


def about_rounds(config: RunConfig, users: int, items: int) -> str:
    """Say what is to be expected of a run's rounds; "" where nothing is known of them.

    Args:
        config: the run's parameters, after `with_plan`.
        users: of all organisations, as they declare them; 0 is not known.
        items: catalogue size V.
    """
    if plan := plan_of(config, users, items):
        return str(plan)
    training = config.training
    if not config.warm_start.share or not users or not training.rounds or not _plain(training):
        return ""
    organisations = config.server.organisations
    noise = relative_noise(_sigma(config), organisations, users, items)
    rates = (training.in_round(n + 1).learning_rate for n in range(training.number_of_rounds))
    length, best = sum(rates), _best_length(noise, _most_rate(items, _width(config, items)))
    if length <= TOO_LONG * best:
        return ""
    return (
        f"Rounds: {training.rounds} at learning rate {training.learning_rate:.2g} are "
        f"{length / best:,.0f} times as long as the noise allows. Expect a model that is worse "
        "than without them, and may be worse than the most popular items: training.rounds = 'plan' "
        "chooses steps that fit."
    )


def plan_training(
    noise_multiplier: float, organisations: int, users: int, items: int, width: int = 0
) -> TrainingPlan:
    """Return the plan for a run's public constants.

    Args:
        noise_multiplier: σ of each organisation's noise, for all it releases as one release; 0
            without privacy.
        organisations: >= 1.
        users: of all of them, >= 1.
        items: catalogue size V.
        width: numbers D that describe an item, at most; 0 is not known.

    >>> plan_training(0.0, 8, 6040, 3883)
    TrainingPlan(noise=0.0, share=0.82, rounds=4, learning_rate=0.0002)
    """
    noise = relative_noise(noise_multiplier, organisations, users, items)
    if not noise:
        return TrainingPlan(
            noise=0.0, share=STATISTICS, rounds=EXACT_ROUNDS, learning_rate=RATE_OF_ADAM
        )
    most = _most_rate(items, width)
    length = _best_length(noise, most)
    rounds = min(max(math.ceil(length / most), FEWEST_ROUNDS), MOST_ROUNDS)
    # Between the two bounds the share moves with the noise's logarithm.
    drowned = math.log(max(noise, PAYS) / PAYS) / math.log(DROWNED / PAYS)
    share = STATISTICS + (STATISTICS_WHERE_DROWNED - STATISTICS) * min(drowned, 1.0)
    return TrainingPlan(noise=noise, share=share, rounds=rounds, learning_rate=length / rounds)


def plan_of(config: RunConfig, users: int, items: int) -> TrainingPlan | None:
    """Return the plan for a run; None if its rounds are chosen by hand.

    Args:
        config: the run's parameters, before or after `with_plan`.
        users: of all organisations, as they declare them; 0 is not known.
        items: catalogue size V.

    Raises:
        AccountingError: no usable noise multiplier meets ε.
    """
    if not config.warm_start.share or not users:
        return None
    organisations, width = config.server.organisations, _width(config, items)
    plan = plan_training(_sigma(config), organisations, users, items, width)
    return plan if config.training.planned or _chosen(plan, config) == config else None


def with_plan(config: RunConfig, users: int, items: int) -> RunConfig:
    """Return the run's parameters with what the plan chooses, if it is to.

    Args:
        config: the run's parameters.
        users: of all organisations, as they declare them; 0 is not known.
        items: catalogue size V.

    Raises:
        ConfigError: the plan is to choose, and the users are not known, or a setting does not go
            with it.
        AccountingError: no usable noise multiplier meets ε.
    """
    if not config.training.planned:
        return config
    if config.model.kind is ModelKind.OVER_USE:
        return _plan_over_use(config)
    _check(config, users)
    plan = plan_of(config, users, items)
    assert plan is not None
    return _chosen(plan, config)


def _plan_over_use(config: RunConfig) -> RunConfig:
    """Return the parameters of a run that trains the model of over-use: none of them is of items.

    Rounds and rate were chosen on invented users (docs/over-use.md), with a mean over the last
    rounds' weights; a local rate that falls to 0 takes its place.
    """
    rounds = OVER_USE_ROUNDS if config.privacy.private else OVER_USE_EXACT_ROUNDS
    server = replace(
        config.server,
        strategy=StrategyName.FEDADAM,
        learning_rate=OVER_USE_RATE,
        weighting=Weighting.POPULATION,
    )
    return replace(
        config,
        training=replace(config.training, rounds=rounds, decay=Decay.LINEAR),
        warm_start=replace(config.warm_start, share=0.0),
        server=server,
    )


def _sigma(config: RunConfig) -> float:
    """Return σ of each organisation's noise, if it released all of ε at once; 0 without privacy."""
    privacy = config.privacy
    if privacy.epsilon is None:
        return 0.0
    sigma = noise_multiplier_for(privacy.epsilon, privacy.delta, sample_rate=1.0, steps=1)
    if privacy.secure:
        return share_for(sigma, privacy.honest_shares(config.server.organisations))
    return sigma


def _most_rate(items: int, width: int) -> float:
    """Return the learning rate of a round above which gradient steps overshoot."""
    return min(MOST_RATE, items / (ITEMS_A_NUMBER * width)) if width else MOST_RATE


def _width(config: RunConfig, items: int) -> int:
    """Return how many numbers describe an item, at most."""
    own = min(items, most_own_items(config.warm_start.own_items, MIN_SHARE))
    described = config.model.feature_size * config.model.items.uses_features + own
    return config.model.hidden_size or described


def _best_length(noise: float, most_rate: float) -> float:
    """Return the best sum of all rounds' learning rates at a noise ν."""
    longest = MOST_ROUNDS * most_rate
    return min(LENGTH_AT_UNIT_NOISE / (noise * max(noise, 1.0)), longest) if noise else math.inf


def _plain(training: TrainingConfig) -> bool:
    """Return whether a round is one step of gradient descent over all users."""
    one_step = training.local_steps == 1 and training.sample_rate == 1
    return one_step and training.optimiser is Optimiser.SGD


def _chosen(plan: TrainingPlan, config: RunConfig) -> RunConfig:
    training = replace(config.training, **plan.training)
    server = config.server
    if config.privacy.secure:  # what is summed is over all users alike
        server = replace(server, weighting=Weighting.POPULATION)
    warm_start = replace(config.warm_start, share=plan.share)
    return replace(config, training=training, warm_start=warm_start, server=server)


def _check(config: RunConfig, users: int) -> None:
    training, warm_start = config.training, config.warm_start
    if not warm_start.share:
        raise ConfigError(
            "warm_start.share = 0 with training.rounds = 'plan': the plan is for rounds after a "
            "warm start. State the rounds, or leave the share out."
        )
    if not users:
        raise ConfigError(
            "training.rounds = 'plan' with server.users = 0: state how many users all partners "
            "declare together (`population` in each partner's site.toml), or the rounds; 0 rounds "
            "leave it at the warm start."
        )
    chosen = {
        "training.learning_rate": (training.learning_rate, TrainingConfig().learning_rate),
        "training.decay": (training.decay, TrainingConfig().decay),
        "warm_start.share": (warm_start.share, WarmStartConfig().share),
    }
    for key, (value, default) in chosen.items():
        if value != default:
            raise ConfigError(
                f"{key} = {value} with training.rounds = 'plan', which chooses it: leave it out, "
                "or state the rounds."
            )
    if not _plain(training):
        raise ConfigError(
            f"training.local_steps = {training.local_steps}, training.sample_rate = "
            f"{training.sample_rate:g} and training.optimiser = '{training.optimiser}' with "
            "training.rounds = 'plan': the plan is for one step of 'sgd' over all users a round. "
            "State the rounds."
        )
