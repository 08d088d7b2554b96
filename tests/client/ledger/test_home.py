"""Private home models in the ledger: charged each time, never forgotten, with their own limit."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from client.ledger import recovery
from client.ledger.ledger import Ledger
from client.ledger.store import database_files
from shared.errors import BudgetExceeded
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind
from tests.client.ledger.entries import DELTA, Reopen, charge, cost, entry

MODEL = Release(kind=ReleaseKind.HOME, noise_multiplier=3.0, sample_rate=1.0, steps=1)


def of_models(count: int) -> float:
    return epsilon([MODEL] * count, DELTA)


def adapt(ledger: Ledger, limit: float = math.inf) -> None:
    ledger.charge_home(MODEL, max_epsilon=limit, delta=DELTA)


def test_each_model_is_charged_anew_and_apart_from_what_leaves(
    ledger: Ledger, reopened: Reopen
) -> None:
    charge(ledger, entry(1))
    adapt(ledger)
    adapt(reopened())
    assert epsilon(reopened().home_releases(), DELTA) == pytest.approx(of_models(2))
    assert reopened().spent(DELTA) == cost(1)
    charge(reopened(), entry(2))
    assert reopened().spent(DELTA) == cost(2)
    assert reopened().verify() == 5


def test_a_model_beyond_the_limit_is_refused_and_changes_nothing(
    file: Path, ledger: Ledger
) -> None:
    adapt(ledger, limit=of_models(2))
    adapt(ledger, limit=of_models(2))
    before = ledger.history()
    with pytest.raises(BudgetExceeded, match=r"home\.max_epsilon"):
        adapt(ledger, limit=of_models(2))
    with pytest.raises(BudgetExceeded):
        adapt(ledger, limit=math.nan)
    assert ledger.history() == before


def test_a_lost_ledger_comes_back_with_its_home_models(
    file: Path, anchor: Path, ledger: Ledger
) -> None:
    charge(ledger, entry(1))
    adapt(ledger)
    for part in database_files(file):
        part.unlink(missing_ok=True)
    restored = recovery.restore(file, "users", anchor)
    assert restored.home_releases() == [MODEL]
    assert restored.spent(DELTA) == cost(1)


def test_an_older_copy_does_not_forget_a_model(file: Path, anchor: Path, ledger: Ledger) -> None:
    adapt(ledger)
    shutil.copy(file, file.with_name("older"))
    adapt(ledger)
    adapt(ledger)
    shutil.copy(file.with_name("older"), file)
    restored = recovery.restore(file, "users", anchor)
    assert epsilon(restored.home_releases(), DELTA) == pytest.approx(of_models(3))


def test_a_budget_that_was_written_off_leaves_none_at_home(
    file: Path, anchor: Path, ledger: Ledger
) -> None:
    adapt(ledger)
    written_off = recovery.write_off(file, "users", anchor, "lost")
    with pytest.raises(BudgetExceeded):
        adapt(written_off, limit=1e6)


def test_a_request_cannot_be_charged_as_a_home_model(ledger: Ledger) -> None:
    before = ledger.history()
    with pytest.raises(ValueError, match="home"):
        charge(ledger, entry(1, kind=ReleaseKind.HOME))
    assert ledger.history() == before
