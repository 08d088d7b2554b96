"""Report how a run goes: to its status file, the audit log, the log, and MLflow where it is set.

A run does not go on where the audit log cannot be written. The others are a convenience: where one
of them fails, that is logged and the run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.rounds.collection_report import CollectionReport
from server.rounds.participants import Declined, Partner
from server.runs.mlflow import run_tracker
from server.state.audit_log import FILE, AuditEvent, AuditLog
from server.state.checkpoint import Checkpoint
from server.state.status import FAULT, Organisation, RunState, RunStatus, now
from shared.config import RunConfig
from shared.errors import AuditError, CheckpointError, QuorumError, SottoError
from shared.outcomes import Outcome
from shared.secure_aggregation.signing import fingerprint

__all__ = ["RunReporter"]

log = logging.getLogger("sotto.server")


class RunReporter:
    """Keep the status of one run, and record its events.

    Args:
        folder: of the run.
        config: parameters of the run.
        run: its name, as the checkpoint has it.
        finished_rounds: as the checkpoint has it.
    """

    def __init__(self, folder: Path, config: RunConfig, *, run: str, finished_rounds: int) -> None:
        self._folder = folder
        self._audit = AuditLog(folder / FILE)
        self._tracker = run_tracker(config, run)
        new = RunStatus(
            run=run,
            state=RunState.WAITING,
            round=finished_rounds,
            rounds=config.training.number_of_rounds,
            started=now(),
        )
        self.status = _continue_status(folder, new)

    @contextmanager
    def report_run(self) -> Iterator[None]:
        """Report start and end of the run within; after a kill the status still says "running"."""
        resumed = self.status.starts > 0
        self._record(AuditEvent.RUN_RESUMED if resumed else AuditEvent.RUN_STARTED)
        self._update(
            state=RunState.WAITING, reason="", starts=self.status.starts + 1, warm_start=()
        )
        try:
            yield
        except Exception as error:
            with suppress(AuditError):  # the first error is the one to report
                self._end(*_ending(error))
            raise
        self._end(RunState.FINISHED, AuditEvent.RUN_FINISHED, "")

    def partner_changed(self, partner: Partner) -> None:
        """Report that a partner connected, came back or disconnected."""
        event = AuditEvent.PARTNER_JOINED if partner.connected else AuditEvent.PARTNER_LEFT
        key = partner.aggregation_key
        stated = {"aggregation_key": fingerprint(key)} if key else {}
        name, population = partner.organisation, partner.population
        self._record(event, organisation=name, population=population, **stated)
        log.info("%s: %s", event, partner.organisation)
        before = self.status.organisations.get(partner.organisation)
        after = Organisation(connected=partner.connected, population=partner.population)
        if before is not None:
            after = replace(before, connected=partner.connected, population=partner.population)
        labels = (partner.organisation, f"node {partner.node_id}")
        self._update(
            organisations={**self.status.organisations, partner.organisation: after},
            declined={k: v for k, v in self.status.declined.items() if k not in labels},
        )

    def partner_declined(self, declined: Declined) -> None:
        """Report that a node takes no part, and why."""
        self._record(AuditEvent.PARTNER_DECLINED, node=declined.label, reason=declined.reason)
        log.warning("%s cannot take part: %s", declined.label, declined.reason)
        self._update(declined={**self.status.declined, declined.label: declined.reason})

    def organisations_ready(self) -> None:
        """Report that enough organisations are connected to begin."""
        self._update(state=RunState.RUNNING)

    def plan_admitted(self, report: CollectionReport) -> None:
        """Report that enough organisations can pay for the whole run, and which cannot."""
        self._record(AuditEvent.PLAN_ADMITTED, outcomes=_outcomes(report))
        if report.failures:
            log.warning("not all can pay for the whole run: %s", report.failures)
        self._update(state=RunState.RUNNING, reason="")

    def plan_missed(self, report: CollectionReport) -> None:
        """Report that too few organisations said that they can pay for the whole run."""
        reason = (
            f"{report.name}, attempt {report.attempts}: {report.valid} can, {report.needed} are "
            f"needed ({report.failures or 'no organisation is connected'})"
        )
        log.warning("%s", reason)
        self._record(AuditEvent.PLAN_MISSED, outcomes=_outcomes(report))
        self._update(state=RunState.RETRYING, reason=reason)

    def warm_started(self, *, seconds: float, bytes_up: int) -> None:
        """Report that the first weights are computed.

        Args:
            seconds: that it took.
            bytes_up: size of the statistics' arrays that were received.
        """
        self._update(warm_start_seconds=seconds, round_bytes_up=bytes_up)
        self.warm_start_step(f"the warm start is finished, after {seconds:.1f} s")

    def warm_start_step(self, line: str) -> None:
        """Report what happens next in the warm start."""
        self._update(warm_start=(*self.status.warm_start, line))

    def attempt_missed(self, report: CollectionReport) -> None:
        """Report that an attempt at a collection had too few valid replies and is repeated."""
        reason = (
            f"{report.name}, attempt {report.attempts}: {report.valid} valid replies, "
            f"{report.needed} are needed ({report.failures or 'no organisation is connected'})"
        )
        log.warning("%s", reason)
        event = AuditEvent.ROUND_MISSED if report.round else AuditEvent.STATISTIC_MISSED
        self._record(event, **_subject(report), outcomes=_outcomes(report), **_sum(report))
        self._update(
            state=RunState.RETRYING,
            reason=reason,
            missed=self.status.missed + 1,
            organisations=self._counted(report),
        )

    def statistic_collected(self, report: CollectionReport) -> None:
        """Report that a statistic of the warm start has enough valid replies."""
        self._record(
            AuditEvent.STATISTIC_COLLECTED,
            **_subject(report),
            attempts=report.attempts,
            outcomes=_outcomes(report),
            **_sum(report),
        )
        log.info(
            "%s: %d valid replies of %d in %.1f s",
            *(report.name, report.valid, len(report.verdicts), report.seconds),
        )
        self._update(state=RunState.RUNNING, reason="", organisations=self._counted(report))
        self.warm_start_step(
            f"{report.name}: {report.valid} valid replies of {len(report.verdicts)}, "
            f"{report.seconds:.1f} s"
        )

    def round_finished(self, report: CollectionReport, metrics: Mapping[str, float]) -> None:
        """Report that a round is finished and saved.

        Args:
            report: how the round went.
            metrics: released with noise in this round; empty where none was asked for.
        """
        self._record(
            AuditEvent.ROUND_FINISHED,
            round=report.round,
            attempts=report.attempts,
            outcomes=_outcomes(report),
            seconds=round(report.seconds, 3),
            bytes_up=report.bytes_up,
            bytes_down=report.bytes_down,
            **_sum(report),
        )
        log.info(
            "round %d of %d: %d valid replies of %d in %.1f s",
            *(report.round, self.status.rounds, report.valid, len(report.verdicts)),
            report.seconds,
        )
        status = self.status
        released = {"metrics": dict(metrics), "metrics_round": report.round} if metrics else {}
        self._update(
            state=RunState.RUNNING,
            reason="",
            round=report.round,
            organisations={
                name: self._with_round(name, part, report)
                for name, part in self._counted(report).items()
            },
            round_finished=now(),
            round_seconds=report.seconds,
            round_bytes_up=report.bytes_up,
            round_bytes_down=report.bytes_down,
            seconds=status.seconds + report.seconds,
            bytes_up=status.bytes_up + report.bytes_up,
            bytes_down=status.bytes_down + report.bytes_down,
            **released,
        )
        self._tracker.log_round(self.status)

    def training_stopped(self, checkpoint: Checkpoint) -> None:
        """Report that rounds are left out, since noised metrics no longer improve."""
        log.info(
            "round %d: %d evaluations in a row are not above that of round %d by more than the "
            "noise. Training stops, and the weights of round %d are the run's",
            *(checkpoint.round, checkpoint.waited, checkpoint.best_round, checkpoint.best_round),
        )
        self._update(rounds=checkpoint.round)

    def groups_collected(self, report: CollectionReport) -> None:
        """Report how the measurement of groups went."""
        outcomes = _outcomes(report)
        self._record(AuditEvent.GROUPS_MEASURED, outcomes=outcomes, **_sum(report))
        if failures := report.failures:
            log.warning("no figures of groups from %s", failures)
        released = int(report.attempts > 0 and report.valid > 0)  # else it was before a resume
        self._update(
            organisations=self._counted(report), measurements=self.status.measurements + released
        )

    def groups_weighed(self, number: int, weights: str) -> None:
        """Report what users of each group count from a round on."""
        log.info("round %d: groups count as %s", number, weights)
        self._update(group_weights=weights)

    def groups_measured(self, figures: Mapping[str, Any]) -> None:
        """Keep the figures of public groups, released with noise; {} where noise hides them."""
        self._update(groups=dict(figures))

    def _counted(self, report: CollectionReport) -> dict[str, Organisation]:
        organisations = dict(self.status.organisations)
        for name, verdict in report.verdicts.items():
            organisations[name] = organisations[name].counted(verdict.outcome, verdict.reason)
        for name in report.late:
            organisations[name] = organisations[name].counted(Outcome.LATE)
        for name, charges in report.charges.items():
            organisations[name] = replace(
                organisations[name], sums_charged=charges.sums, sums_unsure=charges.unsure
            )
        return organisations

    @staticmethod
    def _with_round(name: str, part: Organisation, report: CollectionReport) -> Organisation:
        verdict = report.verdicts.get(name)
        if verdict is None or verdict.outcome is not Outcome.VALID:
            return part
        return replace(part, answered_rounds=part.answered_rounds + 1)

    def _end(self, state: RunState, event: AuditEvent, reason: str) -> None:
        # The status first: a full disk may refuse the audit log its line.
        self._update(state=state, reason=reason)
        self._tracker.log_end(self.status)
        self._record(event, round=self.status.round, reason=reason)

    def _record(self, event: AuditEvent, **fields: Any) -> None:  # noqa: ANN401 see AuditLog
        self._audit.record(event, run=self.status.run, **fields)

    def _update(self, **changes: Any) -> None:  # noqa: ANN401 fields of RunStatus
        self.status = replace(self.status, updated=now(), **changes)
        try:
            self.status.save(self._folder)
        except OSError as error:
            log.warning("the status cannot be written (%s)", error.strerror)


def _continue_status(folder: Path, new: RunStatus) -> RunStatus:
    """Return the status that the run's last process left, at the checkpoint's round, or `new`."""
    try:
        before = RunStatus.load(folder)
    except CheckpointError:
        return new
    if before.run != new.run:
        return new
    # A kill between the two leaves the status one round behind the checkpoint.
    parts = {name: replace(part, connected=False) for name, part in before.organisations.items()}
    return replace(before, round=new.round, rounds=new.rounds, organisations=parts, declined={})


def _ending(error: Exception) -> tuple[RunState, AuditEvent, str]:
    if isinstance(error, QuorumError):
        return RunState.PAUSED, AuditEvent.RUN_PAUSED, str(error)
    reason = str(error) if isinstance(error, SottoError) else FAULT + type(error).__name__
    return RunState.FAILED, AuditEvent.RUN_FAILED, reason


def _outcomes(report: CollectionReport) -> dict[str, str]:
    return {name: str(verdict.outcome) for name, verdict in report.verdicts.items()}


def _sum(report: CollectionReport) -> dict[str, Any]:
    """Return the attempt at a sum, and who left it at which step; nothing without one."""
    if not report.sum_attempt:
        return {}
    return {"sum_attempt": report.sum_attempt, "left_at_step": dict(report.left_at_step)}


def _subject(report: CollectionReport) -> dict[str, int | str]:
    """Return what an audit entry says that the report is about."""
    return {"round": report.round} if report.round else {"statistic": report.name}
