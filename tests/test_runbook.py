"""The runbook names everything that can be seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from server.state.status import RunState
from shared.config import PrivacyConfig, RunConfig
from shared.outcomes import Outcome, Refusal
from shared.system import command_line as commands

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def rows(title: str) -> list[str]:
    """The first cell of each row of a section's table."""
    section = TEXT.split(f"## {title}\n", 1)[1].split("\n## ")[0]
    return [row.split("|")[1].strip().strip("`") for row in section.splitlines() if row[:1] == "|"]


@pytest.mark.parametrize(
    ("title", "named"),
    [
        ("States of a run", set(RunState)),
        ("Outcomes of an organisation's part in a round", set(Outcome)),
    ],
)
def test_every_state_and_outcome_has_a_line_and_no_other(title: str, named: set[str]) -> None:
    head, line, *found = rows(title)
    assert (head, set(line)) == (head, {"-"})
    assert len(found) == len(set(found))
    assert set(found) == named


def test_every_alert_has_a_line() -> None:
    text = (ROOT / "server" / "deploy" / "alerts.yaml").read_text(encoding="utf-8")
    alerts = [rule["alert"] for rule in yaml.safe_load(text)["groups"][0]["rules"]]
    assert rows("Alerts")[2:] == alerts


def test_every_refusal_is_explained() -> None:
    explained = TEXT.split("its code: ")[1].split(";")[0]
    assert set(re.findall(r"`(\w+)`", explained)) == set(Refusal)
    assert {Outcome.of(code) for code in Refusal} == {o for o in Outcome if "refused" in o}


def test_every_exit_code_has_a_line() -> None:
    stated = {
        int(code) for code in re.findall(r"\|\s+(\d+)\s+\|$", commands.__doc__ or "", flags=re.M)
    }
    assert stated == {0, 1, 2, 130}
    assert stated <= {int(code) for code in rows("Exit codes")[2:]}


def test_what_passes_is_what_is_retried() -> None:
    told = TEXT.split("\n`missing`, ")[1].split(" may pass")[0]
    found = {"missing", *re.findall(r"`([\w-]+)`", told)}
    assert found == {outcome for outcome in Outcome if outcome.retryable}


def test_what_may_be_changed_is_what_the_fingerprint_leaves_out() -> None:
    config = RunConfig(privacy=PrivacyConfig(epsilon=8.0, delta=1e-5))
    free = {key for key in config.to_flat() if key not in config.identity}
    # Settings of secure aggregation belong to a run's identity only where privacy.trust says so.
    free -= {f"privacy.{name}" for name in ("trust", "colluding", "dropouts", "masking")}
    # And those of groups, logit adjustment and kinds of model only where they say something.
    free -= {"groups.tables", "groups.share", "groups.weights", "groups.robust", "training.debias"}
    free -= {"model.augment", "training.patience"}
    free -= {key for key in free if key.startswith("over_use.")} | {
        "model.kind",
        "model.recurrent_size",
        "model.query_size",
        "model.text_width",
        "model.text_blocks",
        "model.lora_rank",
        "model.friends",
    }
    told = TEXT.split("when a run is resumed: ")[1].split(" and paths")[0]
    assert set(re.findall(r"`([\w.]+)`", told)) == {k for k in free if not k.startswith("paths.")}
