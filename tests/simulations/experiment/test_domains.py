"""Two catalogues in one federation: each organisation trains on and ranks its own items."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from client.cli import main as node
from shared.data.catalogue import Catalogue
from shared.errors import ConfigError
from simulations.cli import main as lab
from simulations.datasets.load import load
from simulations.experiment.domains import domain_of, keep_own_events, with_domains
from simulations.experiment.federation import sites_in
from simulations.experiment.partition import Scheme, partition
from tests.conftest import some_catalogue
from tests.simulations.conftest import ITEMS, TINY_SETTINGS

MASKED = (
    *("privacy.trust=secure-aggregation", "server.weighting=population", "training.rounds=1"),
    *("lab.organisations=4", "lab.domains=2", "lab.alone=false"),
)
Capture = pytest.CaptureFixture[str]


def run(patch: pytest.MonkeyPatch, side: str, *words: object) -> int:
    patch.setattr(sys, "argv", [f"sotto-{side}", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        (node if side == "node" else lab)()
    return int(end.value.code or 0)


def test_organisations_of_two_domains_train_one_model_and_rank_their_own_items(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = tmp_path / "run"
    settings = [f"--set={one}" for one in (*TINY_SETTINGS, *MASKED)]
    options = ("--data", tiny_data, "--epsilon", 8, "--delta", "1e-2", "--out", out)
    assert run(monkeypatch, "lab", "simulate", *options, *settings) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["evaluation"]["protocol"].endswith("each organisation's own items alone")
    catalogue = Catalogue.load(out / "catalogue")
    sizes = {name: catalogue.domains.count(name) for name in set(catalogue.domains)}
    assert len(sizes) == 2
    ranks = pq.read_table(out / "evaluation.parquet").to_pylist()
    for number, site in enumerate(sites_in(out / "sites")):
        own = domain_of(catalogue, number)
        events = pq.read_table(site / "interactions.parquet")["item_id"].to_pylist()
        assert {catalogue.domains[catalogue.index[item] - 1] for item in events} == {own}
        of_site = [row["rank"] for row in ranks if row["organisation"] == site.name]
        assert of_site
        assert max(of_site) <= sizes[own]

    site, model = out / "sites" / "org-1", ("--model", out)
    own_items = [
        item
        for item, name in zip(catalogue.item_ids, catalogue.domains, strict=True)
        if name == domain_of(catalogue, 0)
    ]
    others = sorted(set(catalogue.item_ids) - set(own_items))
    history = ("--history", ",".join(own_items[:2]), "--k", len(own_items))
    assert run(monkeypatch, "node", "adapt", out, "--site", site) == 0
    capsys.readouterr()
    listed = []
    for where in (("--site", site), ("--home", site / "home.safetensors")):
        words = ("recommend", *model, *history, *where, "--explain", "--json")
        assert run(monkeypatch, "node", *words) == 0
        listed.append([one["item"] for one in json.loads(capsys.readouterr().out)])
    assert listed[0] == listed[1]
    assert set(listed[0]) == set(own_items[2:])
    asked = ("recommend", *model, "--history", others[0], "--site", site)
    assert run(monkeypatch, "node", *asked) == 2
    assert f"does not have in '{domain_of(catalogue, 0)}'" in capsys.readouterr().err
    assert run(monkeypatch, "node", "evaluate", out, "--site", site, "--k", 3) == 0


def test_users_keep_their_events_on_their_organisations_items(tiny_data: Path) -> None:
    data = load(tiny_data)
    data = replace(data, catalogue=with_domains(data.catalogue, 2))
    parts = partition(data, 4, Scheme.USER, seed=0)
    kept, rows = keep_own_events(data, parts)
    assert sum(map(len, rows)) == len(kept.histories)
    assert (kept.histories.lengths >= 2).all()
    before = dict(zip(data.histories.users, map(list, data.histories), strict=True))
    domains = kept.catalogue.domains
    for number, part in enumerate(rows):
        own = domain_of(kept.catalogue, number)
        for row in part:
            wanted = [i for i in before[kept.histories.users[row]] if domains[i - 1] == own]
            assert list(kept.histories[row]) == wanted


def test_a_number_of_domains_that_cannot_be_is_refused() -> None:
    named = replace(some_catalogue(), domains=("a", "b") * 10)
    assert with_domains(named, 2) is named
    assert not with_domains(named, 1).domains
    with pytest.raises(ConfigError, match="the items' column `domain` names 2: a, b"):
        with_domains(named, 3)
    with pytest.raises(ConfigError, match=f"but {ITEMS + 2} items fill"):
        with_domains(some_catalogue(), 100)
