"""The model card claims what an independent accountant says, and what it does not cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant

from server.noise_plan import noise_for_share, plan_noise, release_of
from server.runs.model_card import (
    Participation,
    Published,
    claimed_epsilon,
    requested_releases,
    write_card,
)
from server.state.attempts import Charges
from shared.config import (
    Masking,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    Trust,
    Weighting,
)
from shared.privacy.release import Release, ReleaseKind

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
    expected = independent_epsilon(requested_releases(CONFIG, 20))
    assert claimed_epsilon(PUBLISHED) == pytest.approx(expected, rel=0.01)
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
    releases = requested_releases(config, 20)
    assert {release.shares for release in releases} == {5}
    stated = stated_if_all_collude(card)
    assert stated == pytest.approx(independent_epsilon(releases, own_of=5), rel=0.01)
    assert claimed_epsilon(published) <= 8.0 < stated


def test_attempts_that_came_to_nothing_are_in_the_claim() -> None:
    """Of two organisations one was asked in three more attempts; in one of them it was silent."""
    config = RunConfig(
        privacy=PrivacyConfig(epsilon=8.0, delta=1e-5, trust=Trust.SECURE_AGGREGATION, dropouts=1),
        training=TrainingConfig(rounds=20, sample_rate=0.1),
        server=ServerConfig(organisations=8, weighting=Weighting.POPULATION),
    )
    noise = plan_noise(config)
    popularity, moment = (
        release_of(config, ReleaseKind.STATISTICS, noise_for_share(noise.statistics, share), 1.0, 1)
        for share in (0.2, 0.8)
    )
    rounds = release_of(config, ReleaseKind.TRAIN, noise.training, 0.1, 20)
    usual = Charges((popularity, moment, rounds))
    more = Charges((replace(popularity, steps=2), moment, replace(rounds, steps=22)), unsure=1)
    alpha, beta = PUBLISHED.parts
    parts = (replace(alpha, charges=more), replace(beta, charges=usual))
    published = replace(PUBLISHED, config=config, parts=parts, attempts=22)
    planned = claimed_epsilon(published)
    assert planned == pytest.approx(independent_epsilon(usual.releases), rel=0.01)
    assert "| attempts |" not in write_card(published)

    published = replace(published, attempts=25)
    card, claimed = write_card(published), claimed_epsilon(published)
    assert claimed == pytest.approx(independent_epsilon(more.releases), rel=0.01)
    assert claimed > planned * 1.05
    assert f"| worst ε | {claimed:.3f} |" in card
    everybody = independent_epsilon(more.releases, own_of=5)
    assert stated_if_all_collude(card) == pytest.approx(everybody, rel=0.01)
    assert "| attempts | 25, at 22 sums." in card
    assert "upper bound" in card
    assert "Alpha (1 of 25)" in card
    assert "Beta (" not in card
    assert "| train | 22 | " in card

    known = (replace(alpha, charges=replace(more, unsure=0)), parts[1])
    certain = replace(published, parts=known)
    assert claimed_epsilon(certain) == claimed
    assert "Each of them is known to have been charged." in write_card(certain)
    # A record that is lost, or of fewer, does not lower the claim.
    assert claimed_epsilon(replace(published, parts=(beta,))) == planned


def independent_epsilon(releases: Sequence[Release], own_of: int = 1) -> float:
    """ε by another accountant; of so many shares of the noise only one counts."""
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=1e-3)
    for release in releases:
        sums = dp_event.GaussianDpEvent(release.noise_multiplier / own_of**0.5)
        event = dp_event.PoissonSampledDpEvent(release.sample_rate, sums)
        accountant.compose(dp_event.SelfComposedDpEvent(event, release.steps))
    return float(accountant.get_epsilon(1e-5))


def stated_if_all_collude(card: str) -> float:
    (row,) = [line for line in card.splitlines() if "if all others collude" in line]
    return float(row.split("|")[2])
