"""Utility against ε: one line for each setting, and one for each baseline."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from simulations.report.reading.sweeps import Measured, Sweep

__all__ = ["BASELINES", "Frontier", "Line", "Point", "frontier"]

BASELINES = ("federated_home", "home", "counts3", "popularity_private")
"""Baselines of the federated model, in the order in which they are shown."""
FEDERATED = "federated"


@dataclass(frozen=True, slots=True)
class Point:
    """One ε of one line, over the seeds.

    Attributes:
        epsilon: infinity without privacy.
        values: one for each seed.
    """

    epsilon: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Return the standard deviation over the seeds; 0 for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """One model under one choice of the other settings.

    Attributes:
        model: as in result.json.
        variant: the other varied settings; "" without any.
        points: by ascending ε.
    """

    model: str
    variant: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Frontier:
    """Utility against ε.

    Attributes:
        metric: as in result.json.
        lines: of the federated model, one for each variant, the best at the largest ε first.
        baselines: of the other models, over all variants.
    """

    metric: str
    lines: tuple[Line, ...]
    baselines: tuple[Line, ...]


def frontier(sweep: Sweep, metric: str = f"ndcg@{10}") -> Frontier:
    """Return one line for each variant, and one for each baseline."""
    own = [row for row in sweep.rows if row.model == FEDERATED]
    variants = dict.fromkeys(row.others for row in own)
    differing = _varied(own)
    lines = [
        Line(FEDERATED, _variant(others, differing), _points(own, metric, others))
        for others in variants
    ]
    lines.sort(key=lambda line: -line.points[-1].mean)
    baselines = []
    for model in BASELINES:
        points = _points([row for row in sweep.rows if row.model == model], metric)
        if points:
            baselines.append(Line(model, "", points))
    return Frontier(metric, tuple(lines), tuple(baselines))


def _varied(rows: Sequence[Measured]) -> set[str]:
    values: dict[str, set[str]] = {}
    for row in rows:
        for key, value in row.others:
            values.setdefault(key, set()).add(value)
    return {key for key, distinct in values.items() if len(distinct) > 1}


def _variant(others: tuple[tuple[str, str], ...], differing: set[str]) -> str:
    """Return the settings that differ, by the last part of their keys where it is unique."""
    lasts = [key.rpartition(".")[2] for key in differing]
    short = len(set(lasts)) == len(lasts)
    return ", ".join(
        f"{key.rpartition('.')[2] if short else key} = {value}"
        for key, value in others
        if key in differing
    )


def _points(
    rows: Sequence[Measured], metric: str, others: tuple[tuple[str, str], ...] | None = None
) -> tuple[Point, ...]:
    values: dict[float, list[float]] = {}
    for row in rows:
        if (others is None or row.others == others) and metric in row.figures:
            values.setdefault(row.epsilon, []).append(row.figures[metric])
    return tuple(Point(key, tuple(values[key])) for key in sorted(values))
