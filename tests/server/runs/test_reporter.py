from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from server.rounds.collection_report import CollectionReport, Verdict
from server.rounds.participants import Partner
from server.runs.reporter import RunReporter
from server.state.audit_log import AuditLog
from server.state.run_lock import coordinator_lock, is_at_work
from server.state.status import RunState, RunStatus
from shared.config import PrivacyConfig, RunConfig, TrainingConfig
from shared.errors import AuditError, CheckpointError, QuorumError
from shared.outcomes import Outcome

CONFIG = RunConfig(
    privacy=PrivacyConfig(epsilon=8.0, delta=1e-5), training=TrainingConfig(rounds=5)
)
ALPHA, BETA = (
    Partner(node_id=n, organisation=o, population=9) for n, o in ((1, "alpha"), (2, "beta"))
)


class Killed(BaseException):
    """What a kill looks like from inside."""


def report(
    number: int, beta: Outcome = Outcome.VALID, late: tuple[str, ...] = ()
) -> CollectionReport:
    return CollectionReport(
        name=f"round {number}",
        round=number,
        attempts=1,
        needed=1,
        verdicts={"alpha": Verdict(Outcome.VALID), "beta": Verdict(beta, "why")},
        late=late,
        seconds=1.5,
        bytes_up=10,
        bytes_down=20,
    )


@contextmanager
def reported(folder: Path, run: str = "r1", finished_rounds: int = 0) -> Iterator[RunReporter]:
    with coordinator_lock(folder):
        reporter = RunReporter(folder, CONFIG, run=run, finished_rounds=finished_rounds)
        with reporter.report_run():
            reporter.partner_changed(ALPHA)
            reporter.partner_changed(BETA)
            reporter.organisations_ready()
            yield reporter


def events(folder: Path) -> list[str]:
    return [entry["event"] for entry in AuditLog(folder / "audit.jsonl").entries()]


def test_a_run_is_reported_from_beginning_to_end(tmp_path: Path) -> None:
    seen = []
    with reported(tmp_path) as reporter:
        for number in (1, 2):
            reporter.attempt_missed(report(number, Outcome.MISSING))
            seen.append(RunStatus.load(tmp_path).state)
            reporter.round_finished(
                report(number, late=("beta",)), {"hr@10": 0.5} if number == 1 else {}
            )
            seen.append(RunStatus.load(tmp_path).state)
        reporter.partner_changed(replace(BETA, connected=False))
    assert seen == [RunState.RETRYING, RunState.RUNNING] * 2
    status = RunStatus.load(tmp_path)
    assert (status.state, status.round, status.rounds, status.missed) == (
        RunState.FINISHED,
        2,
        5,
        2,
    )
    assert (status.seconds, status.bytes_up, status.bytes_down, status.starts) == (3, 20, 40, 1)
    assert (status.metrics, status.metrics_round) == ({"hr@10": 0.5}, 1)
    beta = status.organisations["beta"]
    assert beta.replies == {"missing": 2, "valid": 2, "late": 2}
    assert (beta.connected, beta.outcome) == (False, "valid")
    alpha = status.organisations["alpha"]
    assert (alpha.answered_rounds, alpha.replies["valid"]) == (2, 4), (
        "a repeated attempt is no round"
    )
    assert events(tmp_path) == [
        *("run-started", "partner-joined", "partner-joined"),
        *("round-missed", "round-finished") * 2,
        *("partner-left", "run-finished"),
    ]
    entry = list(AuditLog(tmp_path / "audit.jsonl").entries())[3]
    assert (entry["run"], entry["outcomes"]) == ("r1", {"alpha": "valid", "beta": "missing"})


def test_a_statistic_is_reported_like_a_round(tmp_path: Path) -> None:
    def statistic(beta: Outcome, late: tuple[str, ...] = ()) -> CollectionReport:
        return replace(report(1, beta, late), name="the popularity statistic", round=0)

    with reported(tmp_path) as reporter:
        reporter.attempt_missed(statistic(Outcome.MISSING))
        status = RunStatus.load(tmp_path)
        assert (status.state, status.missed) == (RunState.RETRYING, 1)
        assert status.reason.startswith("the popularity statistic, attempt 1: 1 valid replies")
        reporter.statistic_collected(statistic(Outcome.VALID, late=("beta",)))
        status = RunStatus.load(tmp_path)
        assert (status.state, status.reason, status.round) == (RunState.RUNNING, "", 0)
        assert status.organisations["beta"].replies == {"missing": 1, "valid": 1, "late": 1}
    missed, collected = list(AuditLog(tmp_path / "audit.jsonl").entries())[3:5]
    assert (missed["event"], collected["event"]) == ("statistic-missed", "statistic-collected")
    assert missed["statistic"] == collected["statistic"] == "the popularity statistic"
    assert missed["outcomes"] == {"alpha": "valid", "beta": "missing"}


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (QuorumError("too few"), RunState.PAUSED, "too few"),
        (CheckpointError("no room"), RunState.FAILED, "no room"),
        (KeyError("user7 likes item 3"), RunState.FAILED, "a fault: KeyError"),
    ],
)
def test_how_a_run_ended_is_reported(
    tmp_path: Path, error: Exception, state: RunState, reason: str
) -> None:
    with pytest.raises(type(error)), reported(tmp_path):
        raise error
    status = RunStatus.load(tmp_path)
    assert (status.state, status.reason) == (state, reason)
    assert events(tmp_path)[-1] == f"run-{state}"
    assert "user7" not in (tmp_path / "audit.jsonl").read_text()


def test_a_killed_coordinator_is_seen_by_its_lock(tmp_path: Path) -> None:
    with pytest.raises(Killed), reported(tmp_path):
        raise Killed
    status = RunStatus.load(tmp_path)
    assert status.state is RunState.INTERRUPTED
    assert "resume the run" in status.reason


def test_counts_go_on_when_a_run_is_resumed(tmp_path: Path) -> None:
    with suppress(Killed), reported(tmp_path) as reporter:
        reporter.round_finished(report(1), {})
        reporter.round_finished(report(2), {})
        raise Killed
    # Killed between checkpoint and status: the checkpoint is what counts.
    with reported(tmp_path, finished_rounds=3) as reporter:
        assert reporter.status.round == 3
        reporter.round_finished(report(4), {})
    status = RunStatus.load(tmp_path)
    assert (status.round, status.starts, status.seconds) == (4, 2, 4.5)
    assert status.organisations["alpha"].replies == {"valid": 3}
    assert "run-resumed" in events(tmp_path)


def test_another_run_begins_anew(tmp_path: Path) -> None:
    with reported(tmp_path) as reporter:
        reporter.round_finished(report(1), {})
    with reported(tmp_path, run="r2") as reporter:
        assert (reporter.status.round, reporter.status.starts, reporter.status.seconds) == (0, 1, 0)


def test_a_status_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with reported(tmp_path) as reporter:
        monkeypatch.setattr("server.state.status.write_atomically", full)
        reporter.round_finished(report(1), {})
    assert "the status cannot be written (No space left on device)" in caplog.text


def test_what_cannot_be_recorded_does_not_happen(tmp_path: Path) -> None:
    def tampered() -> None:
        with reported(tmp_path) as reporter:
            with (tmp_path / "audit.jsonl").open("a") as file:
                file.write("{}\n")
            reporter.round_finished(report(1), {})

    with pytest.raises(AuditError, match="the last line was changed"):
        tampered()
    assert RunStatus.load(tmp_path).state is RunState.FAILED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running"}', '{"organisations": 3}'])
def test_a_damaged_status_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "progress.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be read: delete it"):
        RunStatus.load(tmp_path)


def test_no_status_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        RunStatus.load(tmp_path)


def test_the_status_is_plain_json(tmp_path: Path) -> None:
    with reported(tmp_path) as reporter:
        reporter.round_finished(report(1), {})
    fields = json.loads((tmp_path / "progress.json").read_text())
    assert (fields["schema"], fields["state"], fields["round"]) == (1, "finished", 1)
    assert fields["organisations"]["beta"]["population"] == 9


# --- files and locks -----------------------------------------------------------------------------


def test_a_folder_takes_one_coordinator(tmp_path: Path) -> None:
    assert not is_at_work(tmp_path)
    with coordinator_lock(tmp_path):
        assert is_at_work(tmp_path)
        with (
            pytest.raises(CheckpointError, match=r"another coordinator .* is at work"),
            coordinator_lock(tmp_path),
        ):
            pass
        assert is_at_work(tmp_path)
    assert not is_at_work(tmp_path)
    with coordinator_lock(tmp_path):
        pass
