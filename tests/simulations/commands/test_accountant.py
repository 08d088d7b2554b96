"""`sotto-lab accountant` as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from client.ledger.ledger import Entry, Ledger
from client.ledger.limits import Limits
from shared.privacy.release import Release, ReleaseKind
from simulations.cli import main


def release(noise: float, rate: float, steps: int) -> Release:
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=steps)


def accountant(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sotto-lab", "accountant", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


FORM = ("--noise-multiplier", 1, "--sample-rate", 0.05, "--steps", 1000, "--delta", 1e-5)


def test_a_table_names_each_accountant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accountant(monkeypatch, *FORM) == 0
    printed = capsys.readouterr().out
    assert "noise multiplier 1, sample rate 0.05, 1,000 steps" in printed
    for name in ("sotto", "rdp", "prv", "pld", "10.98"):
        assert name in printed


def test_as_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    budget = ("--epsilon", 8, "--sample-rate", 0.1, "--steps", 60, "--delta", 1e-5)
    spent = ("--spent", "3:.1:20", "--spent", "3:0.1:20")
    assert accountant(monkeypatch, *budget, *spent, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spent"] == [
        {"kind": "train", "noise_multiplier": 3.0, "sample_rate": 0.1, "steps": 40, "shares": 1}
    ]
    assert found["release"]["steps"] == 60
    assert 7.99 < found["epsilon"]["sotto"] <= 8.0
    assert (found["target_epsilon"], found["delta"]) == (8.0, 1e-5)


def test_what_a_sites_ledger_holds_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "site.toml").write_text(
        'organisation = "A"\nuser_base = "readers"\npopulation = 500\n'
        'catalogue = "c"\nanchor = "anchor"\n[data]\nsource = "d.csv"\n'
        "[policy]\nmax_epsilon = 8.0\ndelta = 1e-5\n"
    )
    ledger = Ledger.create(tmp_path / "ledger.sqlite", "readers", tmp_path / "anchor")
    for round_number in (1, 2):
        entry = Entry(run="r", round=round_number, release=release(3.0, 0.1, 30))
        ledger.charge(entry, Limits(max_epsilon=8.0, delta=1e-5))
    assert accountant(monkeypatch, "--spent", tmp_path, "--delta", 1e-5, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spent"][0]["steps"] == 60
    assert found["epsilon"]["sotto"] == pytest.approx(ledger.spent(1e-5))
    assert accountant(monkeypatch, "--spent", tmp_path, "--delta", 1e-5) == 0
    assert "60 earlier steps counted" in capsys.readouterr().out


def test_what_was_not_noised_cost_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spent = ("--spent", "0:.1:3", "--delta", 1e-5)
    assert accountant(monkeypatch, *spent) == 0
    assert "∞" in capsys.readouterr().out
    assert accountant(monkeypatch, *spent, "--json") == 0
    assert json.loads(capsys.readouterr().out)["epsilon"]["sotto"] is None


def test_help_shows_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accountant(monkeypatch, "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "sotto-lab accountant --noise-multiplier 1 --sample-rate .1" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*FORM, "--delta", 0], "delta must be in (0, 1), not 0.0"),
        ([*FORM, "--epsilon", 3], "give two of"),
        ([*FORM, "--noise-multiplier", 0], "--noise-multiplier 0.0: give a number above 0"),
        ([*FORM, "--noise-multiplier", "nan"], "--noise-multiplier nan"),
        ([*FORM, "--sample-rate", 1.5], "--sample-rate 1.5: give a number above 0, at most 1"),
        ([*FORM, "--steps", 0], "--steps 0: give a number of 1 or more"),
        ([*FORM, "--spent", "1:2"], "--spent 1:2: give a folder with a site.toml, or noise"),
        ([*FORM, "--spent", "1:2:3"], "--spent 1:2:3: give a folder"),
        ([*FORM, "--spent", "no/such"], "--spent no/such: give a folder"),
        (["--delta", 1e-5], "or only --spent"),
        (
            ["--epsilon", -1, "--steps", 3, "--sample-rate", 0.1, "--delta", 1e-5],
            "epsilon must be a positive number, not -1.0",
        ),
    ],
)
def test_a_mistake_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[object],
    message: str,
) -> None:
    assert accountant(monkeypatch, *options) == 2
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert printed.out == ""
