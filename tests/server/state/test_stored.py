"""Files of release 0.1 still open: checkpoint, status, run record, parameters and server.toml.

They lie in `stored/`: a run of two organisations that was killed after its first round of three.
`tests/server/test_app.py` resumes it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from server.runs.run import Run, find_run
from server.settings import Settings
from server.state.audit_log import AuditLog
from server.state.checkpoint import Checkpoint
from server.state.run_lock import coordinator_lock
from server.state.status import Organisation, RunState, RunStatus

STORED = Path(__file__).parent / "stored"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED, tmp_path / "stored"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    shutil.copy(STORED / "server.toml", tmp_path)
    text = (STORED / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("/srv/coordinator", str(tmp_path)))
    shutil.copy(STORED / "run.json", folder)
    return find_run(Settings.load(tmp_path), "first")


def test_a_checkpoint_opens_without_its_counters(folder: Path) -> None:
    checkpoint = Checkpoint.load(folder)
    assert (checkpoint.run, checkpoint.round, checkpoint.warm_started) == (
        "cdc8f6a86999fda8",
        1,
        True,
    )
    assert (checkpoint.popularity_share, checkpoint.own_items) == (None, None)
    assert set(checkpoint.answers) == {"alpha", "beta"}
    assert {name.split("/")[0] for name in checkpoint.optimiser} == {"momentum"}
    assert checkpoint.weights
    checkpoint.save(folder)
    again = Checkpoint.load(folder)
    assert again.answers == checkpoint.answers
    assert again.weights.keys() == checkpoint.weights.keys()


def test_a_status_opens(folder: Path) -> None:
    with coordinator_lock(folder):
        status = RunStatus.load(folder)
    assert (status.state, status.round, status.rounds) == (RunState.RUNNING, 1, 3)
    assert status.organisations["beta"] == Organisation(
        connected=True, population=12, outcome="valid", replies={"valid": 1}, answered_rounds=1
    )
    assert (status.bytes_up, status.round_bytes_up) == (14240, 0)
    assert RunStatus.load(folder).state is RunState.INTERRUPTED


def test_an_audit_log_opens(folder: Path) -> None:
    assert AuditLog(folder / "audit.jsonl").verify() == 4


def test_a_record_that_says_wanted_is_of_a_running_run(run: Run) -> None:
    assert (run.state, run.starts) == (RunState.RUNNING, ("123456789",))
    assert run.status.state is RunState.WAITING
    assert run.config.privacy.epsilon == 8.0


def test_a_started_run_is_what_it_reported_last(run: Run, folder: Path) -> None:
    shutil.copytree(folder, run.out)
    assert (run.status.state, run.status.round) == (RunState.INTERRUPTED, 1)
    stopped = run.save_state(RunState.STOPPED, "by hand")
    assert (stopped.status.state, stopped.status.reason) == (RunState.STOPPED, "by hand")
    assert stopped.status.round == 1
    started = stopped.save_start("2", "2027-01-01T00:00:00.000+00:00")
    assert (started.status.state, started.status.round) == (RunState.WAITING, 1)
