"""A whole run of another kind of model: under masks, saved, loaded, served and explained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from client.serving.recommender import Recommender
from server.state.checkpoint import Checkpoint
from shared.models.lstm import LstmRecommender
from shared.models.registry import load_recommender
from simulations.cli import main
from tests.simulations.conftest import TINY_SETTINGS

RUN = (
    *("privacy.trust=secure-aggregation", "server.weighting=population", "lab.organisations=4"),
    *("model.kind=lstm", "model.trained=all", "model.recurrent_size=4", "lab.alone=false"),
)


def test_a_masked_run_trains_saves_and_serves_a_recurrent_model(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, settings = tmp_path / "run", (*TINY_SETTINGS, *RUN, "training.rounds=2")
    options = ["simulate", "--data", str(tiny_data), "--epsilon", "8", "--delta", "1e-2"]
    words = [*options, "--out", str(out), *(f"--set={one}" for one in settings)]
    monkeypatch.setattr(sys, "argv", ["sotto-lab", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err
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
