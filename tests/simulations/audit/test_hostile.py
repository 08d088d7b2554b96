"""Whole audits against a hostile coordinator: what is honest passes, and faults are caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError
from shared.messages import TrainRequest
from simulations.audit.audit import audit
from simulations.audit.hostile import audit_hostile
from simulations.audit.plan import Adversary, AuditPlan
from simulations.audit.planted_faults import audit_with_fault
from simulations.audit.recorder import Recorder
from simulations.experiment.config import read_settings
from tests.simulations.audit.conftest import ITEMS, quick_settings
from tests.simulations.audit.test_audit import Silent, by_name

PLAN = AuditPlan(adversary=Adversary.HOSTILE, canaries=300)
Found = dict[str, Any]
Auditor = Callable[[str], Found]


@pytest.fixture(scope="module")
def audited(walkers: Path, tmp_path_factory: pytest.TempPathFactory) -> Auditor:
    """Audits a fault, each once."""

    @cache
    def run(fault: str) -> Found:
        folder = tmp_path_factory.mktemp("hostile") / "run"
        return audit_with_fault(fault, quick_settings(walkers), PLAN, folder) | {"folder": folder}

    return run


def test_honest_sites_pass_and_every_canary_is_as_visible_as_the_claim_allows(
    audited: Auditor,
) -> None:
    found = audited("none")
    assert found["verdict"] == "consistent"
    assert (found["reasons"], found["membership"]) == ([], None)
    white = by_name(found, "white-box")
    assert white["canaries"] == PLAN.canaries
    assert white["estimate"]["low"] < 4 < white["estimate"]["high"]
    assert 0 < white["epsilon_lower_bound"] < 4
    assert by_name(found, "between rounds")["estimate"]["low"] < 1
    assert found["sensitivity"]["largest"] == pytest.approx(1.0, abs=1e-3)
    assert found["books"]["seen"] == 2
    assert found["books"]["epsilon_recomputed"] == pytest.approx(4.0, rel=0.01)
    assert found["claim"]["epsilon"] == pytest.approx(4.0, rel=0.01)


def test_noise_that_is_off_is_caught(audited: Auditor) -> None:
    found = audited("noise off")
    assert found["verdict"] == "violated"
    for name in ("white-box", "between rounds"):
        each = by_name(found, name)
        assert each["correct"] >= 0.9 * each["guesses"]
        assert each["estimate"]["low"] > 100


def test_half_the_noise_is_caught(audited: Auditor) -> None:
    found = audited("noise scaled by half")
    assert found["verdict"] == "violated"
    # Twice the signal: ε is about 9 where 4 is claimed.
    assert by_name(found, "white-box")["estimate"]["low"] > 4
    assert by_name(found, "white-box")["estimate"]["epsilon"] == pytest.approx(9, rel=0.3)


def test_clipping_that_is_off_is_caught(audited: Auditor) -> None:
    found = audited("clipping off")
    assert found["verdict"] == "violated"
    assert found["sensitivity"]["violated"]
    assert by_name(found, "white-box")["violated"]


def test_noise_that_comes_again_is_caught_by_the_difference_of_rounds(audited: Auditor) -> None:
    found = audited("the same noise every round")
    assert found["verdict"] == "violated"
    assert by_name(found, "between rounds")["violated"]


def test_a_ledger_that_forgets_is_caught_by_the_books(audited: Auditor) -> None:
    found = audited("an accountant that forgets rounds")
    assert found["verdict"] == "violated"
    assert found["books"]["violated"]


def test_audit_json_names_the_adversary_and_the_sites_are_gone(audited: Auditor) -> None:
    found = dict(audited("none"))
    folder = found.pop("folder")
    assert json.loads((folder / "audit.json").read_text()) == found
    assert found["adversary"] == "hostile"
    assert list((folder / "sites").iterdir()) == []
    assert "--adversary honest" in " ".join(found["blind_spots"])


def test_the_whole_budget_is_charged_before_each_answer_and_no_more(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every site is a new one, and is asked twice through the node's own app."""
    asked: list[tuple[str, int]] = []
    record = Recorder._record

    def noted(recorder: Recorder, organisation: str, request: Any, reply: Any) -> None:  # noqa: ANN401
        assert isinstance(request, TrainRequest)
        asked.append((organisation, request.round))
        record(recorder, organisation, request, reply)

    monkeypatch.setattr(Recorder, "_record", noted)
    plan = AuditPlan(adversary=Adversary.HOSTILE, canaries=30)
    audit_hostile(read_settings(None, {}, quick), plan, tmp_path / "run", Silent())
    assert asked == [("site-1", 1), ("site-1", 2), ("site-2", 1), ("site-2", 2)]


def test_where_no_canary_fits_nothing_is_asked(quick: list[str], tmp_path: Path) -> None:
    settings = [*quick, "privacy.delta=0.024"]
    with pytest.raises(ConfigError, match=f"{ITEMS} items.*a smaller --delta"):
        audit(read_settings(None, {}, settings), PLAN, tmp_path / "run", Silent())
