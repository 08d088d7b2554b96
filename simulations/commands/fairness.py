"""sotto-lab fairness: groups and rare items at several strengths of logit adjustment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from shared.errors import ConfigError
from shared.groups import robust_weights
from shared.system.command_line import messages, output, write_json
from simulations.experiment.curves import Curves, curves_folder, next_command
from simulations.experiment.fairness import fairness_curves
from simulations.experiment.prepare import reopen

__all__ = ["fairness_command"]


def fairness_command(  # noqa: PLR0913 each is an option
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    *,
    tables: Annotated[str, typer.Option(help="Groups, as gender=F|M x age=18|25; events=50.")] = "",
    debias: Annotated[
        str, typer.Option(metavar="NUMBER,...", help="Strengths of logit adjustment, above 0 to 1.")
    ] = "0.1,0.2,0.3,0.5",
    rate: Annotated[
        float, typer.Option(min=0, help="η of the weights that a next run could take.")
    ] = 10.0,
    every: Annotated[int, typer.Option(min=1, help="Ask every so many-th test user.")] = 1,
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="A finished run with other weights of groups. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for curves.json, which report --curves draws.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a finished run's model by group, with less and less of popularity in its scores.

    Prints NDCG of all users, of the worst group of each table, and the exposure of the last five
    popularity deciles. Nothing is trained, and no ε is spent.
    """
    if out is not None:
        curves_folder(out)
    strengths = _strengths(debias)
    simulation = reopen(run, {}, [])
    others = [reopen(folder, {}, []) for folder in beside or []]
    messages.print("ranking ...")
    curves = fairness_curves(simulation, strengths, tables, beside=others, every=every)
    if out is not None:
        curves.write(out)
    if as_json:
        write_json(curves.document())
        return
    _print(curves, rate)
    if out is not None:
        messages.print(next_command(run, out), soft_wrap=True)


def _strengths(text: str) -> list[float]:
    try:
        strengths = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--debias {text}: give numbers with commas between.") from error
    if not all(0 < strength <= 1 for strength in strengths):
        raise ConfigError(f"--debias {text}: choose numbers above 0, and up to 1.")
    return strengths


def _print(curves: Curves, rate: float) -> None:
    table = Table()
    table.add_column("")
    for name in ("NDCG@10", "", "rarer half"):
        table.add_column(name, justify="right")
    for one in curves.plain.tables:
        table.add_column(f"worst of {one.table}")
    points = [point for curve in curves.curves for point in curve.points]
    for point in (curves.plain, *points):
        worst = [
            "-" if figure is None else f"{figure:.4f} {one.worst}"
            for figure, one in zip(point.worst, point.tables, strict=True)
        ]
        change = point.ndcg / curves.plain.ndcg - 1 if curves.plain.ndcg else 0.0
        figures = (f"{point.ndcg:.4f}", f"{change:+z.1%}", f"{point.exposure_rare:.4f}")
        table.add_row(point.setting, *figures, *worst)
    output.print(table)
    for one in curves.plain.tables:
        if "taste=" in one.table:
            continue
        losses = [1 - (curves.plain.ndcg if g.ndcg is None else g.ndcg) for g in one.groups]
        weights = ", ".join(f"{weight:.3f}" for weight in robust_weights(losses, rate))
        output.print(f'groups.weights = "{one.table}: {weights}"', soft_wrap=True, markup=False)
