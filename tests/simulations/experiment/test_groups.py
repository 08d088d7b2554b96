"""Groups in a whole simulation: what is measured, charged, written, and refused before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from shared.errors import ConfigError, ReportError
from shared.sections import Value
from simulations.commands.fairness import fairness_command
from simulations.experiment.config import SimulationConfig, read_settings
from simulations.experiment.fairness import fairness_curves
from simulations.experiment.prepare import prepare, reopen
from simulations.experiment.simulate import simulate
from simulations.report.command import report
from tests.simulations.conftest import TINY_SETTINGS, USERS
from tests.simulations.experiment.test_simulate import Silent

TABLES = "gender=F|M; events=6|7; taste=2"
DELTA = 1e-2


def settings(data: Path, *assignments: str) -> SimulationConfig:
    options: dict[str, Value | None] = {"privacy.epsilon": 100.0, "privacy.delta": DELTA}
    options["lab.data"] = str(data)
    own = ["lab.organisations=2", "training.rounds=1", f"groups.tables={TABLES}"]
    return read_settings(None, options, [*TINY_SETTINGS, *own, *assignments])


@pytest.fixture(scope="module")
def data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grouped") / "tiny"
    shutil.copytree(tiny_data, folder)
    rows = "".join(f"u{user},{'FM'[user % 3 > 0]}\n" for user in range(USERS))
    (folder / "users.csv").write_text("user_id,gender\n" + rows)
    return folder


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "groups"
    chosen = ("groups.share=0.5", "groups.weights=gender=F|M: 1, 0.5, 1", "training.debias=0.5")
    simulate(prepare(settings(data, *chosen), out), Silent())
    return out


def test_exact_figures_are_those_of_each_users_rank(folder: Path) -> None:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    gender, events, taste = result["groups"]["exact"]["federated"]
    table = pq.read_table(folder / "evaluation.parquet").to_pydict()
    rows = [row for row, model in enumerate(table["model"]) if model == "federated"]
    for group in gender["groups"][:2]:
        ranks = np.array([table["rank"][r] for r in rows if table["gender"][r] == group["name"]])
        gains = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0)
        assert group["users"] == len(gains)
        assert group["ndcg"] == pytest.approx(gains.mean())
    for one in (gender, events, taste):
        assert sum(group["users"] for group in one["groups"]) == USERS
        assert one["groups"][-1]["name"] == "other"
    assert set(result["groups"]["exact"]) == {"popularity", "federated", "federated_home"}


def test_the_measurement_is_one_release_within_the_runs_epsilon(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    for organisation in result["privacy"]["organisations"]:
        releases = organisation["releases"]
        assert [one["steps"] for one in releases if one["kind"] == "evaluate"] == [1]
        accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
        for one in releases:
            event = GaussianDpEvent(one["noise_multiplier"])
            accountant.compose(PoissonSampledDpEvent(one["sample_rate"], event), one["steps"])
        assert organisation["epsilon"] == pytest.approx(accountant.get_epsilon(DELTA), rel=0.01)
        assert organisation["epsilon"] <= 100


def test_other_strengths_are_measured_without_training(folder: Path) -> None:
    curves = fairness_curves(reopen(folder, {}, []), [0.5, 1.0])
    points = [curves.plain, *curves.curves[0].points]
    result = json.loads((folder / "result.json").read_text())
    assert points[1].ndcg == pytest.approx(result["evaluation"]["models"]["federated"]["ndcg@10"])
    gender = result["groups"]["exact"]["federated"][0]
    assert points[1].tables[0].groups[0].ndcg == pytest.approx(gender["groups"][0]["ndcg"])
    assert points[1].worst[0] == pytest.approx(min(g["ndcg"] for g in gender["groups"][:2]))
    assert points[0].exposure_rare != points[2].exposure_rare


def test_the_command_prints_and_writes_curves_that_a_report_draws(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curves"
    fairness_command(folder, debias="0.5", beside=[folder], out=out)
    assert 'groups.weights = "gender=F|M: ' in capsys.readouterr().out
    debiased, weighed = json.loads((out / "curves.json").read_text())["curves"]
    assert (debiased["name"], weighed["name"]) == ("logit adjustment", "weights of groups")
    page = tmp_path / "report.html"
    report(folder, page, audits=[], curves=[out], figures=tmp_path)
    assert (tmp_path / "fairness-1.svg").stat().st_size > 1000
    html = page.read_text()
    for point in (*debiased["points"], *weighed["points"]):
        assert f"{point['ndcg@10']:.4f}" in html
        assert point["setting"] in html
    for odd in ("0,2", "a"):
        with pytest.raises(ConfigError, match=f"--debias {odd}"):
            fairness_command(folder, debias=odd)
    with pytest.raises(ConfigError, match="it is a run's folder"):
        fairness_command(folder, out=folder)
    with pytest.raises(ReportError, match=r"curves\.json cannot be read"):
        report(folder, page, audits=[], curves=[folder])


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("groups.tables=sex=F|M", "no such column"),
        ("groups.tables=gender=F|X", "nobody has 'X'"),
        ("groups.weights=gender=F|W: 1, 1, 1", "nobody has 'W'"),
    ],
)
def test_groups_that_nobody_is_in_are_refused_before_anything_is_written(
    data: Path, tmp_path: Path, assignment: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        prepare(settings(data, assignment), tmp_path / "run")
    assert not (tmp_path / "run").exists()
