"""What a partner types to adapt a published model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors import safe_open

import client.home.adapt
import client.home.local_attention
from client.home.private import MEMORY, Guarantee, transition_sum
from client.home.store import domains_of, load_home
from client.serving.published import load_published
from client.site.own_data import OwnData
from client.site.site import Site
from shared.models.attention import AttentionRecommender, build
from shared.privacy.accounting.accountant import epsilon
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


def stated_guarantee(about: dict[str, str]) -> Guarantee:
    return Guarantee(float(about["epsilon"]), float(about["delta"]))


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


def test_a_file_of_one_domain_is_adapted_to_without_a_site(
    sites: Sites,
    published: Path,
    tmp_path: Path,
    sotto_node: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site, half = sites.make("alpha", users=60), len(sites.catalogue) // 2
    replace(sites.catalogue, domains=("films", "books") * half).save(published / "catalogue")
    data, home = Site.load(site).data.source, tmp_path / "home.safetensors"
    named = ("adapt", published, "--data", site / data, "--out", home)
    assert sotto_node(*named, "--domain", "books") == 0
    assert domains_of(home) == ("books",)
    books, model = load_published(published, domains=["books"])
    ranked = load_home(home, model.next_item_scores, books.fingerprint)
    with torch.no_grad():
        assert ranked(torch.tensor([[1, 2]])).shape == (1, half)
    assert sotto_node(*named, "--domain", "songs") == 2
    assert "'songs'" in capsys.readouterr().err
    assert sotto_node("adapt", published, "--site", site, "--domain", "books") == 2
    assert "data.domains" in capsys.readouterr().err


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


PRIVATE = {"home.private": True, "home.epsilon": 4.0, "home.max_epsilon": 5.0}


def test_a_private_model_is_charged_and_holds_noise_alone(
    sites: Sites, published: Path, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    site = sites.make("alpha", {**PRIVATE, "data.friends": "friends.csv"}, users=60)
    assert sotto_node("adapt", published, "--site", site, "--json") == 0
    shown = capsys.readouterr()
    assert "friends.csv is left out: a private home model takes no friends" in " ".join(
        shown.err.split()
    )
    answer = json.loads(shown.out)
    assert (answer["epsilon"], answer["delta"], answer["max_epsilon"]) == (4.0, 1e-3, 5.0)
    assert answer["spent"] == pytest.approx(4.0, rel=0.01)
    assert set(answer) == {"epsilon", "delta", "spent", "max_epsilon", "file"}
    file, owner = Path(answer["file"]), Site.load(site)
    with safe_open(file, "numpy") as opened:
        assert stated_guarantee(opened.metadata()) == Guarantee(4.0, 1e-3)
        assert "popularity" not in opened.keys()  # noqa: SIM118 it is no dict
        stored = opened.get_tensor("data")
    exact = OwnData.of_site(owner).histories(sites.catalogue)
    chosen = np.arange(1, len(sites.catalogue) + 1)
    counts = transition_sum(exact, len(sites.catalogue), chosen, MEMORY).astype(np.float32)
    assert not set(stored[stored != 0].tolist()) & set(counts[counts > 0].tolist())
    assert owner.open_ledger().spent(1e-3) == 0
    assert sotto_node("budget", "--site", site) == 0
    assert "Private home models, which your own users are shown: 1" in capsys.readouterr().out


def test_adapting_again_charges_again_and_ends_at_the_limit(
    sites: Sites, published: Path, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    site = sites.make("alpha", PRIVATE, users=60)
    file = site / "home.safetensors"
    ledger = Site.load(site).open_ledger()
    assert sotto_node("adapt", published, "--site", site) == 0
    assert (
        "home.max_epsilon = 5 is spent by all private home models so far" in capsys.readouterr().out
    )
    made, spent = file.read_bytes(), ledger.home_releases()
    assert sotto_node("adapt", published, "--site", site) == 2
    assert "home.max_epsilon is 5" in capsys.readouterr().err
    assert file.read_bytes() == made
    assert ledger.home_releases() == spent
    assert sotto_node("adapt", published, "--site", site, "--epsilon", 1.0) == 0
    assert 4.0 < epsilon(ledger.home_releases(), 1e-3) <= 5.0


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({}, ["--private"], "home.max_epsilon"),
        ({}, ["--private", "--epsilon", 1.0], "home.max_epsilon"),
        ({}, ["--epsilon", 1.0], "--private"),
        (PRIVATE, ["--delta", 1e-5], "policy.delta"),
        (PRIVATE, ["--epsilon", -1.0], "epsilon must be a positive number"),
        (PRIVATE, ["--out", "/no/such/folder/home.st"], "cannot be written"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_charged(
    sites: Sites,
    published: Path,
    sotto_node: Command,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, object],
    options: list[object],
    words: str,
) -> None:
    site = sites.make("alpha", settings, users=60)
    assert sotto_node("adapt", published, "--site", site, *options) == 2
    assert words in capsys.readouterr().err
    assert Site.load(site).open_ledger().home_releases() == []
    assert not (site / "home.safetensors").exists()


def test_without_a_site_both_numbers_are_stated(
    sites: Sites,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sotto_node: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = sites.make("alpha", users=60)
    source = Site.load(site).data.source
    monkeypatch.chdir(tmp_path)
    adapt = ("adapt", published, "--data", site / source, "--private", "--epsilon", 2.0)
    assert sotto_node(*adapt) == 2
    assert "--delta" in capsys.readouterr().err
    assert sotto_node(*adapt, "--delta", 1e-4) == 0
    assert "no ledger remembers it" in capsys.readouterr().out
    with safe_open(tmp_path / "home.safetensors", "numpy") as opened:
        assert stated_guarantee(opened.metadata()) == Guarantee(2.0, 1e-4)


def test_a_site_that_promises_privacy_shows_no_exact_model(
    sites: Sites, published: Path, sotto_node: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    site = sites.make("alpha", users=60)
    assert sotto_node("adapt", published, "--site", site) == 0
    history = ",".join(sites.catalogue.item_ids[:2])
    recommend = ("recommend", "--model", published, "--site", site, "--history", history)
    assert sotto_node(*recommend) == 0
    text = (site / "site.toml").read_text()
    table = "[home]\nprivate = true\nepsilon = 4.0\nmax_epsilon = 6.0\n"
    (site / "site.toml").write_text(f"{text}\n{table}")
    assert sotto_node(*recommend) == 2
    assert "it holds exact counts, and home.private = true" in capsys.readouterr().err
    assert sotto_node("adapt", published, "--site", site) == 0
    assert sotto_node(*recommend) == 0


def test_an_own_attention_model_takes_part_where_it_is_asked_for(
    sites: Sites,
    published: Path,
    sotto_node: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client.home.local_attention, "MOST_EPOCHS", 2)
    monkeypatch.setattr(client.home.adapt, "TRAINING", -1e9)
    site = sites.make("alpha", users=60)
    assert sotto_node("adapt", published, "--site", site, "--attention") == 0
    printed = capsys.readouterr().out
    assert "attention on your own data" in printed
    with safe_open(site / "home.safetensors", "numpy") as opened:
        kept = "attention" in opened.metadata()
    assert kept is ("an attention model of your own data" in printed)
    history = ",".join(sites.catalogue.item_ids[:2])
    assert sotto_node("recommend", "--model", published, "--site", site, "--history", history) == 0
    assert sotto_node("evaluate", published, "--site", site, "--attention", "--json") == 0
    assert sotto_node("adapt", published, "--site", site, "--attention", "--private") == 2
