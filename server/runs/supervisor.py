"""Start runs, and resume those whose process ends, from their last finished round.

| the run's own status           | Flower's status of its start | what the supervisor does       |
|--------------------------------|------------------------------|--------------------------------|
| waiting, running, retrying     | (not asked)                  | nothing: it is at work         |
| finished                       | (not asked)                  | records finished               |
| paused                         | (not asked)                  | records paused, and the reason |
| failed by an error with a      | (not asked)                  | records failed, and the reason |
| remedy                         |                              |                                |
| interrupted, in the last start | pending, starting, running   | resumes it, and stops the dead |
|                                |                              | start, whose end Flower sees a |
|                                |                              | minute later                   |
| failed by a fault, or none of  | pending, starting, running   | asks Flower again              |
| the last start                 |                              |                                |
| any of these                   | stopped                      | records stopped                |
|                                | failed, completed            | resumes it, at most `ATTEMPTS` |
|                                |                              | times without a new round      |
|                                | (Flower does not answer)     | asks Flower again              |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.runs.flower import Flower, FlowerRun, FlowerState
from server.runs.run import Run, all_runs
from server.settings import Settings
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from server.state.checkpoint import Checkpoint
from server.state.partners import FILE as PARTNERS
from server.state.status import RunState, RunStatus, now
from shared.errors import ServerError, SottoError

__all__ = ["ATTEMPTS", "STOPPED_BY_OPERATOR", "RunSupervisor", "start"]

log = logging.getLogger("sotto.supervisor")
ATTEMPTS = 4
"""Starts in a row that finish no round, after which the supervisor gives a run up."""
STOPPED_BY_OPERATOR = "the operator stopped it"
_WAITS = (0.0, 5.0, 15.0, 30.0)
"""Seconds before each of these starts."""


def start(
    settings: Settings,
    flower: Flower,
    run: Run,
    event: AuditEvent,
    quorum: float | None = None,
) -> Run:
    """Start a run, or start it again from its last finished round.

    Args:
        settings: the coordinator's.
        flower: its Flower.
        run: which one.
        event: what the audit log calls it.
        quorum: share of the organisations that a round needs from now on; None changes nothing.

    Raises:
        ConfigError: the quorum is not in (0, 1].
        ServerError: the coordinator is not up, Flower declines, or the run's app was changed.
    """
    since, changes = now(), {} if quorum is None else {"server.quorum": quorum}
    run.write_config(
        resume=Checkpoint.exists(run.out), partners=settings.path(PARTNERS), changes=changes
    )
    audit_log = AuditLog(settings.path(AUDIT))
    if quorum is not None:
        audit_log.record(AuditEvent.RUN_CHANGED, run=run.name, quorum=quorum)
    number, bundle = flower.start(run.app, run.config_file)
    if not run.bundle.startswith(bundle):
        flower.stop(number)
        raise ServerError(
            f"{run.app} was changed after the run began: its bundle is {bundle} now, not "
            f"{run.bundle[: len(bundle)]}. Nothing was started."
        )
    audit_log.record(event, run=run.name, flower=number, bundle=run.bundle)
    return run.save_start(number, since)


@dataclass(slots=True)
class _Attempts:
    """How often a run was started without finishing a round, and when it may be started again."""

    round: int = -1
    count: int = 0
    due: float = 0.0
    number: str = ""


@dataclass(slots=True)
class RunSupervisor:
    """Keep a coordinator's runs going.

    Attributes:
        settings: the coordinator's.
        flower: its Flower.
        clock: seconds, for waits.
    """

    settings: Settings
    flower: Flower
    clock: Callable[[], float] = time.monotonic
    _attempts: dict[str, _Attempts] = field(default_factory=dict)

    def check_runs(self) -> None:
        """Check once every run that is recorded as running, and act by the table above."""
        for run in all_runs(self.settings):
            if run.state is not RunState.RUNNING:
                continue
            try:
                self._check(run)
            except SottoError as error:  # Flower is away or declined: the next check asks again
                log.warning("%s: %s", run.name, error)

    def _check(self, run: Run) -> None:
        status = run.reported
        if status is not None and status.state.active:
            return
        of_last_start = status is not None and run.is_of_last_start(status)
        if status is not None and of_last_start and status.final:
            self._end(run, status.state, status.reason)
            return
        flower_run = self.flower.run(run.starts[-1])
        is_dead = of_last_start and status is not None and status.state is RunState.INTERRUPTED
        if flower_run.state is FlowerState.STOPPED:
            self._end(run, RunState.STOPPED, STOPPED_BY_OPERATOR)
        elif flower_run.state.finished or is_dead:
            self._resume(run, status, flower_run)

    def _resume(self, run: Run, status: RunStatus | None, flower_run: FlowerRun) -> None:
        """Resume the run when its wait is over, or give it up."""
        attempts = self._attempts.setdefault(run.name, _Attempts())
        finished = status.round if status else 0
        if finished > attempts.round:
            attempts.round, attempts.count = finished, 0
        if attempts.number != flower_run.number:  # this end is seen for the first time
            attempts.number = flower_run.number
            attempts.due = self.clock() + _WAITS[min(attempts.count, len(_WAITS) - 1)]
            attempts.count += 1
        if attempts.count > ATTEMPTS:
            reason = flower_run.details or f"it ended {ATTEMPTS + 1} times without a new round"
            self._end(run, RunState.FAILED, reason)
        elif self.clock() >= attempts.due:
            with run.exclusive() as current:
                if current == run:  # the operator has neither stopped nor resumed it meanwhile
                    log.warning("%s ended after round %d and is resumed", run.name, finished)
                    start(self.settings, self.flower, run, AuditEvent.RUN_RESUMED)
                    if not flower_run.state.finished:  # afterwards: "stopped" would end the run
                        self.flower.stop(flower_run.number)

    def _end(self, run: Run, state: RunState, reason: str) -> None:
        with run.exclusive() as current:
            if current == run:
                run.save_state(state, reason)
        self._attempts.pop(run.name, None)
