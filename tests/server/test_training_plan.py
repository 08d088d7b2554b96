"""The plan of rounds follows from public constants, and what it asks for costs at most ε."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from server.noise_plan import plan_noise
from server.training_plan import (
    DROWNED,
    EXACT_ROUNDS,
    FEWEST_ROUNDS,
    MOST_RATE,
    MOST_ROUNDS,
    about_rounds,
    plan_of,
    plan_training,
    with_plan,
)
from shared.config import (
    Optimiser,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    Trust,
    WarmStartConfig,
    Weighting,
)
from shared.errors import ConfigError

ITEMS, USERS = 3883, 6040
SERVER = ServerConfig(organisations=8)


def asked(epsilon: float | None = 8.0, trust: Trust = Trust.SECURE_AGGREGATION) -> RunConfig:
    return RunConfig(
        privacy=PrivacyConfig(epsilon=epsilon, delta=1e-5, trust=trust),
        server=SERVER,
    )


sizes, sigmas = st.integers(1, 10**6), st.floats(1e-6, 100)


@settings(max_examples=100, deadline=None)
@given(sigmas, sigmas, st.integers(1, 100), sizes, sizes)
def test_more_noise_never_means_longer_steps_or_less_for_the_statistics(
    one: float, other: float, organisations: int, users: int, items: int
) -> None:
    less, more = (
        plan_training(sigma, organisations, users, items) for sigma in sorted((one, other))
    )
    assert less.rounds * less.learning_rate >= more.rounds * more.learning_rate * (1 - 1e-9)
    assert less.share <= more.share
    for plan in (less, more):
        assert FEWEST_ROUNDS <= plan.rounds <= MOST_ROUNDS
        assert 0 < plan.learning_rate <= MOST_RATE
        assert 0 < plan.share < 1
        assert plan.drowned == (plan.noise > DROWNED)
        assert ("drowns" in str(plan)) == plan.drowned


def test_a_run_without_noise_gets_the_most_rounds_and_the_embedded_data_the_fewest() -> None:
    exact = with_plan(asked(epsilon=None), USERS, ITEMS).training
    assert (exact.rounds, exact.optimiser) == (EXACT_ROUNDS, Optimiser.ADAM)
    assert exact.sample_rate * exact.local_steps == 1  # once through the users
    embedded = plan_training(0.6, 4, 610, 9742)
    assert (embedded.rounds, embedded.drowned) == (FEWEST_ROUNDS, True)


def test_steps_are_short_where_few_items_are_described_by_many_numbers() -> None:
    wide, narrow = (plan_training(1.0, 3, 1200, 60, width) for width in (316, 92))
    assert wide.learning_rate <= 60 / 316 / 2 < narrow.learning_rate <= 60 / 92 / 2
    assert (wide.rounds, narrow.rounds) == (MOST_ROUNDS, MOST_ROUNDS)
    for users, items in ((6040, 3883), (50_000, 17_000)):
        assert plan_training(1.0, 3, users, items, 1056) == plan_training(1.0, 3, users, items)


@pytest.mark.parametrize("trust", list(Trust))
@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_all_that_a_planned_run_asks_for_costs_its_epsilon(trust: Trust, epsilon: float) -> None:
    """By another accountant: statistics and rounds, at the noise that protects a user."""
    planned = with_plan(asked(epsilon, trust), USERS, ITEMS)
    assert planned.training.number_of_rounds >= FEWEST_ROUNDS
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    noise, honest = plan_noise(planned), planned.privacy.honest_shares(8)
    for share, times in ((noise.statistics, 1), (noise.training, planned.noised_sums)):
        accountant.compose(GaussianDpEvent(share * honest**0.5), times)
    assert accountant.get_epsilon(1e-5) == pytest.approx(epsilon, rel=0.01)


def test_the_plan_can_be_told_again_from_the_planned_parameters() -> None:
    before = asked()
    after = with_plan(before, USERS, ITEMS)
    plan = plan_of(after, USERS, ITEMS)
    assert plan is not None
    assert plan == plan_of(before, USERS, ITEMS)
    assert (after.training.rounds, after.training.learning_rate, after.warm_start.share) == (
        *(plan.rounds, plan.learning_rate, plan.share),
    )
    assert after.server.weighting is Weighting.POPULATION  # what is summed is over all users


def test_without_a_plan_nothing_changes() -> None:
    config = replace(asked(trust=Trust.LOCAL), training=TrainingConfig(rounds=0))
    assert with_plan(config, 0, ITEMS) == config
    assert plan_of(config, USERS, ITEMS) is None


@pytest.mark.parametrize(
    ("epsilon", "users", "rounds", "words"),
    [
        (8.0, USERS, "plan", "2 rounds at learning rate 0.5"),
        (8.0, 610, "plan", "noise drowns"),
        (None, USERS, "plan", "no noise"),
        (8.0, 610, 4, "times as long as the noise allows"),
        *((8.0, USERS, 1, ""), (8.0, 0, 4, ""), (8.0, 610, 0, "")),
    ],
)
def test_what_to_expect_of_the_rounds_is_said(
    epsilon: float | None, users: int, rounds: int | Literal["plan"], words: str
) -> None:
    server = replace(SERVER, weighting=Weighting.POPULATION)
    config = replace(asked(epsilon), training=TrainingConfig(rounds=rounds), server=server)
    sentence = about_rounds(with_plan(config, users, ITEMS), users, ITEMS)
    assert words in sentence
    assert bool(sentence) == bool(words)


@pytest.mark.parametrize(
    ("change", "users", "words"),
    [
        ({}, 0, "server.users = 0"),
        ({"training": TrainingConfig(learning_rate=0.3)}, USERS, "training.learning_rate = 0.3"),
        ({"warm_start": WarmStartConfig(share=0.5)}, USERS, "warm_start.share = 0.5"),
        ({"warm_start": WarmStartConfig(share=0.0)}, USERS, "warm_start.share = 0"),
        (
            {"training": TrainingConfig(optimiser=Optimiser.ADAM)},
            *(USERS, "one step of 'sgd'"),
        ),
        (
            {"training": TrainingConfig(sample_rate=0.5)},
            *(USERS, "training.sample_rate = 0.5"),
        ),
    ],
)
def test_what_does_not_go_with_a_plan_is_refused(
    change: dict[str, Any], users: int, words: str
) -> None:
    config = replace(asked(trust=Trust.LOCAL), **change)
    with pytest.raises(ConfigError, match=words):
        with_plan(config, users, ITEMS)
