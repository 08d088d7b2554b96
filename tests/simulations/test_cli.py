"""The commands as a user types them: exit codes, what is printed, and where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.cli import main
from tests.simulations.conftest import TINY_SETTINGS


def lab(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def tiny(data: Path, out: Path) -> list[object]:
    options: list[object] = ["simulate", "--data", data, "--out", out]
    for assignment in ("lab.organisations=2", "lab.alone=false", *TINY_SETTINGS):
        options += ["--set", assignment]
    return options


def test_a_run_ends_with_a_table_and_the_claim(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    options = [*tiny(tiny_data, tmp_path / "run"), "--epsilon", 8, "--delta", 1e-2]
    assert lab(monkeypatch, *options) == 0
    printed = capsys.readouterr()
    for text in ("most popular, same ε", "Markov counts", "federated", "ndcg@10"):
        assert text in printed.out
    assert "0.01)-differentially private" in printed.out
    assert "protect nobody" in printed.out
    assert "24 users, 18 items, 192 interactions, 2 organisations" in printed.err
    assert "round 4 of 4, loss" in printed.err
    assert "error" not in printed.err

    assert lab(monkeypatch, "simulate", "--out", tmp_path / "run", "--resume", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())


def test_without_privacy_the_claim_is_none(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    assert lab(monkeypatch, *tiny(tiny_data, tmp_path / "run"), "--epsilon", "none") == 0
    assert "WITHOUT privacy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "training.round=3"], "did you mean 'training.rounds'?"),
        (["--epsilon", "0"], "privacy.epsilon = 0.0: choose a positive number"),
        (["--epsilon", "-2"], "choose a positive number"),
        (["--epsilon", "lots"], "privacy.epsilon = 'lots' does not fit"),
        (["--delta", "0.5"], "privacy.delta = 0.5 is not below 1 / 12"),
        (["--organisations", "25", "--set", "lab.organisations=25"], "for 24 users"),
        (["--data", "no/such/folder"], "the folder does not exist"),
        (["--config", "no.toml"], "no.toml cannot be read"),
        (["--resume"], "holds no run to resume"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "run"
    privacy = ["--epsilon", "8", "--delta", "1e-2"]
    assert lab(monkeypatch, *tiny(tiny_data, out), *privacy, *options) == 2
    printed = capsys.readouterr()
    assert "error: " in printed.err
    assert message in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert not out.exists()


def test_privacy_must_be_stated(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    assert lab(monkeypatch, *tiny(tiny_data, tmp_path / "run")) == 2
    assert "privacy.epsilon has no default: state it with --epsilon" in capsys.readouterr().err


def test_an_unknown_option_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab(monkeypatch, "simulate", "--epsilo", "8") == 2
    assert "No such option" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simulations.commands.simulate.simulate", interrupt)
    options = [*tiny(tiny_data, tmp_path / "run"), "--epsilon", 8, "--delta", 1e-2]
    assert lab(monkeypatch, *options) == 130
    assert "continue with --resume" in capsys.readouterr().err


def test_sites_can_be_prepared_for_flowers_own_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    options = ["--data", tiny_data, "--out", out, "--organisations", 2]
    assert lab(monkeypatch, "prepare", *options, "--epsilon", 8, "--delta", 1e-2) == 0
    printed = capsys.readouterr().err
    assert f"flwr run . --run-config {out.resolve()}/flower.toml" in printed
    assert '"num-supernodes=2"' in printed


def test_settings_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab(monkeypatch, "settings", "--json") == 0
    listed = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["privacy.epsilon"]["default"] is None
    assert listed["training.rounds"]["default"] == "plan"
    assert lab(monkeypatch, "settings") == 0
    assert "training.rounds" in capsys.readouterr().out


def test_a_data_set_that_is_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert lab(monkeypatch, "data", "fetch", "ml-99m", "--to", tmp_path) == 2
    assert "Known are: ml-1m" in capsys.readouterr().err


def test_flowers_own_messages_are_left_out() -> None:
    script = """
import logging
from simulations.cli import main
try:
    main()
except SystemExit:
    from flwr.common.logger import log
    log(logging.INFO, "said by Flower")
    log(logging.WARNING, "warned by Flower")
"""
    command = [sys.executable, "-c", script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "warned by Flower" in done.stderr
    assert "said by Flower" not in done.stderr + done.stdout
