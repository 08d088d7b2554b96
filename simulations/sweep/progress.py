"""Progress of a sweep: a bar on a terminal, and one line for each finished run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from simulations.sweep.table import Outcome

__all__ = ["SweepProgress", "sweep_progress"]


@dataclass(slots=True)
class SweepProgress:
    """Counts of finished, running and failed runs, and the time left.

    Attributes:
        bars: the display.
        total: number of runs.
        done: finished runs, including earlier starts.
        failed: failed runs of this start.
    """

    bars: Progress
    total: int
    done: int = 0
    failed: int = 0
    _ended: int = 0
    _began: float = 0.0

    def show(self, running: int) -> None:
        """Show the number of running runs."""
        left = self._left(running)
        self.bars.update(
            self.bars.task_ids[0],
            completed=self.done,
            figures=f"{running} running, {self.failed} failed{left and f', {left}'}",
        )

    def print_outcome(self, outcome: Outcome, running: int) -> None:
        """Print the outcome of a run that has ended."""
        self._ended += 1
        if outcome.status == "finished":
            self.done += 1
            seconds = (outcome.result or {})["cost"]["seconds"]["total"]
            summary = f"ndcg@10 {outcome.federated['ndcg@10']:.4f} in {seconds:.0f} s"
        else:
            self.failed += 1
            summary = f"FAILED: {outcome.reason}"
        left = self._left(running)
        counts = f"{self.done} of {self.total} done, {running} running, {self.failed} failed"
        self.bars.console.print(
            f"{outcome.run.name}: {summary} ({counts}{left and f', {left}'})",
            soft_wrap=True,
            markup=False,
        )

    def _left(self, running: int) -> str:
        rest = self.total - self.done - self.failed
        if not self._ended or not rest:
            return ""
        # Running runs are half done on average.
        each = (time.monotonic() - self._began) / (self._ended + running / 2)
        minutes = each * (rest - running / 2) / 60
        return f"about {math.ceil(minutes)} min left" if minutes >= 1 else "under 1 min left"


@contextmanager
def sweep_progress(
    total: int, outcomes: Sequence[Outcome], console: Console
) -> Iterator[SweepProgress]:
    """Show the progress of `total` runs, some of which may be finished."""
    finished = sum(outcome.status == "finished" for outcome in outcomes)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bars.add_task("runs", total=total, figures="")
        yield SweepProgress(bars, total, finished, _began=time.monotonic())
