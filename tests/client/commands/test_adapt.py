"""What a partner types to adapt a published model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from client.home.store import load_home
from shared.models.attention import AttentionRecommender, build
from tests.conftest import MODEL, some_catalogue

if TYPE_CHECKING:
    from tests.conftest import Sites

    Command = Callable[..., int]


@pytest.fixture
def published(sites: Sites, tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    build(MODEL, sites.catalogue).save_pretrained(folder / "model")
    sites.catalogue.save(folder / "catalogue")
    return folder


def test_a_site_adapts_the_model_and_nothing_is_charged(
    sites: Sites, published: Path, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    site = sites.make("alpha", users=60)
    ledger = (site / "ledger.sqlite").read_bytes()
    assert sotto_node("adapt", published, "--site", site, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["users"] > 20
    assert answer["ndcg"] >= answer["ndcg_home"]
    assert (site / "ledger.sqlite").read_bytes() == ledger
    model = AttentionRecommender.from_pretrained(published / "model")
    home = load_home(Path(answer["file"]), model.next_item_scores, sites.catalogue.fingerprint)
    with torch.no_grad():
        assert home(torch.tensor([[1, 2]])).shape == (1, len(sites.catalogue))
    assert sotto_node("adapt", published, "--site", site) == 0
    printed = capsys.readouterr().out
    for words in ("federated model alone", "your own data alone", "adapted", "Nothing was sent"):
        assert words in printed


def test_what_is_not_a_published_model_is_refused(
    sites: Sites,
    published: Path,
    tmp_path: Path,
    sotto_node: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = sites.make("alpha")
    assert sotto_node("adapt", tmp_path / "none", "--site", site) == 2
    some_catalogue(items=len(sites.catalogue) + 1).save(published / "catalogue")
    assert sotto_node("adapt", published, "--site", site) == 2
    assert "same published folder" in capsys.readouterr().err
    sites.catalogue.save(published / "catalogue")
    broken = build(MODEL, sites.catalogue)
    with torch.no_grad():
        broken.item_scores.offset[0] = torch.nan  # type: ignore[index]  # the model has offsets
    broken.save_pretrained(published / "model")
    assert sotto_node("adapt", published, "--site", site) == 2
    assert "item_scores.offset holds values that are not finite" in capsys.readouterr().err
    assert not (site / "home.safetensors").exists()
