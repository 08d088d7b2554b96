"""How a run's noise follows from its parameters and public constants, by two accountants."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from server.noise_plan import (
    NoisePlan,
    about_groups,
    check_masking,
    most_own_items,
    noise_for_share,
    plan_noise,
    planned_releases,
    popularity_fade,
    popularity_share,
    split_epsilon,
    statistics_noise,
    statistics_part,
)
from shared.config import (
    Masking,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    Trust,
    WarmStartConfig,
    Weighting,
)
from shared.errors import ConfigError
from shared.groups import GroupsConfig
from shared.messages import Statistic
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind

DELTA = 1e-5
CONFIG = RunConfig(
    privacy=PrivacyConfig(epsilon=4.0, delta=DELTA), training=TrainingConfig(rounds=0)
)

populations = st.lists(st.integers(1, 10**6), min_size=1, max_size=20)


def test_the_statistics_asked_for_and_the_steps_cost_what_was_planned() -> None:
    config = RunConfig(
        privacy=PrivacyConfig(epsilon=4.0, delta=1e-5),
        warm_start=WarmStartConfig(share=0.7),
        training=TrainingConfig(rounds=3, sample_rate=0.5),
    )
    planned = planned_releases(config)
    asked = [
        Release(kind=ReleaseKind.STATISTICS, noise_multiplier=noise, sample_rate=1.0, steps=1)
        for noise in statistics_noise(plan_noise(config).statistics, 0.2).values()
    ]
    assert epsilon([*asked, *planned[1:]], 1e-5) == pytest.approx(epsilon(planned, 1e-5))
    assert 3.99 <= epsilon(planned, 1e-5) <= 4.0


def test_the_statistic_with_the_larger_share_has_less_noise() -> None:
    noise = statistics_noise(1.0, 0.2)
    assert noise[Statistic.MOMENT] < noise[Statistic.POPULARITY]
    assert statistics_noise(0.0, 0.2) == {Statistic.POPULARITY: 0.0, Statistic.MOMENT: 0.0}


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e4), populations, st.integers(1, 10**7))
def test_popularity_and_moment_both_get_a_share(noise: float, users: list[int], items: int) -> None:
    assert 0.05 <= popularity_share(noise, users, items) <= 0.9


@settings(max_examples=100, deadline=None)
@given(st.floats(0.05, 100), populations, st.integers(1, 10**6), st.floats(1, 10))
def test_the_noisier_popularity_is_the_larger_its_share(
    noise: float, users: list[int], items: int, more: float
) -> None:
    before = popularity_share(noise, users, items)
    assert popularity_share(noise * more, users, items) >= before
    assert popularity_share(noise, users, int(items * more)) >= before
    assert popularity_share(noise, [int(one * more) for one in users], items) <= before


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5000), st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_less_noise_gives_more_items_a_direction_of_their_own(
    own_items: int, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    counts = [most_own_items(own_items, share) for share in (less, more)]
    assert 4 * own_items >= counts[0] >= counts[1] >= own_items
    assert most_own_items(own_items, 0.05) == 4 * own_items
    assert most_own_items(own_items, 0.1) == most_own_items(own_items, None) == own_items


def test_rounds_that_follow_do_not_cost_items_their_directions() -> None:
    """The noise of all releases together is the same however ε is divided."""
    whole = replace(CONFIG, training=TrainingConfig(rounds=0))
    divided = replace(CONFIG, training=TrainingConfig(rounds=2))
    assert statistics_part(whole) == 1.0
    assert 0.3 < statistics_part(divided) < 0.7  # by 1 / σ², of a share of .7 of ε
    noises = [
        plan_noise(config).statistics * statistics_part(config) ** 0.5
        for config in (whole, divided)
    ]
    assert noises[1] == pytest.approx(noises[0], rel=0.01)
    assert most_own_items(200, 0.08, 1.0) < most_own_items(200, 0.08, 0.5)


def test_many_users_give_most_to_the_moment_and_few_to_popularity() -> None:
    """MovieLens-1M at eight organisations, and MovieLens latest-small at four."""
    noise = plan_noise(CONFIG).statistics
    assert popularity_share(noise, [755] * 8, 3883) < 0.2
    assert popularity_share(noise, [152] * 4, 9742) > 0.5


def test_a_noisy_popularity_weighs_all_events_alike() -> None:
    assert popularity_fade(0.05) == popularity_fade(0.7) == 0.5
    assert popularity_fade(0.71) == popularity_fade(0.9) == 0.0


# --- the division of a budget, against another accountant ----------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize(("rate", "steps"), [(1.0, 4), (0.1, 60)])
def test_all_together_cost_what_was_asked_for(share: float, rate: float, steps: int) -> None:
    plan = split_epsilon(4.0, DELTA, share=share, sample_rate=rate, steps=steps)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    if share:
        accountant.compose(GaussianDpEvent(plan.statistics))
        assert accountant.get_epsilon(DELTA) == pytest.approx(4.0 * share, rel=0.01)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(plan.training)), steps)
    assert accountant.get_epsilon(DELTA) == pytest.approx(4.0, rel=0.01)
    assert (plan.statistics > 0) is (share > 0)


@pytest.mark.parametrize(("share", "steps"), [(1.0, 0), (0.8, 2), (0.0, 3)])
def test_a_measurement_of_groups_is_within_the_budget_by_another_accountant(
    share: float, steps: int
) -> None:
    plan = split_epsilon(4.0, DELTA, share=share, sample_rate=1.0, steps=steps, measured=0.1)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    for noise, count in (
        (plan.groups, 1),
        (plan.statistics, int(share > 0)),
        (plan.training, steps),
    ):
        if count:
            accountant.compose(GaussianDpEvent(noise), count)
    assert accountant.get_epsilon(DELTA) == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize(("rounds", "times"), [(2, 3), (9, 5)])
def test_measurements_between_rounds_divide_the_share_by_another_accountant(
    rounds: int, times: int
) -> None:
    groups = GroupsConfig(tables="gender=F|M; events=20", share=0.1, robust=5.0)
    training = TrainingConfig(rounds=rounds, sample_rate=1.0)
    config = replace(CONFIG, groups=groups, training=training)
    plan = plan_noise(config)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    for noise, count in ((plan.groups, times), (plan.statistics, 1), (plan.training, rounds)):
        accountant.compose(GaussianDpEvent(noise), count)
    assert accountant.get_epsilon(DELTA) == pytest.approx(config.privacy.epsilon, rel=0.01)
    once = plan_noise(replace(config, groups=replace(groups, robust=0.0)))
    assert plan.groups == pytest.approx(once.groups * math.sqrt(times))
    assert (plan.statistics, plan.training) == pytest.approx((once.statistics, once.training))
    assert f"measured {times} times" in about_groups(config)


def test_groups_are_a_release_of_their_own_and_said_before() -> None:
    config = replace(CONFIG, groups=GroupsConfig(tables="gender=F|M; events=20", share=0.1))
    planned = planned_releases(config)
    assert [release.kind for release in planned] == [ReleaseKind.STATISTICS, ReleaseKind.EVALUATE]
    assert 3.99 <= epsilon(planned, DELTA) <= 4.0
    noise = planned[1].noise_multiplier * 3  # two tables and all users: a bound of √9
    assert "A user changes the sums of one by 3 at most" in about_groups(config)
    assert f"noise of {noise:.1f} users" in about_groups(config)
    assert about_groups(CONFIG) == ""


def test_statistics_alone_may_cost_it_all() -> None:
    plan = split_epsilon(4.0, DELTA, share=1.0, sample_rate=1.0, steps=0)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    accountant.compose(GaussianDpEvent(plan.statistics))
    assert accountant.get_epsilon(DELTA) == pytest.approx(4.0, rel=0.01)
    assert plan.training == 0


@pytest.mark.parametrize("parts", [(0.5, 0.5), (0.05, 0.95), (0.2, 0.3, 0.5)])
def test_a_divided_release_costs_what_the_whole_one_does_by_another_accountant(
    parts: tuple[float, ...],
) -> None:
    single, divided = (PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3) for _ in range(2))
    single.compose(GaussianDpEvent(1.3))
    for part in parts:
        divided.compose(GaussianDpEvent(noise_for_share(1.3, part)))
    assert divided.get_epsilon(DELTA) == pytest.approx(single.get_epsilon(DELTA), rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.3, 30.0), st.integers(0, 4))
def test_a_cap_of_exactly_the_planned_epsilon_admits_the_divided_releases(
    part: float, noise: float, steps: int
) -> None:
    """A cap that is the planned ε to the last digit is not exceeded by how it was divided."""
    training = [released(4 * noise, steps)] if steps else []
    planned = epsilon([released(noise), *training], DELTA)
    each = [released(noise_for_share(noise, share)) for share in (part, 1 - part)]
    assert math.isclose(epsilon([*each, *training], DELTA), planned, rel_tol=1e-9)


def released(noise: float, steps: int = 1) -> Release:
    return Release(
        kind=ReleaseKind.STATISTICS, noise_multiplier=noise, sample_rate=1.0, steps=steps
    )


def test_under_secure_aggregation_the_honest_shares_cost_what_was_promised() -> None:
    """Eight organisations, of which two collude and one drops out: five shares."""
    privacy = PrivacyConfig(epsilon=4.0, delta=DELTA, trust=Trust.SECURE_AGGREGATION, dropouts=1)
    config = replace(
        CONFIG,
        privacy=privacy,
        server=ServerConfig(organisations=8, weighting=Weighting.POPULATION),
        training=TrainingConfig(rounds=3, sample_rate=0.5),
    )
    local = replace(config, privacy=PrivacyConfig(epsilon=4.0, delta=DELTA))
    asked, alone = plan_noise(config), plan_noise(local)
    for share, whole in ((asked.statistics, alone.statistics), (asked.training, alone.training)):
        assert share == pytest.approx(whole / math.sqrt(5), rel=1e-4)
        assert share > whole / math.sqrt(5)  # rounding is paid for
    planned = planned_releases(config)
    assert {release.shares for release in planned} == {5}
    assert 3.99 <= epsilon(planned, DELTA) <= 4.0
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    for release in planned:
        event = PoissonSampledDpEvent(
            release.sample_rate, GaussianDpEvent(asked_noise(asked, release) * math.sqrt(5))
        )
        accountant.compose(event, release.steps)
    assert epsilon(planned, DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=0.01)


def asked_noise(asked: NoisePlan, release: Release) -> float:
    statistics = release.kind is ReleaseKind.STATISTICS
    return asked.statistics if statistics else asked.training


def test_secure_aggregation_is_refused_where_nothing_would_mask_or_a_sum_may_wrap() -> None:
    def run(masking: Masking, organisations: int = 5) -> RunConfig:
        privacy = PrivacyConfig(
            epsilon=4.0, delta=DELTA, trust=Trust.SECURE_AGGREGATION, masking=masking
        )
        return RunConfig(
            privacy=privacy,
            training=TrainingConfig(rounds=0),
            server=ServerConfig(organisations=organisations),
        )

    with pytest.raises(ConfigError, match="share of the noise"):
        check_masking(run(Masking.OFF), simulated=False)
    check_masking(run(Masking.OFF), simulated=True)
    for simulated in (True, False):
        check_masking(run(Masking.ON, 128), simulated=simulated)
        with pytest.raises(ConfigError, match="may wrap"):
            check_masking(run(Masking.ON, 129), simulated=simulated)
