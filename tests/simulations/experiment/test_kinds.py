"""A whole run of other kinds of model: saved, loaded, served and explained; one of them masked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from client.cli import main as node
from client.serving.recommender import Recommender
from client.site.site import Site
from server.state.checkpoint import Checkpoint
from shared.data.catalogue import Catalogue
from shared.data.feature_blocks import FeatureBlock
from shared.data.friends import read_friends
from shared.errors import RequestError
from shared.item_features.tfidf import text_features
from shared.models.gates import gate_shares
from shared.models.lstm import LstmRecommender
from shared.models.modalities import ModalitiesRecommender
from shared.models.query import SHARES_SCALE, QueryRecommender
from shared.models.registry import load_recommender
from shared.models.social import SocialRecommender
from shared.models.text import TextRecommender
from simulations.cli import main
from simulations.datasets.load import load, load_items
from simulations.experiment.federation import site_histories, sites_in
from tests.simulations.conftest import TINY_SETTINGS
from tests.tiny_encoder import WIDTH, save_encoder

RUN = (
    *("privacy.trust=secure-aggregation", "server.weighting=population", "lab.organisations=4"),
    *("model.kind=lstm", "model.trained=all", "model.recurrent_size=4", "lab.alone=false"),
)


def simulate(
    data: Path, out: Path, epsilon: str, settings: Sequence[str], patch: pytest.MonkeyPatch
) -> None:
    """Runs `sotto-lab simulate` in this process."""
    options = ["simulate", "--data", str(data), "--epsilon", epsilon, "--delta", "1e-2"]
    lab([*options, "--out", str(out), *(f"--set={one}" for one in settings)], patch)


def lab(words: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """Runs `sotto-lab` in this process."""
    patch.setattr(sys, "argv", ["sotto-lab", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


def test_a_masked_run_trains_saves_and_serves_a_recurrent_model(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, settings = tmp_path / "run", (*TINY_SETTINGS, *RUN, "training.rounds=2")
    simulate(tiny_data, out, "8", settings, monkeypatch)
    result = json.loads((out / "result.json").read_text())
    assert result["privacy"]["trust"] == "secure-aggregation"
    assert {"federated", "federated_home"} <= set(result["evaluation"]["models"])
    releases = result["privacy"]["organisations"][0]["releases"]
    assert {one["kind"] for one in releases} == {"statistics", "train"}

    model, checkpoint = load_recommender(out / "model"), Checkpoint.load(out)
    assert isinstance(model, LstmRecommender)
    assert checkpoint.weights["lstm_out.weight"].any()  # it begins at 0
    np.testing.assert_array_equal(
        model.lstm_out.weight.detach().numpy(), checkpoint.weights["lstm_out.weight"]
    )
    recommender = Recommender.load(out)
    assert not recommender.build_index()  # no product of vectors: exact search stays
    history = list(recommender.catalogue.item_ids[:3])
    first, second, *_ = recommender.recommend(history, 4, explain=True)
    shares = []
    for item in (first, second):
        assert item.explanation is not None
        shares.append([event.attention for event in item.explanation.events])
        assert None not in shares[-1]
        assert sum(share or 0.0 for share in shares[-1]) == pytest.approx(1, abs=1e-5)
    assert shares[0] != shares[1]  # attention is the item's own


def test_a_run_adapts_an_encoder_and_serves_without_it(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From `items encode` to recommendations; a noised, masked run with cold items."""
    encoder, catalogue, out = save_encoder(tmp_path / "tiny"), tmp_path / "items", tmp_path / "run"
    words = ["items", "encode", "--encoder", str(encoder), "--adaptable", "1", "--size", "4"]
    lab([*words, "--data", str(tiny_data), "--out", str(catalogue)], monkeypatch)
    settings = [f"lab.catalogue={catalogue}", "model.kind=text", f"model.text_width={WIDTH}"]
    settings += ["training.rounds=1", "lab.cold=0.1", *RUN[:3], "lab.alone=false"]
    settings += ["groups.tables=taste=2", "groups.share=0.1"]
    simulate(tiny_data, out, "8", (*TINY_SETTINGS, *settings), monkeypatch)
    model, checkpoint = load_recommender(out / "model"), Checkpoint.load(out)
    assert isinstance(model, TextRecommender)
    adapters = [name for name in checkpoint.weights if name.startswith("features.blocks")]
    assert len(adapters) == 2
    assert all(checkpoint.weights[name].any() for name in adapters)  # they begin at 0
    frozen = Catalogue.load(out / "catalogue").features
    assert frozen is not None
    assert not torch.allclose(model.features.table[:, :4], frozen, atol=1e-3)
    recommender = Recommender.load(out)
    first, *_ = recommender.recommend(list(recommender.catalogue.item_ids[:3]), 4, explain=True)
    assert first.explanation is not None
    assert first.explanation.events
    result = json.loads((out / "result.json").read_text())
    models = result["evaluation"]["models"]
    assert {"federated", "federated_home", "federated_new"} <= set(models)
    assert {"hr@10", "ndcg@10", "coverage@10"} <= set(models["federated"])
    [table] = result["groups"]["exact"]["federated"]
    assert sum(group["users"] for group in table["groups"]) == result["evaluation"]["users"]


def test_a_run_learns_from_queries_and_serves_them(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without noise, so that what moved was moved by the queries that the sites read."""
    out, table = tmp_path / "run", tmp_path / "queries.csv"
    rows = [
        f"u{user},i{user % 12},story {user % 12 % 5},{user % 4},{user % 3}" for user in range(24)
    ]
    table.write_text("\n".join(["user_id,item_id,query,timestamp,age", *rows]) + "\n")
    settings = ["model.kind=query", f"lab.queries={table}", "lab.organisations=2"]
    settings += ["lab.query_attributes=age"]
    settings += ["model.query_size=2", "training.rounds=1"]
    simulate(tiny_data, out, "none", (*TINY_SETTINGS, *settings), monkeypatch)
    model = load_recommender(out / "model")
    assert isinstance(model, QueryRecommender)
    assert model.query_out.weight.any()
    assert (model.query_shares.weight != 1 / SHARES_SCALE).all()
    sites = list(out.glob("sites/*/site.toml"))
    assert len(sites) == 2
    assert all(Site.load(site.parent).data.query_attributes == ("age",) for site in sites)

    recommender = Recommender.load(out)
    history = list(recommender.catalogue.item_ids[:3])
    plain = recommender.recommend(history, 4)
    assert recommender.for_query("  ").recommend(history, 4) == plain
    with torch.no_grad():  # as it starts, where words decide
        model.query_out.weight.zero_()
        model.query_shares.weight.copy_(torch.tensor([[100.0], [1.0]]) / SHARES_SCALE)
    model.save_pretrained(out / "model")
    capsys.readouterr()
    words = ["--history", ",".join(history), "--query", "STORY 2", "--k", "3", "--json"]
    words += ["--attribute", "age=1"]
    monkeypatch.setattr(sys, "argv", ["sotto-node", "recommend", "--model", str(out), *words])
    with pytest.raises(SystemExit) as end:
        node()
    assert not end.value.code
    listed = json.loads(capsys.readouterr().out)
    assert all("story 2" in one["title"] for one in listed)
    monkeypatch.setattr(sys, "argv", [*sys.argv[:6], "--attribute", "age=1"])
    with pytest.raises(SystemExit) as end:
        node()
    assert end.value.code == 2
    assert "--query WORDS" in capsys.readouterr().err
    assert sum(one["score"] for one in listed) <= 1 + 1e-6
    with pytest.raises(RequestError, match="has no letter and no digit"):
        recommender.for_query("?!")


def test_a_run_learns_what_friends_count_and_home_begins_with_it(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two organisations: friends at the other one are left out, and those beyond the bound."""
    out, table = tmp_path / "run", tmp_path / "friends.csv"
    users = load(tiny_data).histories.users
    pairs = [(one, other) for one in users for other in users[:8] if one < other]
    table.write_text("\n".join(["user,friend", *map(",".join, pairs)]) + "\n")
    settings = ["model.kind=social", "model.friends=2", f"lab.friends={table}"]
    settings += ["lab.organisations=2", "training.rounds=2", "training.sample_rate=1"]
    simulate(tiny_data, out, "8", (*TINY_SETTINGS, *settings), monkeypatch)
    model, result = load_recommender(out / "model"), json.loads((out / "result.json").read_text())
    assert isinstance(model, SocialRecommender)
    friends = result["friends"]
    assert (friends["alpha"], friends["beta"]) == (model.alpha, model.beta)
    assert model.alpha != pytest.approx(0.8808, abs=1e-4)  # it moved
    assert friends["given"] == 2 * len(pairs) > friends["within"] > friends["bounded"] > 0
    for site in sites_in(out / "sites"):
        loaded = Site.load(site)
        own = frozenset(site_histories(site, Catalogue.load(out / "catalogue")).users)
        read = read_friends(site / loaded.data.bounded_friends, own)
        assert read.entered.max() == loaded.data.friends_most == 2
        monkeypatch.setattr(sys, "argv", ["sotto-node", "adapt", str(out), "--site", str(site)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            node()
        assert not end.value.code
        assert "users have a friend" in capsys.readouterr().out


def test_a_run_learns_gates_of_modalities_and_serves_them(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without noise, so that what moved was moved by users; half of the items have no picture."""
    out, catalogue, items = tmp_path / "run", tmp_path / "catalogue", load_items(tiny_data)
    pictures = torch.randn(len(items), 4, generator=torch.Generator().manual_seed(0))
    pictures[::2] = 0
    blocks = (FeatureBlock(name="text", size=4), FeatureBlock(name="image", size=4))
    features = torch.cat([text_features(items, 4), pictures], dim=1)
    items.with_features(features, blocks=blocks).save(catalogue)
    settings = ["model.kind=modalities", f"lab.catalogue={catalogue}", "lab.organisations=2"]
    settings += ["training.rounds=2"]
    simulate(tiny_data, out, "none", (*TINY_SETTINGS, *settings), monkeypatch)
    model = load_recommender(out / "model")
    assert isinstance(model, ModalitiesRecommender)
    assert [block.size for block in Catalogue.load(out / "catalogue").blocks] == [2, 2]
    first, second = gate_shares(model.gates.weight[:2, 0].tolist())
    assert first != second
    assert not model.gates.weight[2:].any()
    gates = json.loads((out / "result.json").read_text())["gates"]
    assert gates == pytest.approx({"text": first, "image": second})
    assert f"text {first:.0%}, image {second:.0%}" in capsys.readouterr().out
    recommender = Recommender.load(out)
    history = list(recommender.catalogue.item_ids[:3])
    listed = recommender.recommend(history, 4, explain=True)
    rows = torch.tensor([[1, 2, 3]])
    scores = model.next_item_scores(rows)[0].index_fill(0, rows[0] - 1, -torch.inf)
    best = [recommender.catalogue.item_ids[place] for place in scores.topk(4).indices]
    assert [one.item for one in listed] == best
    for one in listed:
        assert one.explanation is not None
        assert one.explanation.modalities.keys() - {"own direction"} == {"text", "image"}
        assert one.explanation.brought_by in {"", *one.explanation.modalities}
    words = ["recommend", "--model", str(out), "--history", ",".join(history), "--explain"]
    monkeypatch.setattr(sys, "argv", ["sotto-node", *words])
    with pytest.raises(SystemExit):
        node()
    assert "brought" in capsys.readouterr().out
