"""What a partner types to see what left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load

from tests.client.ledger.spending import FIRST, SECOND, Spending

if TYPE_CHECKING:
    from tests.conftest import Sites

    Command = Callable[..., int]


@pytest.fixture
def lived(sites: Sites) -> Spending:
    spending = Spending(sites.make("alpha", {"policy.max_epsilon": 2.0}))
    spending.live()
    return spending


@pytest.fixture
def listed(
    lived: Spending, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    assert sotto_node("outbox", "--json", "--site", lived.folder) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_every_answer_is_listed(
    lived: Spending, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sotto_node("outbox", "--site", lived.folder) == 0
    printed = capsys.readouterr().out
    for sent in lived.ledger.outbox():
        [line] = [text for text in printed.splitlines() if text.startswith(f"{sent.number}  ")]
        for cell in (sent.at[:10], sent.run, sent.kind, str(sent.bytes), sent.sha256[:8]):
            assert cell in line
    assert "[1] blocks.0.query 4×3, item_bias 20" in printed
    assert "[2] sums 3" in printed
    assert "9 answers" in printed


def test_the_outbox_as_data(lived: Spending, listed: list[dict[str, Any]]) -> None:
    assert [(sent["run"], sent["kind"], sent["round"]) for sent in listed] == [
        *[(FIRST, "train", 1), (FIRST, "train", 2), (FIRST, "evaluate", 2)],
        *[(FIRST, "train", 3), (FIRST, "train", 4), (FIRST, "evaluate", 4)],
        *[(FIRST, "train", 5), (SECOND, "train", 1), (SECOND, "train", 2)],
    ]
    assert listed[0]["arrays"] == [
        {"name": "blocks.0.query", "dtype": "F32", "shape": [4, 3]},
        {"name": "item_bias", "dtype": "F32", "shape": [20]},
    ]
    assert [sent["kept"] for sent in listed[:2]] == [False, False]
    last = lived.ledger.sent_body(listed[-1]["number"])
    assert last is not None
    assert listed[-1]["sha256"] == hashlib.sha256(last).hexdigest()
    assert listed[-1]["bytes"] == len(last)


def test_an_answers_values_are_shown_and_its_bytes_written(
    lived: Spending,
    listed: list[dict[str, Any]],
    sotto_node: Command,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    number, out = listed[-1]["number"], tmp_path / "answer.safetensors"
    assert sotto_node("outbox", "show", number, "--out", out, "--site", lived.folder) == 0
    printed = capsys.readouterr()
    assert out.read_bytes() == lived.ledger.sent_body(number)
    assert f"{listed[-1]['bytes']} bytes written" in printed.err
    assert listed[-1]["sha256"] in printed.out
    bias = load(out.read_bytes())["item_bias"].astype(float)
    [line] = [text for text in printed.out.splitlines() if text.startswith("item_bias")]
    for figure in (bias.min(), bias.mean(), bias.max(), bias.std()):
        assert f"{figure:.4g}" in line

    assert sotto_node("outbox", "show", number, "--json", "--site", lived.folder) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert list(figures) == ["blocks.0.query", "item_bias"]
    np.testing.assert_allclose(figures["item_bias"]["deviation"], bias.std())


def test_an_answer_that_is_no_longer_kept_says_so(
    lived: Spending,
    listed: list[dict[str, Any]],
    sotto_node: Command,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "answer.safetensors"
    command = ["outbox", "show", listed[0]["number"], "--site", lived.folder]
    assert sotto_node(*command, "--out", out) == 1
    printed = capsys.readouterr()
    assert "no longer kept" in printed.err
    assert listed[0]["sha256"] in printed.out
    assert "blocks.0.query" in printed.out
    assert not out.exists()
    assert sotto_node(*command, "--json") == 1
    assert json.loads(capsys.readouterr().out)["figures"] == {}


def test_a_number_that_is_no_answer_is_explained(
    lived: Spending, sotto_node: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number in (1, 2, 999):
        assert sotto_node("outbox", "show", number, "--site", lived.folder) == 2
        assert f"no answer has the number {number}" in capsys.readouterr().err
    last = lived.ledger.outbox()[-1].number
    out = tmp_path / "no" / "folder"
    assert sotto_node("outbox", "show", last, "--out", out, "--site", lived.folder) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_before_the_first_answer_the_outbox_says_so(
    sites: Sites, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    site = sites.make("alpha")
    assert sotto_node("outbox", "--site", site) == 0
    assert capsys.readouterr().out == "No answer has left this site yet.\n"
    assert sotto_node("outbox", "--json", "--site", site) == 0
    assert json.loads(capsys.readouterr().out) == []
