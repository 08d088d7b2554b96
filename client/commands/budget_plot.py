"""Plot of the budget: spent ε over time, and the limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from client.site.statement import Point, Statement
from shared.errors import ConfigError
from shared.system.pictures import check_picture, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SPENT", "draw"]

SPENT, LIMIT = "#0072B2", "#D55E00"
"""Blue and vermilion, distinguishable with any colour vision (Okabe & Ito 2008)."""

MAX_LABELS = 8
"""Largest number of runs whose names are drawn."""


def draw(statement: Statement, points: Sequence[Point], file: Path) -> None:
    """Draw ε after each charge as a step function, with the limit.

    Raises:
        ConfigError: the file's suffix names no known form, it cannot be written, or there is
            nothing to draw.
    """
    check_picture(file)
    finite = [point for point in points if math.isfinite(point.epsilon)]
    if not finite:
        why = "no ε is finite: something left without noise" if points else "nothing is spent yet"
        raise ConfigError(f"--plot {file}: {why}, so there is nothing to draw.")
    from matplotlib.figure import Figure  # noqa: PLC0415 it takes half a second to import

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    _curve(axes, finite)
    _runs(axes, finite)
    _limit(axes, statement)
    if len(finite) < len(points):
        _infinite(axes, points[len(finite)])
    _frame(axes, statement)
    save_picture(figure, file)


def _curve(axes: Axes, points: Sequence[Point]) -> None:
    times = [_number(point) for point in points]
    # From nothing: the first charge is a step, too.
    axes.plot(
        [times[0], *times],
        [0.0, *(point.epsilon for point in points)],
        drawstyle="steps-post",
        color=SPENT,
        linewidth=2,
    )
    axes.plot(times[-1], points[-1].epsilon, "o", color=SPENT)
    axes.annotate(
        f"spent {points[-1].epsilon:.3g}",
        (times[-1], points[-1].epsilon),
        xytext=(-8, -36),  # what was spent never falls: below its end there is nothing
        textcoords="offset points",
        ha="right",
        color=SPENT,
        weight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _runs(axes: Axes, points: Sequence[Point]) -> None:
    """Label each finished run at its end, if there are at most `MAX_LABELS`."""
    ends = [before for before, after in pairwise(points) if before.run != after.run]
    for point in ends if len(ends) <= MAX_LABELS else []:
        name = "before a restore" if point.run is None else f"run {point.run[:8]}"
        axes.annotate(
            f"{name}: {point.epsilon:.3g}",
            (_number(point), point.epsilon),
            xytext=(6, 5),
            textcoords="offset points",
            fontsize="small",
            color="#444444",
            parse_math=False,
        )


def _limit(axes: Axes, statement: Statement) -> None:
    if statement.limit == math.inf:
        return
    axes.axhline(statement.limit, color=LIMIT, linewidth=2, linestyle="--")
    axes.annotate(
        f"limit {statement.limit:g}",
        (0.01, statement.limit),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        color=LIMIT,
    )


def _infinite(axes: Axes, point: Point) -> None:
    axes.axvline(_number(point), color="black", linewidth=1, linestyle=":")
    axes.annotate(
        "infinite from here",
        (_number(point), 0.5),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        rotation=90,
        va="center",
    )


def _frame(axes: Axes, statement: Statement) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415 as above

    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_title(f"Privacy spent by {statement.organisation}", parse_math=False)
    axes.set_xlabel("time (UTC)")
    axes.set_ylabel(f"ε at δ = {statement.delta:g}")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _number(point: Point) -> float:
    """Return the time as matplotlib's number of days."""
    from matplotlib.dates import date2num  # noqa: PLC0415 as above

    return float(date2num(point.at))
