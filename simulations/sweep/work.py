"""Runs the runs of a sweep, as many at a time as there are workers, whatever becomes of each."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from simulations.sweep.board import Board
from simulations.sweep.folder import SweepFolder
from simulations.sweep.plan import Keep, PlannedRun
from simulations.sweep.table import Outcome, write_table
from simulations.sweep.workers import Workers

__all__ = ["Grid", "Source", "outcome_of", "work"]

_POLL = 0.1


class Source(Protocol):
    """Where runs come from."""

    @property
    def total(self) -> int:
        """How many runs there are in all."""

    @property
    def known(self) -> Sequence[Outcome]:
        """All runs so far, finished or not, in their order."""

    def next(self) -> PlannedRun | None:
        """A run to start now; None if there is none left."""

    def done(self, outcome: Outcome) -> None:
        """Takes what became of a run."""


class Grid:
    """Every planned run that is not finished, in order.

    Args:
        runs: all of them.
        folder: where they are.
    """

    def __init__(self, runs: Sequence[PlannedRun], folder: SweepFolder) -> None:
        self._found = {run.name: outcome_of(folder, run) for run in runs}
        self._left = iter([run for run in runs if self._found[run.name].result is None])

    @property
    def total(self) -> int:
        """All runs."""
        return len(self._found)

    @property
    def known(self) -> Sequence[Outcome]:
        """All runs."""
        return list(self._found.values())

    def next(self) -> PlannedRun | None:
        """The next one that is not finished."""
        return next(self._left, None)

    def done(self, outcome: Outcome) -> None:
        """Remembers it."""
        self._found[outcome.run.name] = outcome


def outcome_of(folder: SweepFolder, run: PlannedRun, code: int | None = None) -> Outcome:
    """How far a run is; `code` is that with which its process has just ended."""
    result = folder.result(run.name)
    if result is not None:
        return Outcome(run=run, status="finished", result=result)
    if code is not None:
        return Outcome(run=run, status="failed", reason=folder.reason(run.name, code))
    return Outcome(run=run, status="begun" if folder.run(run.name).exists() else "waiting")


def work(source: Source, workers: Workers, folder: SweepFolder, keep: Keep, shown: Board) -> None:
    """Runs all that `source` has; however this ends, no process is left and the table is written.

    Raises:
        KeyboardInterrupt: Ctrl-C, or SIGTERM.
    """
    running: dict[str, PlannedRun] = {}
    for before in source.known:
        if before.status == "finished":
            folder.slim(before.run.name, keep)
    with _terminable():
        try:
            while True:
                while workers.free and (run := source.next()) is not None:
                    running[run.name] = run
                    workers.start(folder.job(run))
                if not running:
                    break
                shown.show(len(running))
                for name, code in workers.ended():
                    outcome = outcome_of(folder, running.pop(name), code)
                    if outcome.status == "finished":
                        folder.slim(name, keep)
                    source.done(outcome)
                    shown.tell(outcome, len(running))
                    write_table(source.known, folder.path)
                time.sleep(_POLL)
        finally:
            workers.stop()
            write_table(source.known, folder.path)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does."""

    def interrupt(*_: Any) -> None:  # noqa: ANN401 what `signal` passes
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
