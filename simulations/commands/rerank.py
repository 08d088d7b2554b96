"""sotto-lab rerank: what each order of lists costs, on a finished run, without training again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from shared.errors import ConfigError
from shared.rerank.settings import COMBINED, Method
from shared.system.command_line import messages, output, write_json
from simulations.experiment.prepare import reopen
from simulations.experiment.trade_off import WAYS, Point, trade_off

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["rerank_command"]

_STRENGTHS = {
    Method.CALIBRATED: "0.5,0.8,0.9,0.95",
    Method.DIVERSE: "0.2,0.5,0.8,0.9,0.95",
    Method.EXPOSURE: "0.02,0.05,0.1,0.2,0.3",
}
_FORMATS = (".png", ".svg", ".pdf")
_PANELS = {
    "exposure_rare": "exposure of the five rarest deciles",
    "calibration_error": "calibration error (nats)",
    "distance": "distance between genres",
    "coverage": "coverage@10",
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
    plot: Annotated[Path | None, typer.Option(help="File for a picture of the curves.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose the lists of a finished run's model anew, by each method and strength.

    Prints NDCG, coverage, exposure of the last five popularity deciles, calibration error and
    distance between the items of a list. Nothing is trained, and no ε is spent.
    """
    if plot is not None and plot.suffix.lower() not in _FORMATS:
        raise ConfigError(f"--plot {plot}: choose a name that ends in {', '.join(_FORMATS)}.")
    stated = None if strengths is None else _numbers(strengths)
    settings = [
        replace(way, strength=strength, rare_places=rare_places * (way.method in COMBINED))
        for way in WAYS
        if not methods or way.method in methods
        for strength in stated or _numbers(_STRENGTHS[way.method])
    ]
    simulation = reopen(run, {}, [])
    messages.print("choosing lists ...")
    points = trade_off(simulation, settings, every=every)
    if plot is not None:
        _draw(points, plot)
    if as_json:
        write_json([{"rerank": str(one.settings)} | one.price.as_dict() for one in points])
    else:
        _print(points)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--strengths {text}: give numbers with commas between.") from error


def _way(point: Point) -> str:
    return str(point.settings).partition(", strength")[0]


def _print(points: list[Point]) -> None:
    table = Table()
    table.add_column("rerank")
    for name in ("strength", "NDCG", "", "coverage", "rare", "calibration", "distance"):
        table.add_column(name, justify="right")
    plain = points[0].price
    for point in points:
        one = point.price
        change = one.ndcg / plain.ndcg - 1 if plain.ndcg else 0.0
        table.add_row(
            _way(point),
            f"{point.settings.weight:g}",
            f"{one.ndcg:.4f}",
            f"{change:+.1%}",
            f"{one.coverage:.3f}",
            f"{one.exposure_rare:.4f}",
            *("-" if x is None else f"{x:.3f}" for x in (one.calibration_error, one.distance)),
        )
    output.print(table)


def _draw(points: list[Point], file: Path) -> None:
    """Draw each figure over NDCG, one curve a method; the point of the scores alone is marked."""
    from matplotlib.figure import Figure  # noqa: PLC0415 it takes half a second to import
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 as above

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes: Axes
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        plain, *others = points
        for way, marker in zip(dict.fromkeys(map(_way, others)), "osD^v", strict=False):
            curve = [plain, *(one for one in others if _way(one) == way)]
            x = [one.price.ndcg for one in curve]
            y = [getattr(one.price, name) or 0.0 for one in curve]
            axes.plot(x, y, marker=marker, label=way, linewidth=1, markersize=4)
        axes.plot(plain.price.ndcg, getattr(plain.price, name) or 0.0, "k*", label="scores alone")
        axes.axvline(0.95 * plain.price.ndcg, color="#999999", linestyle=":", label="NDCG - 5%")
        axes.set(xlabel=f"NDCG@{plain.price.k}", ylabel=title)
        axes.set_xlim(left=0.85 * plain.price.ndcg)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    figure.savefig(file)
