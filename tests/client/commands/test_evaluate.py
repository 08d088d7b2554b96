"""What a partner types to see how good the model is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.data.reading import write_interactions
from shared.models.attention import build
from tests.conftest import MODEL, some_catalogue, some_histories

if TYPE_CHECKING:
    from tests.conftest import Sites

    Command = Callable[..., int]
    Capture = pytest.CaptureFixture[str]


def publish(folder: Path, items: int = 20) -> Path:
    catalogue = some_catalogue(items)
    build(MODEL, catalogue).save_pretrained(folder / "model")
    catalogue.save(folder / "catalogue")
    return folder


def test_a_site_sees_a_table_a_picture_and_json(
    sites: Sites, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    site, model = sites.make("alpha", users=60), publish(tmp_path / "new")
    before, ledger = publish(tmp_path / "old"), (site / "ledger.sqlite").read_bytes()
    asked = ("evaluate", model, "--before", before, "--site", site)
    picture = tmp_path / "figures.png"
    assert sotto_node(*asked, "--plot", picture) == 0
    printed = capsys.readouterr().out
    for words in ("most popular", "own data alone", "published model, adapted", "model before"):
        assert words in printed
    assert "Last events of 60 users" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sotto_node(*asked, "--json", "--k", 5, "--users", 30) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["users"], answer["of"]) == (30, 60)
    assert set(answer["models"]["federated_home"]) == {
        *("hr@5", "ndcg@5", "mrr@5", "coverage@5", "ndcg_half_width"),
    }
    assert answer["renewing"]["mean"] is not None
    assert (site / "ledger.sqlite").read_bytes() == ledger


def test_a_file_is_enough_to_adapt_and_to_evaluate(
    tmp_path: Path, sotto_node: Command, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = publish(tmp_path / "published")
    write_interactions(some_histories(40), some_catalogue(), tmp_path / "mine.parquet")
    assert sotto_node("adapt", model, "--data", "mine.parquet") == 0
    assert (tmp_path / "home.safetensors").exists()
    assert sotto_node("evaluate", model, "--data", "mine.parquet") == 0
    assert "Joining" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(
    sites: Sites, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    site, model = sites.make("alpha"), publish(tmp_path / "new")
    asked = ("evaluate", model, "--site", site)
    other = publish(tmp_path / "other", items=21)
    for words, said in (
        (("--before", other), "other items"),
        (("--k", 21), "--k 21"),
        (("--plot", tmp_path / "a.xyz"), "ends in"),
        (("--plot", tmp_path / "none" / "a.png"), "cannot be written"),
    ):
        assert sotto_node(*asked, *words) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    lonely = tmp_path / "lonely.csv"
    lonely.write_text("user_id,item_id,timestamp\na,i1,1\nb,i2,1\n")
    assert sotto_node("evaluate", model, "--data", lonely) == 2
    assert "two events" in capsys.readouterr().err


def test_the_price_of_another_order_stands_beside_the_plain_lists(
    sites: Sites, tmp_path: Path, sotto_node: Command, capsys: Capture
) -> None:
    site, model = sites.make("alpha", users=60), publish(tmp_path / "new")
    asked = ("evaluate", model, "--site", site)
    assert sotto_node(*asked, "--json", "--k", 5) == 0
    plain = json.loads(capsys.readouterr().out)
    assert "rerank" not in plain
    order = ("--rerank", "exposure", "--rerank-strength", 0.4)
    assert sotto_node(*asked, "--json", "--k", 5, *order) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["rerank"]["how"] == "exposure, strength 0.4"
    assert answer["models"] == plain["models"]
    assert list(answer["rerank"]["models"]) == ["federated", "federated_home"]
    for name, both in answer["rerank"]["models"].items():
        assert both["before"]["ndcg@5"] == pytest.approx(plain["models"][name]["ndcg@5"])
        assert set(both["after"]) == {"hr@5", "ndcg@5", "coverage@5", "exposure_rare"}  # no genres
    assert any(both["after"] != both["before"] for both in answer["rerank"]["models"].values())
    assert sotto_node(*asked, *order) == 0
    assert "published model, adapted" in (printed := capsys.readouterr().out)
    assert printed.count("  reranked") == 2
    for words in (("--rerank", "calibrated"), ("--feedback", "--rerank", "exposure")):
        assert sotto_node(*asked, *words) == 2
