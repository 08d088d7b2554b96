"""The model card claims what an independent accountant says, and what it does not cover."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant

from server.runs.model_card import (
    Participation,
    Published,
    claimed_epsilon,
    requested_releases,
    write_card,
)
from shared.config import (
    Masking,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    Trust,
    Weighting,
)

CONFIG = RunConfig(
    privacy=PrivacyConfig(epsilon=8.0, delta=1e-5),
    training=TrainingConfig(rounds=20, local_steps=2, sample_rate=0.1),
    server=ServerConfig(evaluate_every=5),
)
PUBLISHED = Published(
    name="spring",
    config=CONFIG,
    rounds=20,
    parts=(
        Participation(organisation="Alpha", population=1000, answered=20),
        Participation(organisation="Beta", population=2000, answered=3),
    ),
    bundle="b" * 64,
    catalogue="c" * 64,
    items=1234,
    version="0.1.0",
)


def test_the_claim_is_an_independent_accountants() -> None:
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=1e-3)
    for release in requested_releases(CONFIG, 20):
        sums = dp_event.GaussianDpEvent(release.noise_multiplier)
        event = dp_event.PoissonSampledDpEvent(release.sample_rate, sums)
        accountant.compose(dp_event.SelfComposedDpEvent(event, release.steps))
    assert claimed_epsilon(PUBLISHED) == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)
    assert claimed_epsilon(PUBLISHED) <= 8.0 * 1.001


def test_every_sum_is_counted_though_an_organisation_answered_less() -> None:
    assert [release.steps for release in requested_releases(CONFIG, 20)] == [1, 40, 4]
    silent = replace(PUBLISHED, parts=(Participation(organisation="A", population=9, answered=0),))
    assert claimed_epsilon(silent) == claimed_epsilon(PUBLISHED)
    assert claimed_epsilon(replace(PUBLISHED, rounds=10)) < claimed_epsilon(PUBLISHED)


def test_the_card_says_unit_delta_partners_and_limits() -> None:
    text = write_card(PUBLISHED)
    for said in (
        "one user's whole history at one organisation",
        "add or remove one user",
        f"| worst ε | {claimed_epsilon(PUBLISHED):.3f} |",
        "| δ | 1e-05 |",
        "charged as one release | 1 | ",
        "| train | 40 | ",
        "| evaluate | 4 | ",
        "numerical composition",
        "| Alpha | 1,000 | 20 |",
        "| Beta | 2,000 | 3 |",
        "A user of several organisations",
        "Earlier and later runs",
        CONFIG.fingerprint,
        "b" * 64,
    ):
        assert said in text


def test_without_privacy_nothing_is_claimed() -> None:
    config = replace(CONFIG, privacy=PrivacyConfig(epsilon=None, delta=1e-5), server=ServerConfig())
    text = write_card(replace(PUBLISHED, config=config))
    assert "**None.**" in text
    assert "worst ε" not in text
    assert claimed_epsilon(replace(PUBLISHED, config=config)) == float("inf")


def test_under_secure_aggregation_both_tiers_and_the_missing_masks_are_stated() -> None:
    privacy = PrivacyConfig(
        epsilon=8.0, delta=1e-5, trust=Trust.SECURE_AGGREGATION, masking=Masking.OFF, dropouts=1
    )
    config = RunConfig(
        privacy=privacy,
        training=TrainingConfig(rounds=20, sample_rate=0.1),
        server=ServerConfig(organisations=8, weighting=Weighting.POPULATION),
    )
    published = replace(PUBLISHED, config=config)
    card = write_card(published)
    assert "2 of the 8 organisations together, with 1 more missing" in card
    assert "Its masks were off: this was a simulation." in card
    assert "| attempts |" not in write_card(replace(published, attempts=22))
    assert "| attempts | **23, at 22 sums." in write_card(replace(published, attempts=23))
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=1e-3)
    for release in requested_releases(config, 20):
        assert release.shares == 5
        sums = dp_event.GaussianDpEvent(release.noise_multiplier / 5**0.5)
        event = dp_event.PoissonSampledDpEvent(release.sample_rate, sums)
        accountant.compose(dp_event.SelfComposedDpEvent(event, release.steps))
    (row,) = [line for line in card.splitlines() if "if all others collude" in line]
    stated = float(row.split("|")[2])
    assert stated == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)
    assert claimed_epsilon(published) <= 8.0 < stated
