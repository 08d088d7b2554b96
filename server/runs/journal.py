"""What a run tells the outside: status file, audit log, log, and MLflow where it is wanted.

The audit log must be written, or nothing goes on. The others serve people: where one of them fails
that is logged, and the run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.rounds.roll import Partner
from server.rounds.round import RoundReport
from server.runs.mlflow import tracker
from server.state.audit_log import FILE, AuditEvent, AuditLog
from server.state.checkpoint import Progress
from server.state.status import Organisation, RunState, RunStatus, now
from shared.config import RunConfig
from shared.errors import AuditError, CheckpointError, Outcome, QuorumError, SottoError

__all__ = ["Journal"]

log = logging.getLogger("sotto.server")


class Journal:
    """Everything that is told of one run.

    Args:
        folder: the run's.
        config: the run's parameters.
        progress: how far it has come.
    """

    def __init__(self, folder: Path, config: RunConfig, progress: Progress) -> None:
        self._folder, self._config = folder, config
        self._audit = AuditLog(folder / FILE)
        self._tracker = tracker(config, progress.run)
        self.status = _continued(folder, config, progress)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tells how the run within begins and ends; a kill leaves "running" in the status."""
        resumed = self.status.starts > 0
        self._record(AuditEvent.RUN_RESUMED if resumed else AuditEvent.RUN_STARTED)
        self._tell(state=RunState.WAITING, reason="", starts=self.status.starts + 1)
        try:
            yield
        except Exception as error:
            with suppress(AuditError):  # what went wrong first is what is told
                self._end(*_ending(error))
            raise
        self._end(RunState.FINISHED, AuditEvent.RUN_FINISHED, "")

    def changed(self, partner: Partner) -> None:
        """A partner joined, came back or left."""
        event = AuditEvent.PARTNER_JOINED if partner.connected else AuditEvent.PARTNER_LEFT
        self._record(event, organisation=partner.organisation, population=partner.population)
        log.info("%s: %s", event, partner.organisation)
        known = self.status.organisations.get(partner.organisation)
        now_known = Organisation(connected=partner.connected, population=partner.population)
        if known is not None:
            now_known = replace(known, connected=partner.connected, population=partner.population)
        self._tell(organisations={**self.status.organisations, partner.organisation: now_known})

    def running(self) -> None:
        """Enough organisations are there."""
        self._tell(state=RunState.RUNNING)

    def missed(self, report: RoundReport) -> None:
        """An attempt at a round had too few valid replies; it is tried again."""
        reason = (
            f"round {report.number}, attempt {report.attempts}: {report.valid} valid replies, "
            f"{report.needed} are needed ({report.failures or 'nobody is connected'})"
        )
        log.warning("%s", reason)
        self._record(AuditEvent.ROUND_MISSED, round=report.number, outcomes=_outcomes(report))
        self._tell(
            state=RunState.RETRYING,
            reason=reason,
            missed=self.status.missed + 1,
            organisations=self._counted(report),
        )

    def finished_round(self, report: RoundReport, metrics: Mapping[str, float]) -> None:
        """A round is done and saved."""
        self._record(
            AuditEvent.ROUND_FINISHED,
            round=report.number,
            attempts=report.attempts,
            outcomes=_outcomes(report),
        )
        log.info(
            "round %d of %d: %d valid replies of %d in %.1f s",
            *(report.number, self.status.rounds, report.valid, len(report.verdicts)),
            report.seconds,
        )
        status = self.status
        released = {"metrics": dict(metrics), "metrics_round": report.number} if metrics else {}
        self._tell(
            state=RunState.RUNNING,
            reason="",
            round=report.number,
            organisations=self._counted(report),
            round_finished=now(),
            round_seconds=report.seconds,
            seconds=status.seconds + report.seconds,
            bytes_up=status.bytes_up + report.bytes_up,
            bytes_down=status.bytes_down + report.bytes_down,
            **released,
        )
        self._tracker.round(self.status)

    def _counted(self, report: RoundReport) -> dict[str, Organisation]:
        known = dict(self.status.organisations)
        for name, verdict in report.verdicts.items():
            known[name] = known[name].counted(verdict.outcome, verdict.reason)
        for name in report.late:
            known[name] = known[name].counted(Outcome.LATE)
        return known

    def _end(self, state: RunState, event: AuditEvent, reason: str) -> None:
        # First for those who wait for it: a full disk may refuse the audit log its line.
        self._tell(state=state, reason=reason)
        self._tracker.end(self.status)
        self._record(event, round=self.status.round, reason=reason)

    def _record(self, event: AuditEvent, **fields: Any) -> None:  # noqa: ANN401 see AuditLog
        self._audit.record(event, run=self.status.run, **fields)

    def _tell(self, **changes: Any) -> None:  # noqa: ANN401 fields of RunStatus
        self.status = replace(self.status, updated=now(), **changes)
        try:
            self.status.save(self._folder)
        except OSError as error:
            log.warning("the status cannot be written (%s)", error.strerror)


def _continued(folder: Path, config: RunConfig, progress: Progress) -> RunStatus:
    """The status that the run's last coordinator left, or a new one."""
    fresh = RunStatus(
        run=progress.run,
        state=RunState.WAITING,
        round=progress.round,
        rounds=config.training.rounds,
        started=now(),
    )
    try:
        before = RunStatus.load(folder)
    except CheckpointError:
        return fresh
    if before.run != progress.run:
        return fresh
    # The checkpoint is what counts: a kill between the two leaves the status behind it.
    gone = {name: replace(o, connected=False) for name, o in before.organisations.items()}
    return replace(before, round=progress.round, rounds=fresh.rounds, organisations=gone)


def _ending(error: Exception) -> tuple[RunState, AuditEvent, str]:
    if isinstance(error, QuorumError):
        return RunState.PAUSED, AuditEvent.RUN_PAUSED, str(error)
    why = str(error) if isinstance(error, SottoError) else f"a fault: {type(error).__name__}"
    return RunState.FAILED, AuditEvent.RUN_FAILED, why


def _outcomes(report: RoundReport) -> dict[str, str]:
    return {name: str(verdict.outcome) for name, verdict in report.verdicts.items()}
