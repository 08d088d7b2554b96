"""Figures with curves: utility against ε, ε against releases, ROC curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simulations.report.figures.canvas import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    PAPER,
    PURPLE,
    VERMILION,
    Picture,
    frame,
    legend,
    shortened,
)
from simulations.report.figures.frontier import AT_EACH_EPSILON, Frontier, Line
from simulations.report.models import Look, look
from simulations.report.numbers.privacy import Spending, allowed_tpr
from simulations.report.reading.audits import Membership

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MOST_LINES", "budget_picture", "frontier_picture", "roc_picture"]

MOST_LINES = 4
"""Most variants in a figure; the table has all."""
_COLOURS = (BLUE, PURPLE, GREEN, VERMILION)
_MARKERS = ("o", "D", "P", "X")
_STROKES = ("-", "--", "-.", ":")
CLOSEST = 0.35
"""Smallest distance of two ticks, in doublings of ε."""


# --- utility against ε ---------------------------------------------------------------------------


def frontier_picture(data: Frontier, title: str) -> Picture:
    """Return the figure of means over the seeds, single seeds as small dots, and baselines."""

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        place = _EpsilonAxis(data)
        lines = data.lines[:MOST_LINES]
        for number, line in enumerate(lines):
            own = look(line.model) if len(lines) == 1 else _variant(line, number, narrow=narrow)
            _line(axes, line, own, place, width=2.4)
        for line in data.baselines:
            if not line.variant:  # the table has those of each variant
                _baseline(axes, line, place)
        place.ticks(axes)
        axes.set_xlabel("privacy budget ε (smaller is stricter)" if not narrow else "ε")
        axes.set_ylabel(title)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.06)
        frame(axes, grid="y")
        legend(figure, axes, narrow=narrow)

    return Picture("utility", draw, 4.3, 3.9)


class _EpsilonAxis:
    """The position of each ε on the axis, in doublings; "none" is to the right of all."""

    def __init__(self, data: Frontier) -> None:
        every = {point.epsilon for line in (*data.lines, *data.baselines) for point in line.points}
        self.finite = sorted(e for e in every if math.isfinite(e) and e > 0)
        self.without = any(math.isinf(e) for e in every)
        self.none = (math.log2(self.finite[-1]) if self.finite else 0.0) + 1.0

    def __call__(self, epsilon: float) -> float:
        return self.none if math.isinf(epsilon) else math.log2(epsilon)

    @property
    def ends(self) -> tuple[float, float]:
        """Return the left and the right end of the axis."""
        shown = [self(e) for e in self.finite] + ([self.none] if self.without else [])
        return min(shown) - 0.3, max(shown) + 0.3

    def ticks(self, axes: Axes) -> None:
        """Label as many ε as there is room for."""
        ticks: list[float] = []
        least = max(CLOSEST, (self.ends[1] - self.ends[0]) / 12)
        for epsilon in self.finite:
            if not ticks or self(epsilon) - self(ticks[-1]) >= least:
                ticks.append(epsilon)
        places, labels = [self(e) for e in ticks], [f"{e:g}" for e in ticks]
        if self.without:
            places.append(self.none)
            labels.append("none")
            axes.axvline(self.none - 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
        axes.set_xticks(places, labels)
        axes.set_xlim(*self.ends)


def _variant(line: Line, number: int, *, narrow: bool) -> Look:
    name = shortened(line.variant or "federated", 38 if narrow else 44)
    return Look(name, _COLOURS[number], _MARKERS[number], _STROKES[number])


def _line(axes: Axes, line: Line, own: Look, place: _EpsilonAxis, *, width: float) -> None:
    points = [point for point in line.points if point.epsilon > 0]
    private = [point for point in points if math.isfinite(point.epsilon)]
    for some in (private, points[len(private) :]):
        places, means = [place(point.epsilon) for point in some], [point.mean for point in some]
        axes.plot(
            places,
            means,
            color=own.colour,
            linestyle=own.line,
            linewidth=width,
            marker=own.marker,
            markersize=7,
            markeredgecolor=PAPER,
            label=own.label if some and some[0] is points[0] else None,
            zorder=4,
        )
        spreads = [point.spread for point in some]
        if any(spreads):
            axes.errorbar(
                places, means, spreads, fmt="none", ecolor=own.colour, capsize=4, elinewidth=1.4
            )
    for point in points:
        if len(point.values) > 1:
            places = [place(point.epsilon) + 0.09] * len(point.values)
            axes.plot(places, point.values, ".", color=own.colour, markersize=3.5, alpha=0.7)


def _baseline(axes: Axes, line: Line, place: _EpsilonAxis) -> None:
    own = look(line.model)
    if line.model in AT_EACH_EPSILON:
        _line(axes, line, own, place, width=1.6)
        return
    values = [value for point in line.points for value in point.values]
    left, right = place.ends
    axes.plot(
        [left, right],
        [float(np.mean(values))] * 2,
        color=own.colour,
        linestyle=own.line,
        linewidth=1.8,
        label=own.label,
    )


# --- ε spent -------------------------------------------------------------------------------------


def budget_picture(curves: Sequence[Spending], cap: float | None) -> Picture:
    """ε after each release, of every organisation, below the cap."""

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        few = max(line.releases[-1] for line in curves) <= 12
        for number, line in enumerate(curves[:MOST_LINES]):
            axes.plot(
                line.releases,
                line.epsilon,
                color=_COLOURS[number],
                linestyle=_STROKES[number],
                marker=_MARKERS[number] if few else None,
                markeredgecolor=PAPER,
                markersize=7,
                linewidth=2.2,
                drawstyle="steps-post" if few else "default",
                label=shortened(named(line.names), 36 if narrow else 44),
                zorder=3,
            )
        if cap is not None:
            axes.axhline(
                cap, color=VERMILION, linestyle="--", linewidth=1.6, label=f"limit: ε = {cap:g}"
            )
        if few:
            axes.set_xticks(range(max(line.releases[-1] for line in curves) + 1))
        axes.set_xlabel("noised sums that left the organisation")
        axes.set_ylabel("ε spent")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.06)
        frame(axes, grid="y")
        legend(figure, axes, narrow=narrow)

    return Picture("budget", draw, 3.5, 3.2)


def named(names: Sequence[str]) -> str:
    """Return up to two names, or the number of organisations.

    >>> named(["a", "b", "c", "d"]), named(["a", "b"])
    ('each of 4 organisations', 'a and b')
    """
    if len(names) > 2:
        return f"each of {len(names)} organisations"
    return " and ".join(names)


# --- membership inference ------------------------------------------------------------------------


def roc_picture(attack: Membership, epsilon: float | None, delta: float) -> Picture:
    """Return the figure of true against false positive rates, both on a logarithmic scale."""

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        lowest = min(0.5 / max(attack.members, attack.non_members, 1), 5e-4)
        grid = np.geomspace(lowest, 1, 200)
        axes.plot(grid, grid, color=MUTED, linestyle="--", linewidth=1.4, label="guessing")
        if epsilon is not None:
            allowed = [allowed_tpr(x, epsilon, delta) for x in grid]
            label = f"limit at ε = {epsilon:.3g}"
            axes.plot(grid, allowed, color=VERMILION, linestyle="-.", linewidth=1.8, label=label)
        axes.plot(
            np.clip(attack.fpr, lowest, 1),
            np.clip(attack.tpr, lowest, 1),
            color=BLUE,
            linewidth=2.2,
            drawstyle="steps-post",
            label="the attack",
        )
        for rate in attack.rates:
            low, high = max(rate.low, lowest), max(rate.high, lowest)
            axes.plot([rate.fpr] * 2, [low, high], color=INK, linewidth=1.4, zorder=4)
            axes.plot(rate.fpr, max(rate.tpr, lowest), "o", color=INK, markersize=5, zorder=5)
        axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.15))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.minorticks_off()
        axes.set_xlabel(
            "false positive rate" if narrow else "false positive rate: others identified as members"
        )
        axes.set_ylabel(
            "true positive rate" if narrow else "true positive rate: members recognised"
        )
        frame(axes, grid="both")
        legend(figure, axes, narrow=narrow, columns=3)

    return Picture("membership", draw, 4.4, 3.9)
