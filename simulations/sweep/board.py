"""What a sweep shows while its runs run: a bar on a terminal, a line a run in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from simulations.sweep.table import Outcome

__all__ = ["Board", "board"]


@dataclass(slots=True)
class Board:
    """How many runs are done, run, failed, and the time left.

    Attributes:
        bars: a bar.
        total: runs in all.
        done: finished, now or before.
        failed: of those that were started now.
    """

    bars: Progress
    total: int
    done: int = 0
    failed: int = 0
    _ended: int = 0
    _began: float = 0.0

    def show(self, running: int) -> None:
        """How many run now."""
        left = self._left(running)
        self.bars.update(
            self.bars.task_ids[0],
            completed=self.done,
            figures=f"{running} running, {self.failed} failed{left and f', {left}'}",
        )

    def tell(self, outcome: Outcome, running: int) -> None:
        """One has ended."""
        self._ended += 1
        if outcome.status == "finished":
            self.done += 1
            seconds = (outcome.result or {})["cost"]["seconds"]["total"]
            said = f"ndcg@10 {outcome.federated['ndcg@10']:.4f} in {seconds:.0f} s"
        else:
            self.failed += 1
            said = f"FAILED: {outcome.reason}"
        left = self._left(running)
        counts = f"{self.done} of {self.total} done, {running} running, {self.failed} failed"
        self.bars.console.print(
            f"{outcome.run.name}: {said} ({counts}{left and f', {left}'})",
            soft_wrap=True,
            markup=False,
        )

    def _left(self, running: int) -> str:
        rest = self.total - self.done - self.failed
        if not self._ended or not rest:
            return ""
        # Those that run are on average half done.
        each = (time.monotonic() - self._began) / (self._ended + running / 2)
        minutes = each * (rest - running / 2) / 60
        return f"about {math.ceil(minutes)} min left" if minutes >= 1 else "under 1 min left"


@contextmanager
def board(total: int, known: Sequence[Outcome], console: Console) -> Iterator[Board]:
    """A board for `total` runs, of which some may be finished."""
    finished = sum(outcome.status == "finished" for outcome in known)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bars.add_task("runs", total=total, figures="")
        yield Board(bars, total, finished, _began=time.monotonic())
