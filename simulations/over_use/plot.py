"""The figure of an experiment: calibration at each ε, and AUROC beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.system.pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Distinguishable with any colour vision (Okabe and Ito, 2008); markers differ too."""
MARKERS = "osD^vP"
GREY = "#666666"


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Draw calibration and AUROC of a result.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 it takes half a second to import

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _calibration(left, result)
    _auroc(right, result)
    save_picture(figure, file)


def _calibration(axes: Axes, result: Mapping[str, Any]) -> None:
    highest = 0.0
    for place, name in enumerate(result["privacy"]):
        bins = result["models"][name]["reliability"]
        x, y = [one["risk"] for one in bins], [one["share"] for one in bins]
        highest = max(highest, *x, *y)
        colour, marker = COLOURS[place % 6], MARKERS[place % 6]
        axes.plot(x, y, label=name, linewidth=1.2, markersize=5, color=colour, marker=marker)
    axes.plot([0, highest], [0, highest], color=GREY, linestyle=":", label="as it says")
    axes.set(xlabel="mean risk of a tenth of the users", ylabel="share that over-used")
    axes.set_title("Calibration on test users", fontsize="medium")
    axes.legend(fontsize="small", frameon=False)
    axes.grid(alpha=0.25)


def _auroc(axes: Axes, result: Mapping[str, Any]) -> None:
    trained = list(result["privacy"])
    others = [name for name in result["models"] if name not in trained]
    figures = {name: result["models"][name]["auroc"] for name in [*others, *trained]}
    for place, (name, value) in enumerate(figures.items()):
        colour = COLOURS[0] if name in trained else GREY
        error = value["error"] or 0.0
        axes.errorbar(value["mean"], place, xerr=error, fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(figures)), list(figures))
    axes.invert_yaxis()
    bars = " (bars: one standard error over splits)" if result["splits"] > 1 else ""
    axes.set_xlabel(f"AUROC{bars}")
    axes.set_title("Blue: trained together; grey: others, without noise", fontsize="medium")
    axes.grid(alpha=0.25)
