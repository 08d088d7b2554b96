"""Kinds of model side by side: figures, cost, and which to take at each ε.

What is compared is what a partner uses: the federated model adapted at home, or the federated one
where that was not measured. Of kinds that may be as good at home, as where own data say all there
is to know, the federated models are compared; of those that may be as good again, seconds decide.
Of two kinds at one ε, the users are the same, so that the test is of paired differences: of each
user's part of NDCG@10, mean over the seeds (Student's t).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shared.config import ModelKind
from shared.errors import CheckpointError
from shared.evaluation.paired import ndcg_gains, paired_p
from simulations.experiment.kinds import Compared
from simulations.experiment.user_ranks import EVALUATION
from simulations.sweep.axes import EPSILON, RECIPE
from simulations.sweep.folder import SweepFolder
from simulations.sweep.table import Cell, Outcome, cells

__all__ = ["advice", "compare"]

K = 10
_LUCK = 0.05
"""From which p on a difference may be luck."""
Gains = NDArray[np.float64]


def compare(outcomes: Sequence[Outcome]) -> list[Compared]:
    """Return a row for each kind and ε that has a finished run, by ε and kind in order."""
    rows = [_row(cell) for cell in cells(outcomes) if cell.finished]
    order = {epsilon: place for place, epsilon in enumerate(dict.fromkeys(r.epsilon for r in rows))}
    return sorted(rows, key=lambda row: order[row.epsilon])


def _row(cell: Cell) -> Compared:
    done = [one for one in cell.outcomes if one.result is not None]
    results = [one.result for one in done if one.result is not None]
    figures = {name: cell.figure(f"{name}@{K}") for name in ("ndcg", "hr", "coverage")}
    means = {name: math.nan if found is None else found[0] for name, found in figures.items()}
    home = cell.figure(f"ndcg@{K}", "federated_home")
    spent = [one["epsilon"] for result in results for one in result["privacy"]["organisations"]]
    costs = [result["cost"] for result in results]
    traffic = [
        (cost["bytes_up_per_round"] + cost["bytes_down_per_round"]) / 1e6
        for cost in costs
        if cost.get("bytes_up_per_round") is not None
    ]
    return Compared(
        kind=_kind(done[0]),
        epsilon=_epsilon(done[0]),
        seeds=len(done),
        ndcg=means["ndcg"],
        home=None if home is None else home[0],
        hr=means["hr"],
        f1=2 * means["hr"] / (K + 1),  # precision is HR / k, recall is HR
        coverage=means["coverage"],
        spent=None if _epsilon(done[0]) is None else max(spent),
        seconds=statistics.fmean(cost["seconds"]["train"] for cost in costs),
        megabytes=statistics.fmean(traffic) if traffic else None,
    )


def advice(outcomes: Sequence[Outcome], folder: SweepFolder) -> list[str]:
    """Return a sentence for each ε: which kind to take, how much better it is, and how surely.

    Args:
        outcomes: of all runs.
        folder: of the comparison, with the runs' ranks.

    Raises:
        CheckpointError: a finished run's file of ranks is damaged.
    """
    rows, sentences = compare(outcomes), []
    for epsilon in dict.fromkeys(row.epsilon for row in rows):
        here = sorted((row for row in rows if row.epsilon == epsilon), key=lambda row: -row.used)
        if len(here) > 1:
            runs = {row.kind: _runs(outcomes, row.kind, epsilon) for row in here}
            sentences.append(_sentence(here, folder, runs))
    return sentences


def _sentence(
    rows: Sequence[Compared], folder: SweepFolder, runs: Mapping[str, Sequence[str]]
) -> str:
    """Name the best kind, or the quickest of those that may be as good."""
    home = rows[0].home is not None
    alike, found = _best(rows, folder, runs, home=home)
    found = f"NDCG@10{' at home' if home else ''} {found}"
    if home and len(alike) > 1:
        alike, published = _best(alike, folder, runs, home=False)
        found += f"; as published {published}"
    best = alike[0]
    # In whole seconds, as they are shown; of kinds that take as long, the default goes first.
    quickest = min(
        alike, key=lambda row: (round(row.seconds), row.kind != ModelKind.ATTENTION, -row.ndcg)
    )
    where = "without noise" if best.epsilon is None else f"at ε = {best.epsilon:g}"
    if quickest is best:
        return f"Take {best.kind} {where}: {found}."
    if round(quickest.seconds) == round(best.seconds):
        return (
            f"Take {quickest.kind} {where}, which trains in {quickest.seconds:,.0f} s as "
            f"{best.kind} does and may be as good: {found}."
        )
    return (
        f"Take {quickest.kind} {where}, which trains in {quickest.seconds:,.0f} s instead of "
        f"{best.seconds:,.0f} s and may be as good: {found}."
    )


def _best(
    rows: Sequence[Compared], folder: SweepFolder, runs: Mapping[str, Sequence[str]], *, home: bool
) -> tuple[list[Compared], str]:
    """Return the best kind and those that may be as good, and the figures of all in words."""

    def figure(row: Compared) -> float:
        return row.used if home else row.ndcg

    best, *others = sorted(rows, key=lambda row: -figure(row))
    gains = {row.kind: _gains(folder, runs[row.kind], home=home) for row in rows}
    chances = {row.kind: _chance(gains[best.kind], gains[row.kind]) for row in others}
    words = [f"{row.kind} {figure(row):.4f} (p = {chances[row.kind]:.2g})" for row in others]
    alike = [row for row in others if chances[row.kind] >= _LUCK]
    return [best, *alike], ", ".join([f"{best.kind} {figure(best):.4f}", *words])


def _chance(one: Gains, other: Gains) -> float:
    """Return p of the paired difference; 1 where no user ranks otherwise."""
    p = paired_p(one, other)
    return 1.0 if p is None else p


def _runs(outcomes: Sequence[Outcome], kind: str, epsilon: float | None) -> list[str]:
    return [
        one.run.name
        for one in outcomes
        if one.result is not None and _kind(one) == kind and _epsilon(one) == epsilon
    ]


def _gains(folder: SweepFolder, runs: Sequence[str], *, home: bool) -> Gains:
    """Return each user's part of NDCG@10, mean over the runs, in the order of the users."""
    model = "federated_home" if home else "federated"
    each = [_gains_of(folder.run(name) / EVALUATION, model) for name in runs]
    gains: Gains = np.mean(each, axis=0)
    return gains


def _gains_of(file: Path, model: str) -> Gains:
    try:
        table = pq.read_table(file, columns=["user", "model", "rank"]).to_pydict()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error!s:.80}): remove the run's folder, and the run is "
            "repeated."
        ) from error
    ranks = {
        user: rank
        for user, of, rank in zip(table["user"], table["model"], table["rank"], strict=True)
        if of == model
    }
    ordered = np.array([ranks[user] for user in sorted(ranks)], np.float64)
    return ndcg_gains(ordered, K)


def _kind(outcome: Outcome) -> str:
    return str(outcome.run.values.get(RECIPE, outcome.run.config.model.kind))


def _epsilon(outcome: Outcome) -> float | None:
    value = outcome.run.values.get(EPSILON, outcome.run.config.privacy.epsilon)
    return float(value) if isinstance(value, int | float) else None
