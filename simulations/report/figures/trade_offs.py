"""Figures of what is given up for something else: curves over NDCG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panel", "PanelCurve", "trade_off_picture"]

_STYLES = (
    (BLUE, "o", "-"),
    (VERMILION, "s", "--"),
    (GREEN, "D", "-."),
    (PURPLE, "^", ":"),
    (INK, "v", "-"),
)
GIVEN_UP = 0.05
"""Share of NDCG, marked by a line."""


@dataclass(frozen=True, slots=True)
class PanelCurve:
    """One method in one panel.

    Attributes:
        label: in the legend; the same in every panel.
        points: NDCG@10 and the panel's figure at each strength, from the plain lists on.
        connected: whether the points are strengths of one method.
    """

    label: str
    points: Sequence[tuple[float, float]]
    connected: bool = True


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure over NDCG@10.

    Attributes:
        title: of its axis.
        plain: NDCG@10 and the figure of the lists as they are.
        curves: at most five.
    """

    title: str
    plain: tuple[float, float]
    curves: Sequence[PanelCurve]


def trade_off_picture(name: str, panels: Sequence[Panel]) -> Picture:
    """Return the figure with one panel beside, or on a narrow screen below, the other."""

    def draw(figure: Figure, narrow: bool) -> None:
        grid = (len(panels), 1) if narrow else (1, len(panels))
        places = figure.subplots(*grid, squeeze=False).flat
        for number, (axes, panel) in enumerate(zip(places, panels, strict=True)):
            for curve, (colour, marker, line) in zip(panel.curves, _STYLES, strict=False):
                x, y = zip(*curve.points, strict=True)
                axes.plot(
                    *(x, y),
                    color=colour,
                    marker=marker,
                    linestyle=line if curve.connected else "none",
                    linewidth=1.8,
                    markersize=5.5,
                    markeredgecolor=PAPER,
                    label=shortened(curve.label, 36 if narrow else 46),
                )
            plain, figure_of_plain = panel.plain
            axes.plot(plain, figure_of_plain, "*", color=INK, markersize=11, label="as it is")
            share = f"{GIVEN_UP:.0%} of NDCG given up"
            axes.axvline((1 - GIVEN_UP) * plain, color=MUTED, linestyle=(0, (1, 3)), label=share)
            axes.set_xlim(left=max(axes.get_xlim()[0], 0.8 * plain))
            axes.locator_params(axis="x", nbins=4)
            axes.set_ylabel(panel.title)
            if not narrow or number == len(panels) - 1:
                axes.set_xlabel("NDCG@10")
            frame(axes, grid="both")
        legend(figure, figure.axes[0], narrow=narrow)

    return Picture(name, draw, 3.9, 2.9 * len(panels) + 0.9)
