"""The table of a sweep, one row for each run and model, and its means over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.sections import Value, flatten
from shared.system.files import atomic_replacement
from simulations.sweep.plan import PlannedRun

__all__ = ["Cell", "Outcome", "cells", "rows", "write_table"]

FILE = "sweep.parquet"
_ALWAYS = ("privacy.epsilon", "privacy.delta", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The state of a run.

    Attributes:
        run: the run.
        status: "finished", "failed", "begun" or "waiting".
        result: its result.json, if it is finished.
        reason: why it failed, or "".
    """

    run: PlannedRun
    status: str
    result: Mapping[str, Any] | None = None
    reason: str = ""

    @property
    def federated(self) -> Mapping[str, float]:
        """Return the federated model's metrics; empty unless finished."""
        return self.figures("federated")

    def figures(self, model: str) -> Mapping[str, float]:
        """Return a model's metrics; empty unless finished, and where it was not measured."""
        if self.result is None:
            return {}
        figures: Mapping[str, float] = self.result["evaluation"]["models"].get(model, {})
        return figures


@dataclass(slots=True)
class Cell:
    """Runs that differ only in their seed.

    Attributes:
        values: of the varied settings, without the seed.
        outcomes: of its runs.
    """

    values: Mapping[str, Value]
    outcomes: list[Outcome] = field(default_factory=list)

    def figure(self, name: str, model: str = "federated") -> tuple[float, float] | None:
        """Return mean and standard deviation (NaN for one run) of finished runs, or None."""
        measured = [outcome.figures(model) for outcome in self.outcomes]
        values = [figures[name] for figures in measured if name in figures]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan

    @property
    def finished(self) -> int:
        """Return the number of finished runs."""
        return sum(outcome.status == "finished" for outcome in self.outcomes)


def cells(outcomes: Sequence[Outcome]) -> list[Cell]:
    """Group the runs by their settings without the seed, in order of first appearance."""
    by_settings: dict[tuple[tuple[str, Value], ...], Cell] = {}
    for outcome in outcomes:
        values = {key: value for key, value in outcome.run.values.items() if key != "seed"}
        by_settings.setdefault(tuple(values.items()), Cell(values)).outcomes.append(outcome)
    return list(by_settings.values())


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return one row for each run and model; one row without a model for an unfinished run."""
    return [row for outcome in outcomes for row in _rows(outcome)]


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    settings = flatten(outcome.run.config)
    varied = dict.fromkeys((*outcome.run.values, *_ALWAYS))
    start: dict[str, Any] = {"run": outcome.run.name, "status": outcome.status}
    for key in varied:
        start[key] = settings.get(key, outcome.run.values.get(key))
    if start["privacy.epsilon"] == "none":
        start["privacy.epsilon"] = math.inf
    if outcome.result is None:
        return [start | {"split": str(outcome.run.config.lab.split), "model": None}]
    evaluation, privacy = outcome.result["evaluation"], outcome.result["privacy"]
    spent = [one["epsilon"] for one in privacy["organisations"]]
    seconds = outcome.result["cost"]["seconds"]
    end = {
        "epsilon_spent": max(spent) if privacy["private"] else math.inf,
        "seconds_train": seconds["train"],
        "seconds_total": seconds["total"],
    }
    return [
        start | {"split": evaluation["split"], "model": name} | _plain(figures) | end
        for name, figures in evaluation["models"].items()
    ]


def _plain(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if not isinstance(value, list | Mapping)}


def write_table(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write sweep.parquet atomically."""
    table_rows = rows(outcomes)
    names = list(dict.fromkeys(name for row in table_rows for name in row))
    columns = {name: [row.get(name) for row in table_rows] for name in names}
    with atomic_replacement(folder / FILE) as temporary:
        pq.write_table(
            pa.table({name: _column(values) for name, values in columns.items()}), temporary
        )
    return folder / FILE


def _column(values: list[Any]) -> pa.Array:
    """Return a column of numbers, or of texts where values have several types (3 and "all")."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array([None if value is None else float(value) for value in values])
    if len(kinds) > 1:
        return pa.array([None if value is None else str(value) for value in values])
    return pa.array(values)
