"""Figures with one row for each model, organisation, group of users or observer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulations.experiment.result_json import Exposure
from simulations.report.figures.canvas import (
    BLUE,
    MUTED,
    PAPER,
    VERMILION,
    Picture,
    frame,
    legend,
    shortened,
)
from simulations.report.models import look
from simulations.report.numbers.shares import Share
from simulations.report.numbers.users import Gain, Part
from simulations.report.reading.audits import Audit, Observer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Row", "audit_picture", "exposure_picture", "gain_picture", "hits_picture", "part_rows"]

MOST_ROWS = 20
"""Most organisations in a figure; the table has all."""
STEPS = ((1, "most popular tenth"), (1, "next tenth"), (3, "next three tenths"), (5, "other half"))
SHADES = (
    ("#004a7c", "#ffffff"),
    ("#3d85b8", "#ffffff"),
    ("#9cc7e4", "#14202b"),
    ("#dbe9f3", "#14202b"),
)
"""Colour of each segment and of the text on it; the same on a dark screen."""
ROOM_FOR_LABEL = {False: 0.06, True: 0.13}
"""Share of the width that a percentage needs; by whether the figure is narrow."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of shares.

    Attributes:
        label: of the row.
        shares: by model.
    """

    label: str
    shares: Mapping[str, Share]


def part_rows(parts: Sequence[Part]) -> list[Row]:
    """Return one row for each group, with its size."""
    return [Row(f"{shortened(part.label, 16)}\n{part.users:,} users", part.share) for part in parts]


def hits_picture(name: str, rows: Sequence[Row]) -> Picture:
    """Return the figure of shares of users with 95% intervals, one line for each model."""
    models = list(dict.fromkeys(model for row in rows for model in row.shares))
    step = 0.62 / max(1, len(models) - 1) if len(models) > 1 else 0.0

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            for model, share in row.shares.items():
                own, number = look(model), list(row.shares).index(model)
                y = place + (number - (len(row.shares) - 1) / 2) * step
                low, high = share.interval
                axes.plot([low, high], [y, y], color=own.colour, linewidth=1.8)
                axes.plot(
                    share.value,
                    y,
                    own.marker,
                    color=own.colour,
                    markersize=7,
                    markeredgecolor=PAPER,
                    clip_on=False,
                    label=own.label if place == 0 else None,
                )
        _rows(axes, [_break_at_comma(row.label) if narrow else row.label for row in rows])
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(_percent)
        axes.set_xlabel("users with a hit" if narrow else "users whose item is among their ten")
        if any(len(row.shares) > 1 for row in rows):
            legend(figure, axes, narrow=narrow)

    tall = 0.34 + 0.13 * max(len(row.shares) for row in rows)
    return Picture(name, draw, 1.25 + tall * len(rows), 1.6 + tall * len(rows))


def gain_picture(results: Sequence[Gain]) -> Picture:
    """Return the figure of each organisation's gain, largest first, and of all users."""
    every, *each = results
    each = sorted(each, key=lambda one: one.together.value - one.separate.value, reverse=True)
    rows = [*each[:MOST_ROWS], every]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, one in enumerate(rows):
            first = place == 0
            ends = [one.separate.value, one.together.value]
            axes.plot(ends, [place, place], color=MUTED, linewidth=1.6, zorder=2)
            axes.plot(
                one.separate.value,
                place,
                "D",
                color=PAPER,
                markeredgecolor=VERMILION,
                markeredgewidth=1.8,
                markersize=6.5,
                clip_on=False,
                label="own data alone" if first else None,
                zorder=3,
            )
            axes.plot(
                one.together.value,
                place,
                "o",
                color=BLUE,
                markersize=8,
                clip_on=False,
                label="having joined" if first else None,
                zorder=4,
            )
        most = 12 if narrow else 24
        _rows(axes, [shortened(one.name, most) if one.name else "all users" for one in rows])
        axes.axhline(len(rows) - 1.5, color=MUTED, linewidth=0.8)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(_percent)
        axes.set_xlabel("users with a hit" if narrow else "users whose item is among their ten")
        legend(figure, axes, narrow=False)

    return Picture("gain", draw, 1.2 + 0.3 * len(rows), 1.2 + 0.3 * len(rows))


def exposure_picture(exposure: Exposure, models: Sequence[str]) -> Picture:
    """Return the figure of positions by popularity of the item, and of what users chose."""
    rows = {"what users chose": exposure.chosen}
    rows |= {look(model).label: exposure.models[model] for model in models}

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, shares in enumerate(rows.values()):
            _bar(axes, place, shares, room=ROOM_FOR_LABEL[narrow])
        _rows(axes, [_break_at_comma(label) if narrow else label for label in rows])
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(_percent)
        axes.grid(visible=False)
        axes.set_xlabel("share of all positions")
        handles, names = axes.get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside upper left", ncols=2 if narrow else 4, handlelength=1.0
        )

    return Picture("exposure", draw, 1.2 + 0.45 * len(rows), 1.5 + 0.5 * len(rows))


def _bar(axes: Axes, place: int, shares: Sequence[float], *, room: float) -> None:
    left, decile = 0.0, 0
    for (tenths, label), (shade, letters) in zip(STEPS, SHADES, strict=True):
        width = sum(shares[decile : decile + tenths])
        axes.barh(
            place,
            width,
            left=left,
            height=0.68,
            color=shade,
            edgecolor=PAPER,
            linewidth=1.0,
            label=label if place == 0 else None,
        )
        if width >= room:
            middle = left + width / 2
            axes.text(middle, place, f"{width:.0%}", color=letters, ha="center", va="center")
        left, decile = left + width, decile + tenths


# --- audits --------------------------------------------------------------------------------------


def audit_picture(audits: Sequence[Audit]) -> Picture:
    """Return the figure of each observer's bound, largest provable bound, estimate and claim."""
    rows = [(audit, observer) for audit in audits for observer in audit.observers]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, (audit, observer) in enumerate(rows):
            _observer(axes, place, observer)
            claimed = audit.claimed(observer)
            if claimed is not None:
                axes.plot([claimed] * 2, [place - 0.3, place + 0.3], color=VERMILION, linewidth=3.4)
            name = observer.name if len(audits) == 1 else f"{observer.name}, {audit.name}"
            axes.text(0, place - 0.42, shortened(name, 34), va="center", weight="bold")
        _legend_of_audits(axes)
        axes.set_yticks([])
        axes.set_ylim(len(rows) - 0.4, -0.75)
        axes.set_xlim(left=0)
        axes.set_xlabel("ε")
        frame(axes, grid="x")
        axes.spines["left"].set_visible(False)
        legend(figure, axes, narrow=narrow)

    return Picture("audit", draw, 1.5 + 0.62 * len(rows), 1.9 + 0.62 * len(rows))


def _observer(axes: Axes, place: int, observer: Observer) -> None:
    axes.plot([0, observer.lower_bound], [place, place], color=BLUE, linewidth=6, zorder=3)
    axes.plot(observer.lower_bound, place, "o", color=BLUE, markersize=8, clip_on=False, zorder=4)
    axes.plot(
        observer.largest_provable,
        place,
        "D",
        color=PAPER,
        markeredgecolor=BLUE,
        markeredgewidth=1.6,
        markersize=6.5,
        zorder=4,
    )
    if observer.estimate is not None:
        low, high = max(0.0, observer.estimate.low), max(0.0, observer.estimate.high)
        y = place + 0.22
        axes.plot([low, high], [y, y], color=MUTED, linewidth=1.8)
        axes.plot(max(0.0, observer.estimate.epsilon), y, "s", color=MUTED, markersize=5.5)


def _legend_of_audits(axes: Axes) -> None:
    axes.plot([], [], color=VERMILION, linewidth=3.4, label="claimed upper bound")
    axes.plot([], [], color=BLUE, linewidth=5, label="proved lower bound")
    axes.plot(
        [],
        [],
        "D",
        color=PAPER,
        markeredgecolor=BLUE,
        markeredgewidth=1.6,
        label="largest provable bound",
    )
    axes.plot([], [], "s-", color=MUTED, markersize=5.5, label="estimate, not a bound")


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, linespacing=1.25)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    frame(axes, grid="x")
    axes.tick_params(axis="y", length=0)


def _break_at_comma(label: str) -> str:
    """Break a label at its comma, since a phone has no room beside the figure."""
    return label.replace(", ", ",\n")


def _percent(value: float, _: float) -> str:
    return f"{100 * value:.3g}%"
