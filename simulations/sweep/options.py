"""The options of `sotto-lab sweep` alone; `simulations.commands.options` has those of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.privacy.accounting.selection import TrialLaw
from simulations.sweep.plan import Keep
from simulations.sweep.search import Sampler

__all__ = [
    "EpsilonsOption",
    "GridOption",
    "JobsOption",
    "KeepOption",
    "RayOption",
    "RecipesOption",
    "SamplerOption",
    "SearchOption",
    "SeedsOption",
    "SpaceOption",
    "ThreadsOption",
    "TrialsOption",
]

RecipesOption = Annotated[
    list[Path] | None,
    typer.Option("--config", help="TOML file of settings. Repeatable: recipes to compare."),
]
EpsilonsOption = Annotated[
    str | None, typer.Option(help="Privacy budgets, for example 1,2,4,8,none.")
]
SeedsOption = Annotated[str | None, typer.Option(help="Random seeds, for example 0,1,2.")]
GridOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=V1,V2", help="Values of any other setting. Repeatable."),
]
SearchOption = Annotated[
    int | None, typer.Option(help="Trials of a search over --space, instead of a grid.")
]
SpaceOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=LOW..HIGH[:log] | KEY=A|B",
        help="Values that --search may choose. Repeatable.",
    ),
]
TrialsOption = Annotated[
    TrialLaw | None,
    typer.Option(
        help="Draw the number of trials with mean --search, for a smaller bound of its ε."
    ),
]
SamplerOption = Annotated[Sampler | None, typer.Option(help="How trials' settings are drawn.")]
JobsOption = Annotated[
    int | None,
    typer.Option(help="Runs at a time. Default: one for each core, or for each GPU."),
]
ThreadsOption = Annotated[int, typer.Option(help="Threads of each run.")]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Run on a Ray cluster whose machines reach data, code and --out by the same "
        "paths: its address, 'auto', or 'local' to start one here.",
    ),
]
KeepOption = Annotated[
    Keep | None,
    typer.Option(
        help="'results', the default, deletes a finished run's model, catalogue, copies of the "
        "data and local baselines, and keeps the figures, ledgers and settings that `report` "
        "reads; 'all' keeps everything.",
    ),
]
