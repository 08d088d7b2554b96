"""sotto-lab sweep: simulate every combination of some settings, or search over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from shared.errors import ConfigError
from shared.privacy.accounting.selection import TrialLaw
from shared.system.command_line import failed, messages, output, table_of, write_json
from simulations.commands.options import (
    CatalogueOption,
    DataOption,
    DeltaOption,
    OrganisationsOption,
    PartitionOption,
    PublicOption,
    SetOption,
    paths,
)
from simulations.experiment.config import Engine
from simulations.sweep.axes import label, parse_axes
from simulations.sweep.folder import SweepFolder, resolve_plan
from simulations.sweep.plan import Keep, Plan, SweepOptions
from simulations.sweep.progress import sweep_progress
from simulations.sweep.search import OBJECTIVE, Sampler, SearchPlan, plan_search, search_options
from simulations.sweep.search_cost import SearchCost, search_cost
from simulations.sweep.table import Cell, Outcome, cells
from simulations.sweep.trials import Trials
from simulations.sweep.work import Grid, Source, work
from simulations.sweep.workers import LocalWorkers, RayWorkers, Workers, cores, devices

__all__ = ["sweep_command"]

FIGURES = ("hr@10", "ndcg@10", "mrr@10", "coverage@10")
SHOWN = ("hr@10", "ndcg@10", "coverage@10")
BEST = "best.toml"


def sweep_command(  # noqa: PLR0913 each is a command-line option
    *,
    out: Annotated[Path, typer.Option(help="Folder for the sweep: runs, logs and the table.")],
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", help="TOML file of settings. Repeatable: recipes to compare."),
    ] = None,
    epsilons: Annotated[
        str | None, typer.Option(help="Privacy budgets, for example 1,2,4,8,none.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Random seeds, for example 0,1,2.")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="Values of any other setting. Repeatable."),
    ] = None,
    search: Annotated[
        int | None, typer.Option(help="Trials of a search over --space, instead of a grid.")
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=LOW..HIGH[:log] | KEY=A|B",
            help="Values that --search may choose. Repeatable.",
        ),
    ] = None,
    trials: Annotated[
        TrialLaw | None,
        typer.Option(
            help="Draw the number of trials with mean --search, for a smaller bound of its ε."
        ),
    ] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="How trials' settings are drawn.")] = None,
    data_folder: DataOption = None,
    catalogue: CatalogueOption = None,
    public: PublicOption = None,
    organisations: OrganisationsOption = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.")] = None,
    delta: DeltaOption = None,
    partition: PartitionOption = None,
    engine: Annotated[
        Engine | None, typer.Option(help="Runs the apps in this process or on Ray.")
    ] = None,
    assignments: SetOption = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Runs at a time. Default: one for each core, or for each GPU."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each run.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster whose machines reach data, code and --out by the same "
            "paths: its address, 'auto', or 'local' to start one here.",
        ),
    ] = None,
    keep: Annotated[
        Keep | None,
        typer.Option(
            help="'results', the default, deletes a finished run's model, catalogue, copies of the "
            "data and local baselines, and keeps the figures, ledgers and settings that `report` "
            "reads; 'all' keeps everything.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the sweep in --out; so does the same command."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs, and start none.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Simulate every combination of ε, seeds and other settings, or search over settings.

    Each run is a `sotto-lab simulate` in a process and a folder of its own. For example:

    sotto-lab sweep --epsilons 1,2,4,8,none --seeds 0,1,2 --delta 1e-5 --out runs/frontier

    sotto-lab sweep --search 20 --space model.recency=.5..1 --space warm_start.own_items=0|200
    --set privacy.epsilon=8 --delta 1e-5 --out runs/search

    Exit code 1: a run failed. The others still ran; the same command tries it again.
    """
    if search is None and (space or trials or sampler):
        raise ConfigError(
            "--space, --trials and --sampler need --search: state the number of trials."
        )
    options = SweepOptions(
        recipes=config or [],
        options=paths(data=data_folder, catalogue=catalogue, public=public)
        | {
            "lab.organisations": organisations,
            "training.rounds": rounds,
            "privacy.delta": delta,
            "lab.partition": partition,
            "lab.engine": engine,
            "lab.split": None if search is None else "validation",
        },
        assignments=assignments or [],
        axes=parse_axes(epsilons, seeds, grid or []),
        keep=keep,
    )
    search_settings = {} if search is None else search_options(search, trials, sampler, space or [])
    _check(jobs, threads)
    folder = SweepFolder(out)
    plan = resolve_plan(folder, options, search_settings, resume=resume)
    planned = plan_search(plan) if plan.search else None
    if dry_run:
        _print_plan(folder, plan, planned, as_json=as_json)
        return
    with folder.locked():
        folder.write_plan(plan)
        source: Source = Trials(planned, plan, folder) if planned else Grid(plan.runs(), folder)
        workers = _workers(ray, jobs, threads)
        with sweep_progress(source.total, source.outcomes, messages) as progress:
            work(source, workers, folder, plan.keep, progress)
    cost = search_cost(planned, plan, source.total) if planned else None
    if isinstance(source, Trials) and source.best is not None:
        _write_best(folder, source.best)
    if as_json:
        write_json(_data(folder, source, cost))
    else:
        _print_outcome(folder, source, cost)
    if any(outcome.status == "failed" for outcome in source.outcomes):
        failed()


def _check(jobs: int | None, threads: int) -> None:
    for option, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} {value}: choose a whole number >= 1.")


def _workers(ray: str | None, jobs: int | None, threads: int) -> Workers:
    if ray is not None:
        if jobs is not None:
            raise ConfigError(
                "--jobs with --ray: the cluster's cores set the number of jobs. Leave one out."
            )
        return RayWorkers(ray, threads)
    return LocalWorkers(jobs or len(devices()) or max(1, cores() // threads), threads)


def _write_best(folder: SweepFolder, best: Outcome) -> None:
    """Write the best trial's settings, for one evaluation on test items."""
    text = best.run.config.to_toml().replace('split = "validation"', 'split = "test"')
    (folder.path / BEST).write_text(text, encoding="utf-8")


# --- output ------------------------------------------------------------------------------------


def _print_plan(
    folder: SweepFolder, plan: Plan, search: SearchPlan | None, *, as_json: bool
) -> None:
    if search is not None:
        [base] = plan.recipes.values()
        count, outcomes = search.count(int(base["seed"])), []
        drawn = "" if search.law is None else f" ({search.law}, mean {search.trials})"
    else:
        outcomes = list(Grid(plan.runs(), folder).outcomes)
        count, drawn = len(outcomes), ""
    if as_json:
        listed = [{"name": one.run.name, "status": one.status} for one in outcomes]
        write_json({"folder": str(folder.path), "count": count, "runs": listed})
        return
    for outcome in outcomes:
        output.print(f"{outcome.run.name}  {outcome.status}", markup=False, soft_wrap=True)
    kind = "runs" if search is None else "trials"
    done = sum(outcome.status == "finished" for outcome in outcomes)
    messages.print(f"{count} {kind}{drawn}, {done} finished; nothing was started.")


def _data(folder: SweepFolder, source: Source, cost: SearchCost | None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "folder": str(folder.path),
        "table": str(folder.path / "sweep.parquet"),
        "runs": [
            {
                "name": outcome.run.name,
                "status": outcome.status,
                "reason": outcome.reason or None,
                "settings": dict(outcome.run.values),
                "federated": dict(outcome.federated) or None,
            }
            for outcome in source.outcomes
        ],
        "cells": [
            {"settings": dict(cell.values), "finished": cell.finished, "federated": _spread(cell)}
            for cell in cells(source.outcomes)
        ],
    }
    if cost is not None:
        best = source.best if isinstance(source, Trials) else None
        data |= {"best": best and best.run.name, "price": asdict(cost), "says": cost.sentences}
    return data


def _spread(cell: Cell) -> dict[str, Any]:
    figures = {name: cell.figure(name) for name in FIGURES}
    return {
        name: None if figure is None else {"mean": figure[0], "sd": figure[1]}
        for name, figure in figures.items()
    }


def _print_outcome(folder: SweepFolder, source: Source, cost: SearchCost | None) -> None:
    outcomes = source.outcomes
    if isinstance(source, Trials):
        key = OBJECTIVE
        ranked = sorted(outcomes, key=lambda one: -one.federated.get(key, -1.0))
        output.print("The best trials, on validation items:")
        output.print(_table(cells(ranked[:10])))
    else:
        output.print("The federated model, mean ± standard deviation over seeds:")
        output.print(_table(cells(outcomes)))
    for outcome in outcomes:
        if outcome.status == "failed":
            messages.print(
                f"failed: {outcome.run.name}: {outcome.reason}", markup=False, soft_wrap=True
            )
    for sentence in cost.sentences if cost else []:
        output.print(sentence, soft_wrap=True)
    path = folder.path
    output.print(f"Written to {path}: sweep.parquet, runs/*/result.json", soft_wrap=True)
    if isinstance(source, Trials) and source.best is not None:
        follow = f"sotto-lab simulate --config {path / BEST} --out {path}-best"
        output.print(f"Evaluate the best once, on test items: {follow}", soft_wrap=True)
    else:
        output.print(f"Next: sotto-lab report {path} --out {path / 'report.html'}", soft_wrap=True)


def _table(rows: Sequence[Cell]) -> Table:
    keys = list(dict.fromkeys(key for cell in rows for key in cell.values))
    table = table_of(*(key.rpartition(".")[2] for key in keys), "runs", *SHOWN)
    for column in table.columns[len(keys) :]:
        column.justify = "right"
    for cell in rows:
        settings = [label(key, cell.values[key]) if key in cell.values else "" for key in keys]
        figures = [_shown(cell.figure(name)) for name in SHOWN]
        table.add_row(*settings, str(cell.finished), *figures)
    return table


def _shown(figure: tuple[float, float] | None) -> str:
    if figure is None:
        return "-"
    mean, spread = figure
    return f"{mean:.4f}" if math.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"
