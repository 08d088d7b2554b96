"""Progress of a simulation, as bars on a terminal or lines in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from shared.system.command_line import messages

if TYPE_CHECKING:
    from simulations.experiment.simulation import RoundFigures

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

    def round(self, done: int, of: int, figures: RoundFigures) -> None:
        """Move the bar; print a line of each round, or of each fifth of many in a log."""
        text = "no privacy" if figures.epsilon == float("inf") else f"ε {figures.epsilon:.2f}"
        if figures.loss is not None:
            text = f"loss {figures.loss:.3f}  {text}"
        if figures.seconds is not None and figures.bytes_up is not None:
            text += f"  {figures.seconds:.1f} s, {figures.bytes_up / 1e6:.1f} MB received"
        if self._task is None:
            self._task = self._bars.add_task(self._stage, total=of, figures="")
        self._bars.update(self._task, completed=done, figures=text)
        few = of <= _FEW_ROUNDS and figures.loss is not None
        if few or (not self._bars.console.is_terminal and done and done % max(1, of // 5) == 0):
            what = f"round {done} of {of}" if done else "statistics"
            self._bars.console.print(f"{self._stage}: {what}, {text}", soft_wrap=True)


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
