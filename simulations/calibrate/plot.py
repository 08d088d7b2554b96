"""The figure of a calibration: noise over signal, and rounds that fit, by ε."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from shared.system.pictures import check_picture, save_picture
from simulations.calibrate.numbers import MOMENT, STEP, Calibration, Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Distinguishable with any colour vision (Okabe and Ito, 2008); markers differ too."""
MARKERS = "osD^vP"
GREY = "#444444"
TITLES = {STEP: "A training step", MOMENT: "The moment of next items"}


def draw(calibrations: Sequence[Calibration], fits: Sequence[Fit], file: Path) -> None:
    """Draw noise over signal of the last kind of sum, and the rounds that fit.

    Raises:
        ConfigError: the file's suffix names no known format, or it cannot be written.
    """
    check_picture(file)
    from matplotlib.figure import Figure  # noqa: PLC0415 it takes half a second to import

    figure = Figure(figsize=(10, 5) if fits else (6, 5), layout="constrained")
    panels = figure.subplots(1, 2 if fits else 1, squeeze=False)[0]
    _noise(panels[0], calibrations)
    if fits:
        _rounds(panels[1], fits)
    for axes in panels:
        _frame(axes, [one.epsilon for one in calibrations], calibrations[0].delta)
    save_picture(figure, file)


def _noise(axes: Axes, calibrations: Sequence[Calibration]) -> None:
    sums = [one.sums[-1] for one in calibrations]
    count, smallest = len(sums[0].populations), min(sums[0].populations)
    lines = [
        (f"one organisation ({smallest:,} users)", [one.single[0] for one in sums]),
        (f"{count} together, each with its own noise", [one.together for one in sums]),
        (f"{count} with one trusted party", [one.central for one in sums]),
    ]
    for place, (name, values) in enumerate(lines if count > 1 else lines[:1]):
        _line(axes, place, name, [one.epsilon for one in calibrations], values)
    axes.axhline(
        1, color=GREY, linewidth=1.5, linestyle="--", label="noise equal to the largest sum"
    )
    axes.set_title(f"{TITLES[sums[0].name]}: {sums[0].numbers:,} numbers", fontsize="medium")
    axes.set_ylabel("norm of noise / largest norm of sum")


def _rounds(axes: Axes, fits: Sequence[Fit]) -> None:
    ordered = sorted(fits, key=lambda fit: fit.noise_multiplier)
    groups = groupby(ordered, key=lambda fit: fit.noise_multiplier)
    for place, (noise, some) in enumerate(groups):
        shown = [fit for fit in sorted(some, key=lambda fit: fit.epsilon) if fit.rounds]
        epsilons, rounds = [fit.epsilon for fit in shown], [float(fit.rounds) for fit in shown]
        _line(axes, place, f"σ = {noise:.3g}", epsilons, rounds)
    axes.set_title("Rounds that fit at a noise multiplier σ", fontsize="medium")
    axes.set_ylabel("rounds (none: no point)")


def _line(axes: Axes, place: int, name: str, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(
        x,
        y,
        label=name,
        linewidth=2,
        color=COLOURS[place % len(COLOURS)],
        marker=MARKERS[place % len(MARKERS)],
        linestyle="-" if place < len(COLOURS) else ":",
    )


def _frame(axes: Axes, epsilons: Sequence[float], delta: float) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(list(epsilons), [f"{epsilon:g}" for epsilon in epsilons])
    axes.minorticks_off()
    axes.set_xlabel(f"ε at δ = {delta:g}")
    axes.margins(y=0.1)
    axes.legend(
        fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2
    )
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
