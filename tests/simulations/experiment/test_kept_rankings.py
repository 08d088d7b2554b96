"""Baselines that do not depend on ε are computed once for many runs, and for no other data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shared.evaluation.ranking import Ranking
from shared.sections import Value
from simulations.experiment import baselines
from simulations.experiment.config import read_settings
from simulations.experiment.kept_rankings import KeptRankings
from simulations.experiment.prepare import prepare
from simulations.experiment.simulate import simulate
from simulations.experiment.simulation import RoundFigures, Simulation
from tests.simulations.conftest import TINY_SETTINGS


class Silent:
    def stage(self, text: str) -> None: ...

    def round(self, done: int, of: int, figures: RoundFigures) -> None: ...


def prepared(data: Path, folder: Path, epsilon: float, seed: int = 0) -> Simulation:
    options: dict[str, Value | None] = {
        "privacy.epsilon": epsilon,
        "privacy.delta": 1e-2,
        "lab.data": str(data),
    }
    given = [*TINY_SETTINGS, "lab.organisations=3", f"seed={seed}", "training.rounds=1"]
    return prepare(read_settings(None, options, given), folder)


def models(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = result["evaluation"]["models"]
    return found


def test_a_second_budget_takes_the_baselines_of_the_first(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, runs = tmp_path / "kept", []
    for number, epsilon in enumerate((8.0, 4.0)):
        simulation = prepared(tiny_data, tmp_path / f"{number}", epsilon)
        runs.append(models(simulate(simulation, Silent(), baselines=kept)))
        monkeypatch.setattr(baselines, "rank_exact_counts", None)  # it would not be called again
    assert list(runs[0]) == list(runs[1])
    for name in ("popularity", "markov", "counts3", "counts3_local", "item_knn", "ease", "home"):
        assert runs[0][name] == runs[1][name]
    assert runs[0]["popularity_private"] != runs[1]["popularity_private"]


def test_other_users_or_organisations_find_nothing(tiny_data: Path, tmp_path: Path) -> None:
    one = prepared(tiny_data, tmp_path / "one", 8.0)
    other = prepared(tiny_data, tmp_path / "other", 8.0, seed=1)
    ranking = Ranking(ranks=torch.tensor([3, 1]), top=torch.ones(2, 2).long(), items=18, k=10)
    KeptRankings(tmp_path / "kept", one).put("some", {"b": ranking, "a": ranking})
    found = KeptRankings(tmp_path / "kept", one).get("some")
    assert found is not None
    assert list(found) == ["b", "a"]
    assert found["a"].ranks.tolist() == [3, 1]
    assert found["a"].metrics() == ranking.metrics()
    assert KeptRankings(tmp_path / "kept", other).get("some") is None
    [file] = (tmp_path / "kept").iterdir()
    file.write_bytes(b"cut")
    assert KeptRankings(tmp_path / "kept", one).get("some") is None
