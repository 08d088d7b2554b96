"""How a run's noise follows from its parameters and from public constants."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.noise_plan import fade_of, noise_of, planned_releases, popularity_part, statistics_noise
from shared.config import PrivacyConfig, RunConfig, TrainingConfig, WarmStartConfig
from shared.messages import Statistic
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind

CONFIG = RunConfig(privacy=PrivacyConfig(epsilon=4.0, delta=1e-5))

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
        for noise in statistics_noise(noise_of(config).statistics, 0.2).values()
    ]
    assert epsilon([*asked, *planned[1:]], 1e-5) == pytest.approx(epsilon(planned, 1e-5))
    assert 3.99 <= epsilon(planned, 1e-5) <= 4.0


def test_the_statistic_with_the_larger_part_has_less_noise() -> None:
    noise = statistics_noise(1.0, 0.2)
    assert noise[Statistic.MOMENT] < noise[Statistic.POPULARITY]
    assert statistics_noise(0.0, 0.2) == {Statistic.POPULARITY: 0.0, Statistic.MOMENT: 0.0}


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e4), populations, st.integers(1, 10**7))
def test_popularity_gets_a_part_and_the_moment_too(
    noise: float, users: list[int], items: int
) -> None:
    assert 0.05 <= popularity_part(noise, users, items) <= 0.9


@settings(max_examples=100, deadline=None)
@given(st.floats(0.05, 100), populations, st.integers(1, 10**6), st.floats(1, 10))
def test_the_harder_popularity_is_to_hear_the_more_it_gets(
    noise: float, users: list[int], items: int, more: float
) -> None:
    before = popularity_part(noise, users, items)
    assert popularity_part(noise * more, users, items) >= before
    assert popularity_part(noise, users, int(items * more)) >= before
    assert popularity_part(noise, [int(one * more) for one in users], items) <= before


def test_many_users_give_most_to_the_moment_and_few_to_popularity() -> None:
    """MovieLens-1M at eight organisations, and MovieLens latest-small at four."""
    noise = noise_of(CONFIG).statistics
    assert popularity_part(noise, [755] * 8, 3883) < 0.2
    assert popularity_part(noise, [152] * 4, 9742) > 0.5


def test_a_popularity_that_is_hard_to_hear_does_not_fade() -> None:
    assert fade_of(0.05) == fade_of(0.7) == 0.5
    assert fade_of(0.71) == fade_of(0.9) == 0.0
