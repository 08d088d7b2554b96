"""Starts runs, and resumes those that break off, from their last finished round.

| Flower says of the last start      | and                              | what follows            |
|------------------------------------|----------------------------------|-------------------------|
| pending, starting, running         |                                  | nothing                 |
| completed                          | the model is there               | finished                |
| failed, or completed without model | it paused itself                 | paused, with its reason |
|                                    | a round was finished since       | resumed at once         |
|                                    | none was                         | resumed, after a wait   |
|                                    | none was, `ATTEMPTS` times       | failed, with its reason |
| stopped                            |                                  | stopped                 |
| nothing: the coordinator is away   |                                  | nothing, asked again    |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.audit import FILE as AUDIT
from server.audit import AuditEvent, AuditLog
from server.checkpoint import Checkpoint
from server.flower import Flower, FlowerRun, Status
from server.runs import Run, RunState, all_runs
from server.settings import Settings
from shared.errors import ServerError, SottoError

__all__ = ["ATTEMPTS", "Keeper", "pause_reason", "start"]

log = logging.getLogger("sotto.keeper")
MODEL = "model"
ATTEMPTS = 5
"""Starts in a row that finish no round, after which a run is given up."""
_WAITS = (0.0, 5.0, 15.0, 60.0, 120.0)


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
    run.write_config(resume=Checkpoint.exists(run.out))
    number, bundle = flower.start(run.app, run.config_file)
    if not run.bundle.startswith(bundle):
        flower.stop(number)
        raise ServerError(
            f"{run.app} was changed after the run began: its bundle is {bundle} now, not "
            f"{run.bundle[: len(bundle)]}. Nothing was started."
        )
    AuditLog(settings.path(AUDIT)).record(event, run=run.name, flower=number, bundle=run.bundle)
    return run.started(number)


def pause_reason(run: Run) -> str:
    """Why a run paused itself; "" where it did not."""
    last: dict[str, object] = {}
    for entry in AuditLog(run.out / AUDIT).entries():
        last = dict(entry)
    if last.get("event") != str(AuditEvent.RUN_PAUSED):
        return ""
    return str(last.get("reason") or "it paused: see its log")


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

    def look(self) -> bool:
        """Looks at every wanted run once.

        Returns:
            Whether one of them is about to end, so that it is worth looking again soon.
        """
        soon = False
        for run in all_runs(self.settings):
            if run.state is not RunState.WANTED:
                continue
            try:
                self._tend(run)
            except SottoError as error:  # away, or declined: the next look may find it otherwise
                log.warning("%s: %s", run.name, error)
            soon = soon or _nearly_done(run)
        return soon

    def _tend(self, run: Run) -> None:
        found = self.flower.run(run.starts[-1])
        if not found.status.finished:
            return
        with run.alone() as now:
            if now == run:  # nobody stopped or resumed it meanwhile
                self._judge(run, found)

    def _judge(self, run: Run, found: FlowerRun) -> None:
        if found.status is Status.COMPLETED and (run.out / MODEL).is_dir():
            self._end(run, RunState.FINISHED, AuditEvent.RUN_FINISHED)
        elif found.status is Status.STOPPED:
            self._end(run, RunState.STOPPED, None, "somebody stopped it")
        elif reason := pause_reason(run):
            self._end(run, RunState.PAUSED, None, reason)
        else:
            self._again(run, found)

    def _again(self, run: Run, found: FlowerRun) -> None:
        progress, tries = run.progress, self._tries.setdefault(run.name, _Tries())
        done = progress.round if progress else -1
        if done > tries.round:
            tries.round, tries.count = done, 0
        if tries.number != found.number:  # this end is seen for the first time
            tries.number = found.number
            tries.due = self.clock() + _WAITS[min(tries.count, len(_WAITS) - 1)]
            tries.count += 1
        if tries.count > ATTEMPTS:
            reason = found.details or "see the coordinator's log"
            self._end(run, RunState.FAILED, AuditEvent.RUN_FAILED, reason)
        elif self.clock() >= tries.due:
            log.warning("%s broke off after round %d, and is resumed", run.name, max(done, 0))
            start(self.settings, self.flower, run, AuditEvent.RUN_RESUMED)

    def _end(self, run: Run, state: RunState, event: AuditEvent | None, reason: str = "") -> None:
        if event is not None:
            fields = {"reason": reason} if reason else {}
            AuditLog(self.settings.path(AUDIT)).record(event, run=run.name, **fields)
        run.changed(state, reason)
        self._tries.pop(run.name, None)


def _nearly_done(run: Run) -> bool:
    progress = run.progress
    return progress is not None and progress.round >= run.config.training.rounds - 1
