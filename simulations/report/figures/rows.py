"""Figures with one row each: of models, organisations, groups of users, observers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from simulations.report.reading.runs import Exposure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Row", "audit_picture", "exposure_picture", "gain_picture", "hits_picture", "part_rows"]

MOST_ROWS = 20
"""Organisations that a figure shows; the table has all."""
STEPS = ((1, "most popular tenth"), (1, "next tenth"), (3, "next three tenths"), (5, "other half"))
SHADES = (
    ("#004a7c", "#ffffff"),
    ("#3d85b8", "#ffffff"),
    ("#9cc7e4", "#14202b"),
    ("#dbe9f3", "#14202b"),
)
"""Of a segment, and of what is written on it; the same on a dark screen."""
ROOM_FOR_LABEL = {False: 0.06, True: 0.13}
"""Share of the width that a percentage needs, on a wide figure and on a narrow one."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of shares.

    Attributes:
        label: what it is of.
        shares: by model.
    """

    label: str
    shares: Mapping[str, Share]


def part_rows(parts: Sequence[Part]) -> list[Row]:
    """One row a part, with its size."""
    return [Row(f"{shortened(part.label, 16)}\n{part.users:,} users", part.share) for part in parts]


def hits_picture(name: str, rows: Sequence[Row]) -> Picture:
    """Shares of users with 95% intervals; the models of a row one below the other."""
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
        _rows(axes, [_folded(row.label) if narrow else row.label for row in rows])
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(_percent)
        axes.set_xlabel("users who are hit" if narrow else "users whose item is among their ten")
        if any(len(row.shares) > 1 for row in rows):
            legend(figure, axes, narrow=narrow)

    tall = 0.34 + 0.13 * max(len(row.shares) for row in rows)
    return Picture(name, draw, 1.25 + tall * len(rows), 1.6 + tall * len(rows))


def gain_picture(found: Sequence[Gain]) -> Picture:
    """Each organisation alone and together, the largest gain on top; all users last."""
    every, *each = found
    each = sorted(each, key=lambda one: one.together.value - one.alone.value, reverse=True)
    rows = [*each[:MOST_ROWS], every]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, one in enumerate(rows):
            first = place == 0
            ends = [one.alone.value, one.together.value]
            axes.plot(ends, [place, place], color=MUTED, linewidth=1.6, zorder=2)
            axes.plot(
                one.alone.value,
                place,
                "D",
                color=PAPER,
                markeredgecolor=VERMILION,
                markeredgewidth=1.8,
                markersize=6.5,
                clip_on=False,
                label="alone" if first else None,
                zorder=3,
            )
            axes.plot(
                one.together.value,
                place,
                "o",
                color=BLUE,
                markersize=8,
                clip_on=False,
                label="together" if first else None,
                zorder=4,
            )
        most = 12 if narrow else 24
        _rows(axes, [shortened(one.name, most) if one.name else "all users" for one in rows])
        axes.axhline(len(rows) - 1.5, color=MUTED, linewidth=0.8)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(_percent)
        axes.set_xlabel("users who are hit" if narrow else "users whose item is among their ten")
        legend(figure, axes, narrow=False)

    return Picture("gain", draw, 1.2 + 0.3 * len(rows), 1.2 + 0.3 * len(rows))


def exposure_picture(found: Exposure, models: Sequence[str]) -> Picture:
    """Where places go, from the most popular items to the least, beside what users chose."""
    rows = {"what users chose": found.chosen}
    rows |= {look(model).label: found.models[model] for model in models}

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, shares in enumerate(rows.values()):
            _bar(axes, place, shares, room=ROOM_FOR_LABEL[narrow])
        _rows(axes, [_folded(label) if narrow else label for label in rows])
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(_percent)
        axes.grid(visible=False)
        axes.set_xlabel("share of all places")
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
    """For each observer: what was proven, what could have been, an estimate, and the claim."""
    rows = [(audit, observer) for audit in audits for observer in audit.observers]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, (audit, observer) in enumerate(rows):
            _observer(axes, place, observer)
            if audit.epsilon is not None:
                axes.plot(
                    [audit.epsilon] * 2, [place - 0.3, place + 0.3], color=VERMILION, linewidth=3.4
                )
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


def _observer(axes: Axes, place: int, found: Observer) -> None:
    axes.plot([0, found.lower_bound], [place, place], color=BLUE, linewidth=6, zorder=3)
    axes.plot(found.lower_bound, place, "o", color=BLUE, markersize=8, clip_on=False, zorder=4)
    axes.plot(
        found.largest_provable,
        place,
        "D",
        color=PAPER,
        markeredgecolor=BLUE,
        markeredgewidth=1.6,
        markersize=6.5,
        zorder=4,
    )
    if found.estimate is not None:
        low, high = max(0.0, found.estimate.low), max(0.0, found.estimate.high)
        y = place + 0.22
        axes.plot([low, high], [y, y], color=MUTED, linewidth=1.8)
        axes.plot(max(0.0, found.estimate.epsilon), y, "s", color=MUTED, markersize=5.5)


def _legend_of_audits(axes: Axes) -> None:
    axes.plot([], [], color=VERMILION, linewidth=3.4, label="claimed: at most this")
    axes.plot([], [], color=BLUE, linewidth=5, label="proven: at least this")
    axes.plot(
        [],
        [],
        "D",
        color=PAPER,
        markeredgecolor=BLUE,
        markeredgewidth=1.6,
        label="most it could have proven",
    )
    axes.plot([], [], "s-", color=MUTED, markersize=5.5, label="estimate, not a bound")


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, linespacing=1.25)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    frame(axes, grid="x")
    axes.tick_params(axis="y", length=0)


def _folded(label: str) -> str:
    """Two lines of a label with a comma: on a phone there is no room beside the figure."""
    return label.replace(", ", ",\n")


def _percent(value: float, _: float) -> str:
    return f"{100 * value:.3g}%"
