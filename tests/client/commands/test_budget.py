"""What a partner types about its budget: exit codes, what is printed, and where."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from shared.errors import BudgetExceeded
from shared.outcomes import Refusal
from tests.client.ledger.spending import FIRST, SECOND, Spending

if TYPE_CHECKING:
    from tests.conftest import Sites

    Command = Callable[..., int]


@pytest.fixture
def lived(sites: Sites) -> Spending:
    spending = Spending(sites.make("alpha", {"policy.max_epsilon": 2.0}))
    spending.live()
    return spending


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_the_budget_is_printed_by_run(
    lived: Spending, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sotto_node("budget", "--site", lived.folder) == 0
    printed = capsys.readouterr()
    spent = lived.ledger.spent(1e-3)
    assert f"spent ε = {spent:.4g} of 2, left {2 - spent:.4g} (δ = 0.001)" in printed.out
    for text in (FIRST, SECOND, "evaluate", "2 ", "1.5", Refusal.BUDGET.sentence):
        assert text in printed.out
    assert "More rounds like the last one (σ 1.5, q 0.1, steps 2) that fit: " in printed.out
    assert printed.err == ""


def test_a_budget_that_is_used_up_says_that_no_round_fits(
    sites: Sites, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    spending = Spending(sites.make("alpha", {"policy.max_epsilon": 0.25}))
    with contextlib.suppress(BudgetExceeded):
        for number in range(1, 100):
            spending.round(FIRST, number)
    assert sotto_node("budget", "--site", spending.folder) == 0
    assert (
        "No further round like the last one (σ 2, q 0.1, steps 1) fits." in capsys.readouterr().out
    )


def test_before_the_first_round_the_budget_says_what_to_do(
    sites: Sites, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    site = sites.make("alpha", {"policy.max_epsilon": 2.0})
    assert sotto_node("budget", "--site", site) == 0
    assert "No round was charged yet." in capsys.readouterr().out


def test_the_budget_as_data(
    lived: Spending, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sotto_node("budget", "--json", "--site", lived.folder) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spent"] == lived.ledger.spent(1e-3)
    assert (found["limit"], found["left"]) == (2.0, 2.0 - found["spent"])
    assert [(run["run"], run["rounds"]) for run in found["runs"]] == [(FIRST, 5), (SECOND, 2)]
    assert found["runs"][1]["releases"] == [
        {"kind": "train", "noise_multiplier": 1.5, "sample_rate": 0.1, "steps": 4, "shares": 1}
    ]
    assert found["refusals"] == {"budget": 2, "policy": 1}
    assert found["following"]["like"]["steps"] == 2


def test_infinity_is_null(
    sites: Sites, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    spending = Spending(sites.make("alpha"))
    spending.round(FIRST, 1, 0.0)
    assert sotto_node("budget", "--json", "--site", spending.folder) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["limit"], found["spent"], found["left"]) == (None, None, None)
    assert sotto_node("budget", "--site", spending.folder) == 0
    assert "spent ε = ∞ of ∞" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["folder", "variable", "here"])
def test_a_site_is_found(
    lived: Spending,
    sotto_node: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    options = ["--site", lived.folder / "site.toml"] if way == "folder" else []
    if way == "variable":
        monkeypatch.setenv("SOTTO_SITE", str(lived.folder))
    if way == "here":
        monkeypatch.chdir(lived.folder)
    assert sotto_node("budget", *options) == 0
    assert "alpha" in capsys.readouterr().out
    assert sotto_node("budget", "verify", *options) == 0


def test_a_folder_without_a_site_is_explained(
    tmp_path: Path, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["budget"], ["budget", "verify"], ["budget", "restore"], ["outbox"]):
        assert sotto_node(*command, "--site", tmp_path) == 2
        printed = capsys.readouterr()
        assert "site.toml: not readable" in " ".join(printed.err.split())
        assert printed.out == ""


def test_an_option_before_a_subcommand_is_an_error(
    lived: Spending, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sotto_node("budget", "--json", "--site", lived.folder, "verify") == 2
    error = capsys.readouterr().err
    assert "--json" in error
    assert "--site" in error
    assert "after 'verify'" in error


def test_the_plot_is_written(lived: Spending, sotto_node: Command, tmp_path: Path) -> None:
    assert sotto_node("budget", "--plot", tmp_path / "b.png", "--site", lived.folder) == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert sotto_node("budget", "--plot", tmp_path / "b.gif", "--site", lived.folder) == 2


# --- verify ------------------------------------------------------------------------------------


def test_an_intact_ledger_is_verified(
    lived: Spending, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = len(lived.ledger.history())
    assert sotto_node("budget", "verify", "--site", lived.folder) == 0
    assert capsys.readouterr().out.startswith(f"{entries} entries")
    assert sotto_node("budget", "verify", "--json", "--site", lived.folder) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"whole": True, "entries": entries, "problem": None}


def edit(spending: Spending) -> None:
    """One charge becomes smaller, in a database that lets it."""
    with sqlite3.connect(spending.site.ledger_file) as database:
        database.execute("DROP TRIGGER entries_stay")
        database.execute("UPDATE entries SET body = replace(body, '\"steps\":2', '\"steps\":1')")
    database.close()


def lose_the_anchor(spending: Spending) -> None:
    spending.site.anchor_file.unlink()


def lose_the_ledger(spending: Spending) -> None:
    spending.site.ledger_file.unlink()


@pytest.mark.parametrize("harm", [edit, lose_the_anchor, lose_the_ledger])
def test_a_broken_ledger_gives_exit_code_1(
    lived: Spending,
    sotto_node: Command,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Spending], None],
) -> None:
    harm(lived)
    assert sotto_node("budget", "verify", "--site", lived.folder) == 1
    assert lived.folder.parent.name in capsys.readouterr().out
    assert sotto_node("budget", "verify", "--json", "--site", lived.folder) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["whole"], found["entries"]) == (False, None)
    assert found["problem"]
    for command in ("budget", "outbox"):
        assert sotto_node(command, "--site", lived.folder) == 2
        assert "sotto-node budget restore" in " ".join(capsys.readouterr().err.split())


# --- putting it right --------------------------------------------------------------------------


def test_a_lost_ledger_is_restored_after_a_question(
    lived: Spending,
    sotto_node: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spent = lived.ledger.spent(1e-3)
    edit(lived)
    for refusal in ("n\n", "\n", ""):
        answer(monkeypatch, refusal)
        assert sotto_node("budget", "restore", "--site", lived.folder) == 1
        printed = capsys.readouterr()
        assert "a new one starts with all charges that the anchor holds" in " ".join(
            printed.err.split()
        )
        assert "Nothing was changed" in printed.err
    assert sotto_node("budget", "verify", "--site", lived.folder) == 1, "nothing was changed"
    capsys.readouterr()

    answer(monkeypatch, "y\n")
    assert sotto_node("budget", "restore", "--site", lived.folder) == 0
    assert f"ε = {spent:.4g} of 2 spent" in capsys.readouterr().out
    assert lived.ledger.spent(1e-3) == spent
    assert list(lived.folder.glob("ledger.sqlite.set-aside-*"))
    assert sotto_node("budget", "verify", "--site", lived.folder) == 0


def test_a_ledger_without_an_anchor_is_not_restored(
    lived: Spending, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    lose_the_anchor(lived)
    assert sotto_node("budget", "restore", "--yes", "--site", lived.folder) == 2
    assert "must be written off" in " ".join(capsys.readouterr().err.split())


def test_a_budget_is_written_off_with_a_reason(
    lived: Spending,
    sotto_node: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["budget", "write-off", "--site", lived.folder]
    assert sotto_node(*command) == 2
    assert "--reason" in capsys.readouterr().err
    assert sotto_node(*command, "--reason", " ") == 2
    answer(monkeypatch, "no\n")
    assert sotto_node(*command, "--reason", "the disk burnt") == 1
    assert "there is no need for this" in " ".join(capsys.readouterr().err.split())
    assert lived.ledger.spent(1e-3) < 2

    lose_the_anchor(lived)
    assert sotto_node(*command, "--reason", "the disk burnt", "--yes") == 0
    printed = capsys.readouterr()
    assert "no need" not in printed.err
    assert "ε = ∞ of 2 spent" in printed.out
    assert lived.ledger.history()[0].fields["reason"] == "the disk burnt"
    assert sotto_node("budget", "--site", lived.folder) == 0
    assert "left 0" in capsys.readouterr().out


def test_ctrl_c_at_the_question_changes_nothing(
    lived: Spending, sotto_node: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=interrupt))
    assert sotto_node("budget", "restore", "--site", lived.folder) == 130
    assert not list(lived.folder.glob("*.set-aside-*"))
