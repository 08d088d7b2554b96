"""/metrics, /healthz and /readyz of a coordinator, over HTTP, from the files of its runs."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch

from server.runs.bundle import build_bundle
from server.runs.run import Run, all_statuses, create_run, read_config
from server.service.health import serve_coordinator_health
from server.service.setup import NewServer, make_server
from server.service.up import check_startup
from server.settings import Settings
from server.state.status import RunState, RunStatus, now
from shared.data.catalogue import Catalogue
from shared.errors import ServerError
from shared.system.supervise import Processes, Start
from simulations.faults.processes import free_port

RUN = """
[privacy]
epsilon = 8.0
delta = 1e-4
[server]
users = 3000
[paths]
catalogue = "catalogue"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    partners, administrators, superlink, metrics = (f"127.0.0.1:{free_port()}" for _ in range(4))
    new = NewServer(
        address=partners,
        partners=partners,
        administrators=administrators,
        superlink=superlink,
        metrics=metrics,
    )
    return make_server(tmp_path / "c", new)


def make_runs(settings: Settings, *names: str) -> list[Run]:
    folder = Path(settings.folder).parent
    Catalogue(
        item_ids=("a",), titles=("",), genres=((),), years=(None,), features=torch.zeros(1, 1)
    ).save(folder / "catalogue")
    (folder / "run.toml").write_text(RUN)
    config, bundle = read_config(folder / "run.toml"), build_bundle(Path(__file__).parents[3])
    return [create_run(settings, name, config, bundle) for name in names]


def test_it_answers_while_the_runs_own_process_is_dead(settings: Settings) -> None:
    """As `sotto-server status`: what the supervisor records counts, not only what a run wrote."""
    [run] = make_runs(settings, "first")
    run.out.mkdir(parents=True)
    status = RunStatus(run="c0ffee", state=RunState.RUNNING, rounds=5, round=3, started=now())
    run = run.save_start("1", now())
    replace(status, updated=now()).save(run.out)
    processes = Processes(running={"superlink": False})
    with serve_coordinator_health(settings, processes, lambda: True) as address:
        assert address is not None
        assert f"127.0.0.1:{address[1]}" == settings.listen.metrics
        with httpx.Client(base_url=f"http://{settings.listen.metrics}", trust_env=False) as asked:
            assert asked.get("/healthz").status_code == 200
            answer = asked.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["problems"][0] == "superlink is not running"
            assert "run first is interrupted" in answer.json()["problems"][1]
            run.save_state(RunState.STOPPED, "the operator stopped it")
            processes.record(Start("superlink"))
            assert asked.get("/readyz").json() == {"status": "ok", "problems": []}
            text = asked.get("/metrics").text
    assert 'sotto_run_state{run="first",state="stopped"} 1.0' in text
    assert 'sotto_round{run="first"} 3.0' in text
    assert 'sotto_process_up{process="superlink"} 1.0' in text


def test_what_cannot_be_read_is_counted_and_hides_no_other(settings: Settings) -> None:
    whole, record, status = make_runs(settings, "whole", "record", "status")
    (record.folder / "run.json").write_text("{")
    status.out.mkdir(parents=True)
    (status.out / "progress.json").write_text("{")
    statuses, unreadable = all_statuses(settings)
    assert [(one.run, one.state) for one in statuses] == [(whole.name, RunState.STOPPED)]
    assert unreadable == 2


def test_a_port_in_use_is_refused_before_anything_starts(settings: Settings) -> None:
    assert check_startup(settings) == []
    metrics = settings.metrics
    assert metrics is not None
    with socket.create_server((metrics.host, metrics.port)):
        for start in (
            lambda: check_startup(settings),
            lambda: serve_coordinator_health(settings, Processes(), lambda: True).__enter__(),
        ):
            with pytest.raises(ServerError, match=r"listen\.metrics = '127.*choose another"):
                start()


def test_none_is_the_default(tmp_path: Path) -> None:
    made = make_server(tmp_path / "c", NewServer(address="sotto.example:9092"))
    assert made.metrics is None
    with serve_coordinator_health(made, Processes(), lambda: True) as address:
        assert address is None
