"""sotto-lab fairness: groups and rare items at several strengths of logit adjustment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from shared.errors import ConfigError
from shared.groups import robust_weights
from shared.system.command_line import messages, output, write_json
from simulations.experiment.fairness import FairnessPoint, fairness_trade_off
from simulations.experiment.prepare import reopen

__all__ = ["fairness_command"]

_FORMATS = (".png", ".svg", ".pdf")


def fairness_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    *,
    tables: Annotated[str, typer.Option(help="Groups, as gender=F|M x age=18|25; events=50.")] = "",
    debias: Annotated[
        str, typer.Option(metavar="NUMBER,...", help="Strengths of logit adjustment, 0 to 1.")
    ] = "0,0.1,0.2,0.3,0.5",
    rate: Annotated[
        float, typer.Option(min=0, help="η of the weights that a next run could take.")
    ] = 10.0,
    every: Annotated[int, typer.Option(min=1, help="Ask every so many-th test user.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="File for a picture of the curves.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a finished run's model by group, with less and less of popularity in its scores.

    Prints NDCG of all users, of the worst group of each table, and the exposure of the last five
    popularity deciles. Nothing is trained, and no ε is spent.
    """
    if plot is not None and plot.suffix.lower() not in _FORMATS:
        raise ConfigError(f"--plot {plot}: choose a name that ends in {', '.join(_FORMATS)}.")
    strengths = _strengths(debias)
    simulation = reopen(run, {}, [])
    messages.print("ranking ...")
    points = fairness_trade_off(simulation, strengths, tables, every=every)
    if plot is not None:
        _draw(points, plot)
    if as_json:
        write_json([point.as_dict() for point in points])
        return
    _print(points, rate)


def _strengths(text: str) -> list[float]:
    try:
        strengths = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--debias {text}: give numbers with commas between.") from error
    if not all(0 <= strength <= 1 for strength in strengths):
        raise ConfigError(f"--debias {text}: choose numbers from 0 to 1.")
    return strengths


def _print(points: list[FairnessPoint], rate: float) -> None:
    table = Table()
    for name in ("debias", "NDCG@10", "", "rarer half"):
        table.add_column(name, justify="right")
    for one in points[0].tables:
        table.add_column(f"worst of {one.table}")
    first = points[0].ndcg
    for point in points:
        worst = [
            f"{figure:.4f} {one.worst}"
            for figure, one in zip(point.worst, point.tables, strict=True)
        ]
        change = point.ndcg / first - 1 if first else 0.0
        table.add_row(
            f"{point.debias:g}",
            f"{point.ndcg:.4f}",
            f"{change:+.1%}",
            f"{point.exposure_rare:.4f}",
            *worst,
        )
    output.print(table)
    for one in points[0].tables:
        if "taste=" in one.table:
            continue
        losses = [1 - (points[0].ndcg if g.ndcg is None else g.ndcg) for g in one.groups]
        weights = ", ".join(f"{weight:.3f}" for weight in robust_weights(losses, rate))
        output.print(f'groups.weights = "{one.table}: {weights}"', soft_wrap=True, markup=False)


def _draw(points: list[FairnessPoint], file: Path) -> None:
    """Draw the worst groups' NDCG, and the exposure of rare items, over NDCG of all."""
    from matplotlib.figure import Figure  # noqa: PLC0415 it takes half a second to import

    figure = Figure(figsize=(10, 4), layout="constrained")
    groups, rare = figure.subplots(1, 2)
    overall = [point.ndcg for point in points]
    for place, one in enumerate(points[0].tables):
        worst = [point.worst[place] for point in points]
        groups.plot(overall, worst, marker="o", markersize=4, label=one.table[:40])
    rare.plot(overall, [point.exposure_rare for point in points], marker="s", markersize=4)
    groups.set(xlabel="NDCG@10", ylabel="NDCG@10 of the worst group")
    rare.set(xlabel="NDCG@10", ylabel="exposure of the five rarest deciles")
    for axes in (groups, rare):
        axes.axvline(0.95 * overall[0], color="#999999", linestyle=":", label="NDCG - 5%")
        axes.grid(alpha=0.3)
    groups.legend(fontsize="small")
    figure.savefig(file)
