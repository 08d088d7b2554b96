"""A simulation says what another order of lists costs; a finished one is measured again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shared.errors import CheckpointError, ConfigError
from shared.rerank.settings import Method
from simulations.commands.rerank import rerank_command
from simulations.experiment.prepare import prepare, reopen
from simulations.experiment.simulate import simulate
from tests.simulations.experiment.test_simulate import Silent, settings


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reranked") / "run"
    config = settings(tiny_data, "rerank.method=exposure", "rerank.strength=0.3")
    simulate(prepare(config, folder), Silent())
    return folder


def test_the_result_has_figures_before_and_after(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    section = result["rerank"]
    assert (section["method"], section["strength"], section["rare"]) == ("exposure", 0.3, 5)
    assert list(section["models"]) == ["federated", "federated_home"]
    for name, both in section["models"].items():
        plain = result["evaluation"]["models"][name]
        for figure in ("hr@10", "ndcg@10", "coverage@10"):
            assert both["before"][figure] == pytest.approx(plain[figure])
        # Who is rare follows from noised popularity, and is measured by the exact one.
        assert both["after"]["exposure_rare"] >= both["before"]["exposure_rare"] - 0.02
    assert not any(name.endswith("reranked") for name in result["evaluation"]["models"])


def test_the_order_may_change_when_a_run_is_resumed_and_nothing_else(finished: Path) -> None:
    before = (finished / "checkpoint.safetensors").read_bytes()
    simulation = reopen(finished, {"rerank.method": "diverse", "rerank.by": "features"}, [])
    result = simulate(simulation, Silent())
    assert result["rerank"]["method"] == "diverse"
    assert (finished / "checkpoint.safetensors").read_bytes() == before
    without = simulate(reopen(finished, {"rerank.method": "none"}, []), Silent())
    assert "rerank" not in without
    with pytest.raises(CheckpointError, match="seed"):
        reopen(finished, {"seed": 99, "rerank.method": "diverse"}, [])


def test_what_items_lack_is_said_before_anything_is_written(
    tiny_data: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(tiny_data, tmp_path / "bare")
    lines = (bare / "items.csv").read_text().splitlines()
    (bare / "items.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    config = settings(bare, "rerank.method=calibrated")
    with pytest.raises(ConfigError, match="no item of the catalogue has a genre"):
        prepare(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_has_curves_of_prices(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished.parent / "curves"
    exposure = [Method.EXPOSURE]
    rerank_command(finished, methods=exposure, strengths="0,0.5", out=out, as_json=True)
    curves = json.loads(capsys.readouterr().out)
    assert curves == json.loads((out / "curves.json").read_text())
    plain, [curve] = curves["plain"], curves["curves"]
    same, exposed = curve["points"]
    assert plain | {"setting": ""} == same | {"setting": ""}
    assert exposed["exposure_rare"] > plain["exposure_rare"]
    with pytest.raises(ConfigError, match="--strengths much"):
        rerank_command(finished, strengths="much")
    with pytest.raises(ConfigError, match=r"rerank\.strength = 2"):
        rerank_command(finished, strengths="0.1,2")
