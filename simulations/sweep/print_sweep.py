"""What `sotto-lab sweep` prints: the planned runs, and the outcome as a table or as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from shared.system.command_line import messages, output, table_of, write_json
from simulations.sweep.axes import label
from simulations.sweep.folder import BEST, SweepFolder
from simulations.sweep.plan import Plan
from simulations.sweep.search import OBJECTIVE, SearchPlan
from simulations.sweep.search_cost import SearchCost
from simulations.sweep.table import Cell, cells
from simulations.sweep.trials import Trials
from simulations.sweep.work import Grid, Source

__all__ = ["print_outcome", "print_plan", "sweep_data"]

FIGURES = ("hr@10", "ndcg@10", "mrr@10", "coverage@10")
SHOWN = ("hr@10", "ndcg@10", "coverage@10")
COMPARED = ("counts3", "home", "federated", "federated_home")
"""What an organisation can choose between, and what counting all data would give."""


def print_plan(
    folder: SweepFolder, plan: Plan, search: SearchPlan | None, *, as_json: bool
) -> None:
    """Print the runs of a sweep with their states, or the number of a search's trials."""
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


def sweep_data(folder: SweepFolder, source: Source, cost: SearchCost | None) -> dict[str, Any]:
    """Return the outcome of a sweep as plain data, for `--json`."""
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
            {
                "settings": dict(cell.values),
                "finished": cell.finished,
                **{model: _spread(cell, model) for model in COMPARED},
            }
            for cell in cells(source.outcomes)
        ],
    }
    if cost is not None:
        best = source.best if isinstance(source, Trials) else None
        data |= {"best": best and best.run.name, "price": asdict(cost), "says": cost.sentences}
    return data


def _spread(cell: Cell, model: str) -> dict[str, Any]:
    figures = {name: cell.figure(name, model) for name in FIGURES}
    return {
        name: None if figure is None else {"mean": figure[0], "sd": figure[1]}
        for name, figure in figures.items()
    }


def print_outcome(folder: SweepFolder, source: Source, cost: SearchCost | None) -> None:
    """Print a sweep's table, its failed runs, what a search costs, and the command to run next."""
    outcomes = source.outcomes
    if isinstance(source, Trials):
        key = OBJECTIVE
        ranked = sorted(outcomes, key=lambda one: -one.federated.get(key, -1.0))
        output.print("The best trials, on validation items:")
        output.print(_table(cells(ranked[:10])))
    else:
        output.print("The federated model, mean ± standard deviation over seeds:")
        output.print(_table(cells(outcomes)))
        output.print("NDCG@10 at home, and of all data counted without privacy:")
        output.print(_compared(cells(outcomes)))
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
    figures = [[_shown(cell.figure(name)) for name in SHOWN] for cell in rows]
    counts = [str(cell.finished) for cell in rows]
    return _rows_of(rows, ["runs", *SHOWN], [[n, *f] for n, f in zip(counts, figures, strict=True)])


def _compared(rows: Sequence[Cell]) -> Table:
    """Return NDCG@10 of what an organisation can choose between, and what joining changes."""
    name, lines = "ndcg@10", []
    for cell in rows:
        home, joined = (cell.figure(name, model) for model in ("home", "federated_home"))
        gain = f"{joined[0] / home[0] - 1:+z.1%}" if home and joined and home[0] > 0 else "-"
        lines.append([*(_shown(cell.figure(name, model)) for model in COMPARED), gain])
    return _rows_of(rows, [*COMPARED, "by joining"], lines)


def _rows_of(rows: Sequence[Cell], names: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    keys = list(dict.fromkeys(key for cell in rows for key in cell.values))
    table = table_of(*(key.rpartition(".")[2] for key in keys), *names)
    for column in table.columns[len(keys) :]:
        column.justify = "right"
    for cell, line in zip(rows, lines, strict=True):
        settings = [label(key, cell.values[key]) if key in cell.values else "" for key in keys]
        table.add_row(*settings, *line)
    return table


def _shown(figure: tuple[float, float] | None) -> str:
    if figure is None:
        return "-"
    mean, spread = figure
    return f"{mean:.4f}" if math.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"
