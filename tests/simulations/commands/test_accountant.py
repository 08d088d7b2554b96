"""The accountants agree; of noise, steps and ε the third is found; mistakes are explained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from client.ledger.ledger import Entry, Ledger
from shared.errors import AccountingError, ConfigError
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind
from simulations.cli import main
from simulations.commands.accountant import Answer, Question, answer


def release(noise: float, rate: float, steps: int) -> Release:
    return Release(kind=ReleaseKind.TRAIN, noise_multiplier=noise, sample_rate=rate, steps=steps)


def accountant(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sotto-lab", "accountant", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


# --- questions ---------------------------------------------------------------------------------


def agreed(found: Answer) -> float:
    """ε, when all accountants name about the same."""
    values = found.epsilon
    assert set(values) == {"sotto", "rdp", "prv", "pld"}
    ours, rdp, prv, pld = (values[name] for name in ("sotto", "rdp", "prv", "pld"))
    assert ours is not None
    assert rdp is not None
    assert ours <= rdp <= 1.3 * ours
    assert ours == pytest.approx(prv, rel=5e-3)
    assert ours == pytest.approx(pld, rel=5e-3)
    return ours


def test_epsilon_of_given_noise() -> None:
    found = answer(Question(delta=1e-5, noise_multiplier=1.0, sample_rate=0.05, steps=1000))
    assert found.release == release(1.0, 0.05, 1000)
    assert agreed(found) == pytest.approx(10.987, abs=0.01)


def test_noise_for_a_target_after_what_is_spent() -> None:
    spent = (release(3.0, 0.1, 20), release(3.0, 0.1, 20))
    found = answer(Question(delta=1e-5, target=4.0, sample_rate=0.1, steps=60, spent=spent))
    assert found.release is not None
    assert found.release.steps == 60
    assert 3.99 < agreed(found) <= 4.0
    assert found.epsilon["sotto"] == epsilon([*spent, found.release], 1e-5)


def test_steps_that_fit() -> None:
    spent = (release(3.0, 0.1, 40),)
    asked = Question(delta=1e-5, target=4.0, sample_rate=0.1, noise_multiplier=1.5, spent=spent)
    found = answer(asked)
    assert found.release is not None
    assert agreed(found) <= 4.0
    assert epsilon([*spent, release(1.5, 0.1, found.release.steps + 1)], 1e-5) > 4.0


def test_what_is_spent_alone() -> None:
    found = answer(Question(delta=1e-5, spent=(release(3.0, 0.1, 60),)))
    assert found.release is None
    assert agreed(found) == pytest.approx(epsilon([release(3.0, 0.1, 60)], 1e-5))


def test_no_step_fits() -> None:
    asked = Question(delta=1e-5, target=0.1, sample_rate=1.0, noise_multiplier=1.0)
    assert answer(asked) == Answer(
        release=None, epsilon={"sotto": 0.0, "rdp": 0.0, "prv": None, "pld": None}
    )


@pytest.mark.parametrize(
    "form", [(100.0, 0.001, 1_000_000), (1.0, 1.0, 10_000), (50.0, 1e-4, 10_000)], ids=str
)
def test_where_others_would_take_minutes_they_are_left_out(form: tuple[float, float, int]) -> None:
    """Or take a coarser grid: never all memory."""
    noise, rate, steps = form
    asked = Question(delta=1e-5, noise_multiplier=noise, sample_rate=rate, steps=steps)
    found = answer(asked).epsilon
    assert found["sotto"] is not None
    assert found["rdp"] is not None
    assert 0 < found["sotto"] <= found["rdp"]
    if steps > 100_000 or noise == 1.0:
        assert (found["prv"], found["pld"]) == (None, None)


def test_gdp_is_no_accountant() -> None:
    """It understates."""
    found = answer(Question(delta=1e-5, noise_multiplier=1.0, sample_rate=0.05, steps=1000))
    assert "gdp" not in found.epsilon
    assert min(value for value in found.epsilon.values() if value is not None) > 10.9


@pytest.mark.parametrize("steps", [None, 5])
@pytest.mark.parametrize("noise", [None, 1.0])
@pytest.mark.parametrize("target", [None, 2.0])
def test_two_of_three_must_be_given(
    steps: int | None, noise: float | None, target: float | None
) -> None:
    given = [value is not None for value in (steps, noise, target)]
    if sum(given) == 2:
        Question(delta=1e-5, sample_rate=0.1, steps=steps, noise_multiplier=noise, target=target)
        with pytest.raises(ConfigError, match="--sample-rate is not set"):
            Question(delta=1e-5, steps=steps, noise_multiplier=noise, target=target)
        return
    with pytest.raises(ConfigError, match="give two of"):
        Question(delta=1e-5, sample_rate=0.1, steps=steps, noise_multiplier=noise, target=target)


@pytest.mark.parametrize("delta", [0.0, 1.0, float("nan")])
def test_delta_must_be_in_range(delta: float) -> None:
    with pytest.raises(AccountingError, match="delta must be in"):
        answer(Question(delta=delta, noise_multiplier=1.0, sample_rate=0.1, steps=1))


# --- the command -------------------------------------------------------------------------------

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
        {"kind": "train", "noise_multiplier": 3.0, "sample_rate": 0.1, "steps": 40}
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
        ledger.charge(entry, max_epsilon=8.0, delta=1e-5)
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
        (["--delta", 1e-5], "or --spent alone"),
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
