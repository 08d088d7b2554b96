"""Run the runs of a sweep, as many at a time as the workers allow; failures do not stop it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from simulations.sweep.folder import SweepFolder
from simulations.sweep.plan import Keep, PlannedRun
from simulations.sweep.progress import SweepProgress
from simulations.sweep.table import Outcome, write_table
from simulations.sweep.workers import Workers

__all__ = ["Grid", "Source", "outcome_of", "work"]

_POLL = 0.1


class Source(Protocol):
    """Provides the runs of a sweep."""

    @property
    def total(self) -> int:
        """Return the number of runs."""

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """Return the outcomes of all runs so far, in their order."""

    def next(self) -> PlannedRun | None:
        """Return the next run to start; None if none is left."""

    def record(self, outcome: Outcome) -> None:
        """Record the outcome of a run."""


class Grid:
    """Every planned run that is not finished, in order.

    Args:
        runs: all runs of the plan.
        folder: of the sweep.
    """

    def __init__(self, runs: Sequence[PlannedRun], folder: SweepFolder) -> None:
        self._outcomes = {run.name: outcome_of(folder, run) for run in runs}
        self._left = iter([run for run in runs if self._outcomes[run.name].result is None])

    @property
    def total(self) -> int:
        """Return the number of runs."""
        return len(self._outcomes)

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """Return the outcomes of all runs."""
        return list(self._outcomes.values())

    def next(self) -> PlannedRun | None:
        """Return the next run that is not finished."""
        return next(self._left, None)

    def record(self, outcome: Outcome) -> None:
        """Record the outcome of a run."""
        self._outcomes[outcome.run.name] = outcome


def outcome_of(folder: SweepFolder, run: PlannedRun, code: int | None = None) -> Outcome:
    """Return the state of a run; `code` is the exit code of a process that has just ended."""
    result = folder.result(run.name)
    if result is not None:
        return Outcome(run=run, status="finished", result=result)
    if code is not None:
        return Outcome(run=run, status="failed", reason=folder.reason(run.name, code))
    return Outcome(run=run, status="begun" if folder.run(run.name).exists() else "waiting")


def work(
    source: Source, workers: Workers, folder: SweepFolder, keep: Keep, progress: SweepProgress
) -> None:
    """Run all runs of `source`; in any case, end every process and write the table.

    Raises:
        KeyboardInterrupt: Ctrl-C, or SIGTERM.
    """
    running: dict[str, PlannedRun] = {}
    for outcome in source.outcomes:
        if outcome.status == "finished":
            folder.slim(outcome.run.name, keep)
    with _interrupt_on_sigterm():
        try:
            while True:
                while workers.free and (run := source.next()) is not None:
                    running[run.name] = run
                    workers.start(folder.job(run))
                if not running:
                    break
                progress.show(len(running))
                for name, code in workers.ended():
                    outcome = outcome_of(folder, running.pop(name), code)
                    if outcome.status == "finished":
                        folder.slim(name, keep)
                    source.record(outcome)
                    progress.print_outcome(outcome, len(running))
                    write_table(source.outcomes, folder.path)
                time.sleep(_POLL)
        finally:
            workers.stop()
            write_table(source.outcomes, folder.path)


@contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C."""

    def interrupt(*_: Any) -> None:  # noqa: ANN401 what `signal` passes
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
