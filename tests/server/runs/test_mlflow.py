from __future__ import annotations

import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from server.runs.mlflow import EXPERIMENT, run_tracker
from server.state.status import Organisation, RunState, RunStatus
from shared.config import PrivacyConfig, RunConfig, ServerConfig
from shared.errors import ConfigError

pytestmark = pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow")
STATUS = RunStatus(
    run="r1",
    state=RunState.RUNNING,
    round=1,
    rounds=2,
    organisations={"alpha": Organisation(connected=True, population=9, outcome="valid")},
    started="2026-01-02T03:00:00.000+00:00",
    round_seconds=2.5,
    metrics={"hr@10": 0.25},
    metrics_round=1,
)


def config(address: str) -> RunConfig:
    return RunConfig(
        privacy=PrivacyConfig(epsilon=8.0, delta=1e-5), server=ServerConfig(mlflow=address)
    )


def client_of(address: str) -> Any:  # noqa: ANN401 untyped
    from mlflow import MlflowClient  # noqa: PLC0415 takes seconds

    return MlflowClient(tracking_uri=address)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def test_a_run_and_its_continuation_are_one_run_there(address: str) -> None:
    first = run_tracker(config(address), "r1")
    first.log_round(STATUS)
    first.log_end(replace(STATUS, state=RunState.PAUSED))
    second = run_tracker(config(address), "r1")
    second.log_round(replace(STATUS, round=2, round_seconds=3.5))
    second.log_end(replace(STATUS, state=RunState.FINISHED))
    client = client_of(address)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["sotto.run"] == "r1"
    assert run.data.params["privacy.epsilon"] == "8.0"
    history = client.get_metric_history(run.info.run_id, "round_seconds")
    assert [(point.step, point.value) for point in history] == [(1, 2.5), (2, 3.5)]
    assert run.data.metrics["replies.valid"] == 1
    released = client.get_metric_history(run.info.run_id, "hr_at_10")
    assert [(point.step, point.value) for point in released] == [(1, 0.25)]


def test_nothing_of_a_machine_is_sent(address: str) -> None:
    run_tracker(config(address), "r1").log_round(STATUS)
    client = client_of(address)
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert set(run.data.params) == set(config(address).identity)
    assert not any(key.startswith("paths.") for key in run.data.params)


def test_a_server_that_fails_stops_nothing_and_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nobody = run_tracker(config("http://127.0.0.1:9"), "r1")
    nobody.log_round(STATUS)
    assert "http://127.0.0.1:9 does not accept figures" in caplog.text
    assert "the run goes on" in caplog.text
    started = time.monotonic()
    for _ in range(100):
        nobody.log_round(STATUS)
    nobody.log_end(replace(STATUS, state=RunState.FINISHED))
    assert time.monotonic() - started < 0.5


def test_without_an_address_nothing_is_sent() -> None:
    nobody = run_tracker(config(""), "r1")
    nobody.log_round(STATUS)
    nobody.log_end(STATUS)


def test_without_mlflow_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(ConfigError, match=r"pip install 'sotto\[mlflow\]', or set it to"):
        run_tracker(config("http://tracking.example"), "r1")
