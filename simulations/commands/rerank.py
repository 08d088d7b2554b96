"""sotto-lab rerank: what each order of lists costs, on a finished run, without training again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from shared.errors import ConfigError
from shared.rerank.settings import COMBINED, Method
from shared.system.command_line import messages, output, write_json
from simulations.experiment.curves import Curves, curves_folder, next_command
from simulations.experiment.prepare import reopen
from simulations.experiment.reranking import WAYS, rerank_curves

__all__ = ["rerank_command"]

_STRENGTHS = {
    Method.CALIBRATED: "0.5,0.8,0.9,0.95",
    Method.DIVERSE: "0.2,0.5,0.8,0.9,0.95",
    Method.EXPOSURE: "0.02,0.05,0.1,0.2,0.3",
}


def rerank_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    *,
    methods: Annotated[
        list[Method] | None,
        typer.Option("--rerank", help="Only this method; may be repeated."),
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER,...", help="Strengths of every method.", show_default="the method's own"
        ),
    ] = None,
    rare_places: Annotated[
        float,
        typer.Option(help="Share of places for rare items, with calibrated and diverse: both."),
    ] = 0.0,
    every: Annotated[int, typer.Option(min=1, help="Ask every so many-th test user.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder for curves.json, which report --curves draws.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose the lists of a finished run's model anew, by each method and strength.

    Prints NDCG, coverage, exposure of the last five popularity deciles, calibration error and
    distance between the items of a list. Nothing is trained, and no ε is spent.
    """
    if out is not None:
        curves_folder(out)
    stated = None if strengths is None else _numbers(strengths)
    settings = [
        replace(way, strength=strength, rare_places=rare_places * (way.method in COMBINED))
        for way in WAYS
        if not methods or way.method in methods
        for strength in stated or _numbers(_STRENGTHS[way.method])
    ]
    simulation = reopen(run, {}, [])
    messages.print("choosing lists ...")
    curves = rerank_curves(simulation, settings, every=every)
    if out is not None:
        curves.write(out)
    if as_json:
        write_json(curves.document())
        return
    _print(curves)
    if out is not None:
        messages.print(next_command(run, out), soft_wrap=True)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--strengths {text}: give numbers with commas between.") from error


def _print(curves: Curves) -> None:
    table = Table()
    table.add_column("rerank")
    for name in ("strength", "NDCG", "", "coverage", "rare", "calibration", "distance"):
        table.add_column(name, justify="right")
    plain = curves.plain
    rows = [(curve.name, point) for curve in curves.curves for point in curve.points]
    for way, one in (("none", plain), *rows):
        change = one.ndcg / plain.ndcg - 1 if plain.ndcg else 0.0
        shown = (one.coverage, one.exposure_rare, one.calibration_error, one.distance)
        table.add_row(
            way,
            one.setting,
            f"{one.ndcg:.4f}",
            f"{change:+z.1%}",
            *("-" if x is None else f"{x:.4f}" for x in shown),
        )
    output.print(table)
