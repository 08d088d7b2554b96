"""What left an organisation is compared with its ledger."""

from __future__ import annotations

import pytest

from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind
from simulations.audit.independent_accounting import compare_with_ledgers

TWO = [Release(kind=ReleaseKind.STATISTICS, noise_multiplier=2.0, sample_rate=1.0, steps=1)] * 2


def test_a_ledger_that_says_what_left_costs_is_right() -> None:
    honest = epsilon(TWO, 1e-5)
    found = compare_with_ledgers({"a": TWO, "b": TWO[:1]}, {"a": honest, "b": honest}, 1e-5)
    assert not found["violated"]
    assert (found["organisation"], found["seen"]) == ("a", 2)
    assert found["epsilon_recomputed"] == pytest.approx(honest, rel=0.01)
    assert found["accountant"] == "Opacus's PRV"


def test_the_worst_organisation_is_named() -> None:
    honest, one = epsilon(TWO, 1e-5), epsilon(TWO[:1], 1e-5)
    found = compare_with_ledgers({"a": TWO, "b": TWO}, {"a": honest, "b": one}, 1e-5)
    assert found["violated"]
    assert found["organisation"] == "b"


def test_what_was_not_noised_costs_everything() -> None:
    bare = [Release(kind=ReleaseKind.TRAIN, noise_multiplier=0.0, sample_rate=1.0, steps=1)]
    found = compare_with_ledgers({"a": bare}, {"a": 4.0}, 1e-5)
    assert found["violated"]
    assert found["epsilon_recomputed"] == float("inf")


def test_nothing_that_left_costs_nothing() -> None:
    found = compare_with_ledgers({}, {"a": 0.0}, 1e-5)
    assert not found["violated"]
    assert (found["seen"], found["epsilon_recomputed"]) == (0, 0.0)
