"""sotto-lab audit, as it is typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulations.audit.masking_faults import SECURE
from simulations.audit.planted_faults import FAULTS
from simulations.cli import main

Typed = Callable[..., int]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Runs a command line; its exit code."""

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["sotto-lab", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0)

    return run


@pytest.fixture
def words(quick: list[str], tmp_path: Path) -> list[str]:
    sets = [word for setting in quick for word in ("--set", setting)]
    return ["audit", "--out", str(tmp_path / "audit"), "--canaries", "60", *sets]


def test_an_honest_run_exits_with_0_and_says_what_was_found(
    typed: Typed, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(*words) == 0
    said = capsys.readouterr()
    assert "Claimed: ε = 4.00 at δ = 1e-05" in said.out
    assert "white-box" in said.out
    assert "Membership inference" in said.out
    assert "could not have detected" in said.out
    assert "No violation found" in said.out
    assert "sotto-lab report" in said.err


def test_a_violation_exits_with_1_and_its_reasons(
    typed: Typed, words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with FAULTS["clipping off"]():
        assert typed(*words, "--json") == 1
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found == json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["verdict"] == "violated"
    assert "violated: One user added" in said.err


def test_a_folder_in_use_is_refused(
    typed: Typed, words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "notes.txt").write_text("mine")
    assert typed(*words) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_a_hostile_audit_says_what_it_proved_and_needs_a_run_to_be_reported_with(
    typed: Typed, quick: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sets = [word for setting in quick for word in ("--set", setting)]
    out = tmp_path / "audit"
    hostile = ["audit", "--adversary", "hostile", "--out", str(out), "--canaries", "40", *sets]
    with FAULTS["noise off"]():
        assert typed(*hostile) == 1
    said = capsys.readouterr()
    assert "between rounds" in said.out
    assert "violated: The white-box observer's scores suggest" in said.err
    assert f"sotto-lab report RUN --audit {out}" in said.err.replace("\n", "")
    assert json.loads((out / "audit.json").read_text())["adversary"] == "hostile"


def test_under_secure_aggregation_both_claims_and_the_masks_are_said(
    typed: Typed, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    secure = [word for setting in SECURE[1:] for word in ("--set", setting)]
    assert typed(*words, "--trust", "secure-aggregation", *secure) == 0
    said = capsys.readouterr().out
    assert "against the coordinator and org-4, with org-3 missing from each sum" in said
    assert "if all others collude, ε = 5.99" in said
    assert "The smallest sum with org-1 that came out is of 2 honest organisations" in said
    assert "all others collude" in said
