"""Progress of a simulation, as bars on a terminal or lines in a log."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from shared.system.command_line import messages

__all__ = ["Bars", "bars"]

_FEW_ROUNDS = 10
"""Rounds of which each has its line."""


class Bars:
    """A reporter with one bar a stage, or lines in a log: round, loss, highest ε, time left."""

    def __init__(self, bars: Progress) -> None:
        self._bars, self._stage = bars, ""
        self._task: TaskID | None = None

    def stage(self, text: str) -> None:
        """Start a new bar; see `simulations.experiment.simulation.Reporter`."""
        self._stage, self._task = text, None

    def round(
        self,
        done: int,
        of: int,
        *,
        loss: float | None,
        epsilon: float,
        seconds: float | None = None,
        bytes_up: int | None = None,
    ) -> None:
        """Move the bar; print a line of each round, or of each fifth of many in a log."""
        figures = "no privacy" if epsilon == float("inf") else f"ε {epsilon:.2f}"
        if loss is not None:
            figures = f"loss {loss:.3f}  {figures}"
        if seconds is not None and bytes_up is not None:
            figures += f"  {seconds:.1f} s, {bytes_up / 1e6:.1f} MB received"
        if self._task is None:
            self._task = self._bars.add_task(self._stage, total=of, figures="")
        self._bars.update(self._task, completed=done, figures=figures)
        few = of <= _FEW_ROUNDS and loss is not None
        if few or (not self._bars.console.is_terminal and done and done % max(1, of // 5) == 0):
            what = f"round {done} of {of}" if done else "statistics"
            self._bars.console.print(f"{self._stage}: {what}, {figures}", soft_wrap=True)


def bars() -> Progress:
    """Return the display that `Bars` draws on; a context manager."""
    return Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=messages,
        disable=not messages.is_terminal,
    )
