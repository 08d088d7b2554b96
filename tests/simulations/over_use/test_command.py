"""`sotto-lab over-use` as a user types it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.over_use.model import OverUseModel
from simulations.cli import main
from simulations.over_use.measure import Outcomes, split_users
from simulations.over_use.task import cohort_task


def lab(monkeypatch: pytest.MonkeyPatch, *arguments: object, command: str = "over-use") -> int:
    monkeypatch.setattr(sys, "argv", ["sotto-lab", command, *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_a_run_writes_figures_models_ledgers_and_a_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, plot = tmp_path / "run", tmp_path / "figure.png"
    options = [
        "--users",
        150,
        "--splits",
        1,
        "--rounds",
        2,
        "--organisations",
        2,
        "--trust",
        "local",
        "--out",
        out,
    ]
    options += ["--days", 2, "--epsilons", "8,none", "--plot", plot, "--json"]
    assert lab(monkeypatch, *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((out / "over-use.json").read_text())
    assert list(result["models"])[:3] == ["counts", "counts, recent", "session means"]
    assert {"alone, no noise", "truth", "ε = 8", "no noise"} <= set(result["models"])
    assert result["privacy"]["ε = 8"]["organisations"]["organisation-1"]["epsilon"] <= 8
    assert result["privacy"]["no noise"]["organisations"]["organisation-1"]["epsilon"] is None
    assert set(result["models"]["ε = 8"]["groups"]["work"]) == {"days", "shifts"}
    assert plot.stat().st_size > 0
    model = OverUseModel.from_pretrained(out / "split-0" / "ε-8" / "model")
    assert model.config.label == result["data"]["label"]
    assert 0 <= model.risk([np.array([0.0, 60.0])])[0] <= 1
    assert lab(monkeypatch, *options) == 2
    assert "the folder is not empty" in capsys.readouterr().err


def test_simulate_runs_the_task_and_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ["--task", "over-use", "--out", out, "--epsilon", 8, "--delta", 1e-5, "--rounds", 2]
    options += ["--organisations", 2, "--set", "lab.cohort=150", "--set", "over_use.days=2"]
    assert lab(monkeypatch, *options, "--json", command="simulate") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["splits"] == 1
    assert result["runs"]["ε = 8"]["over_use.days"] == 2
    assert result["runs"]["ε = 8"]["model.max_length"] == 16
    assert result["privacy"]["ε = 8"]["organisations"]["organisation-2"]["epsilon"] <= 8
    again = ["--task", "over-use", "--out", out, "--resume", "--json"]
    assert lab(monkeypatch, *again, command="simulate") == 0
    assert json.loads(capsys.readouterr().out)["models"] == result["models"]
    assert lab(monkeypatch, *again, "--epsilon", 4, command="simulate") == 2
    assert "other settings" in capsys.readouterr().err
    assert lab(monkeypatch, *options, command="simulate") == 2
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--epsilons", "eight"], "--epsilons eight"),
        (["--epsilons", "0"], "privacy.epsilon"),
        (["--plot", "figure.txt"], "--plot figure.txt"),
        (["--days", "0"], "over_use.days = 0"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[str],
    problem: str,
) -> None:
    out = tmp_path / "run"
    assert lab(monkeypatch, *options, "--out", out) == 2
    assert problem in capsys.readouterr().err
    assert not out.exists()


def test_figures_are_of_test_users_and_calibrated_on_others() -> None:
    task = cohort_task(400, 5)
    split, outcomes = split_users(400, 3, 0), Outcomes(task)
    rows = np.concatenate([split.trained, split.calibration, split.test])
    assert sorted(rows) == list(range(400))
    scores = np.where(task.labels, 3.0, -3.0) + np.random.default_rng(0).normal(size=400)
    outcomes.add("good", split, scores)
    wrong = scores.copy()
    wrong[split.trained] = -wrong[split.trained]  # of no consequence
    outcomes.add("good there", split, wrong)
    wrong[split.test] = 0.0
    outcomes.add("useless", split, wrong)
    table = outcomes.table()
    assert table["good"] == table["good there"]
    assert table["good"]["auroc"]["mean"] > 0.95
    assert table["good"]["calibration_error"]["mean"] < 0.05
    assert table["useless"]["auroc"]["mean"] == 0.5
    assert not math.isnan(table["good"]["groups"]["age"]["young"]["recall"])
