"""Picture of what `evaluate` measured: one panel a figure, one bar a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from client.commands.budget_plot import SPENT
from client.home.evaluate import NAMES, Evaluation
from shared.system.pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_evaluation"]

OTHERS = "#999999"


def draw_evaluation(measured: Evaluation, file: Path) -> None:
    """Draw all four figures of all models.

    Raises:
        ConfigError: it cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 it takes half a second to import

    figure = Figure(figsize=(10, 1.6 + 0.62 * len(measured.models)), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    for axes, name in zip(panels, ("hr", "ndcg", "mrr", "coverage"), strict=True):
        _bars(axes, measured, name)
    figure.suptitle(f"Last events of {measured.users:,} users")
    save_picture(figure, file)


def _bars(axes: Axes, measured: Evaluation, name: str) -> None:
    values = [getattr(one.metrics, name) for one in measured.models.values()]
    widths = [one.half_width for one in measured.models.values()]
    errors = widths if name == "ndcg" else None
    names = [NAMES[model] for model in measured.models]
    colours = [SPENT if model == "federated_home" else OTHERS for model in measured.models]
    bars = axes.barh(names, values, color=colours, xerr=errors, error_kw={"capsize": 3})
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize="small")
    k = next(iter(measured.models.values())).metrics.k
    title = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR", "coverage": "coverage"}[name]
    axes.set_title(f"{title}@{k}" + (", 95% interval" if errors else ""), fontsize="medium")
    ends = [value + (width if errors else 0) for value, width in zip(values, widths, strict=True)]
    axes.set_xlim(0, 1.3 * max(*ends, 1e-9))
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="x", alpha=0.25)
