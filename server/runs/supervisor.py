"""Starts runs, and resumes those that break off, from their last finished round.

| the run's own status           | Flower says of its last start | what follows                  |
|--------------------------------|-------------------------------|-------------------------------|
| waiting, running, retrying     | (not asked)                   | nothing: it is at work        |
| finished                       | (not asked)                   | finished                      |
| paused                         | (not asked)                   | paused, with its reason       |
| failed, and it says why        | (not asked)                   | failed, with its reason       |
| interrupted, in the last start | pending, starting, running    | its process is dead, which    |
|                                |                               | Flower sees a minute later:   |
|                                |                               | stopped there, and resumed    |
| failed by a fault, or none of  | pending, starting, running    | nothing, asked again          |
| the last start                 |                               |                               |
| any of these                   | stopped                       | stopped                       |
|                                | failed, completed             | resumed, at most `ATTEMPTS`   |
|                                |                               | times without a new round     |
|                                | (the coordinator is away)     | nothing, asked again          |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.runs.flower import Flower, FlowerRun, Status
from server.runs.run import Fate, Run, all_runs
from server.settings import Settings
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from server.state.checkpoint import Checkpoint
from server.state.status import RunState, RunStatus, now
from shared.errors import ServerError, SottoError

__all__ = ["ATTEMPTS", "Keeper", "start"]

log = logging.getLogger("sotto.keeper")
ATTEMPTS = 4
"""Starts in a row that finish no round, after which a run is given up."""
_WAITS = (0.0, 5.0, 15.0, 30.0)
_FAULT = "a fault:"
_ENDS = {
    RunState.FINISHED: Fate.FINISHED,
    RunState.PAUSED: Fate.PAUSED,
    RunState.FAILED: Fate.FAILED,
}


def start(settings: Settings, flower: Flower, run: Run, event: AuditEvent) -> Run:
    """Starts a run, or starts it again from its last finished round.

    Args:
        settings: the coordinator's.
        flower: its Flower.
        run: which one.
        event: what the audit log calls it.

    Raises:
        ServerError: the coordinator is not up, Flower declines, or the run's app was changed.
    """
    since = now()
    run.write_config(resume=Checkpoint.exists(run.out))
    number, bundle = flower.start(run.app, run.config_file)
    if not run.bundle.startswith(bundle):
        flower.stop(number)
        raise ServerError(
            f"{run.app} was changed after the run began: its bundle is {bundle} now, not "
            f"{run.bundle[: len(bundle)]}. Nothing was started."
        )
    AuditLog(settings.path(AUDIT)).record(event, run=run.name, flower=number, bundle=run.bundle)
    return run.started(number, since)


@dataclass(slots=True)
class _Tries:
    """How often a run was started without a finished round, and when it may be again."""

    round: int = -1
    count: int = 0
    due: float = 0.0
    number: str = ""


@dataclass(slots=True)
class Keeper:
    """Looks after the runs of a coordinator.

    Attributes:
        settings: the coordinator's.
        flower: its Flower.
        clock: seconds, for waits.
    """

    settings: Settings
    flower: Flower
    clock: Callable[[], float] = time.monotonic
    _tries: dict[str, _Tries] = field(default_factory=dict)

    def look(self) -> None:
        """Looks at every wanted run once."""
        for run in all_runs(self.settings):
            if run.state is not Fate.WANTED:
                continue
            try:
                self._tend(run)
            except SottoError as error:  # away, or declined: the next look may find it otherwise
                log.warning("%s: %s", run.name, error)

    def _tend(self, run: Run) -> None:
        status = run.status
        if status is not None and status.state.active:
            return
        if status is not None and run.fresh and _over(status):
            self._end(run, _ENDS[status.state], status.reason)
            return
        found = self.flower.run(run.starts[-1])
        if found.status is Status.STOPPED:
            self._end(run, Fate.STOPPED, "somebody stopped it")
        elif found.status.finished or _dead(run, status):
            self._again(run, found)

    def _again(self, run: Run, found: FlowerRun) -> None:
        status, tries = run.status, self._tries.setdefault(run.name, _Tries())
        done = status.round if status else 0
        if done > tries.round:
            tries.round, tries.count = done, 0
        if tries.number != found.number:  # this end is seen for the first time
            tries.number = found.number
            tries.due = self.clock() + _WAITS[min(tries.count, len(_WAITS) - 1)]
            tries.count += 1
        if tries.count > ATTEMPTS:
            self._end(run, Fate.FAILED, found.details or "it broke off each time: see its log")
        elif self.clock() >= tries.due:
            with run.alone() as still:
                if still == run:  # nobody stopped or resumed it meanwhile
                    log.warning(
                        "%s broke off after round %d, and is resumed", run.name, max(done, 0)
                    )
                    start(self.settings, self.flower, run, AuditEvent.RUN_RESUMED)
                    if not found.status.finished:  # afterwards: "stopped" is an end of its own
                        self.flower.stop(found.number)

    def _end(self, run: Run, fate: Fate, reason: str) -> None:
        with run.alone() as still:
            if still == run:
                run.changed(fate, reason)
        self._tries.pop(run.name, None)


def _dead(run: Run, status: RunStatus | None) -> bool:
    """Whether the last start's own process had begun, and is gone without a word."""
    return status is not None and status.state is RunState.INTERRUPTED and run.fresh


def _over(status: RunStatus) -> bool:
    """Whether nothing is to be done about it without the operator."""
    return status.state in _ENDS and not status.reason.startswith(_FAULT)
