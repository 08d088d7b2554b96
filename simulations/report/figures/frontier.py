"""Utility against ε: one line for each setting, and one for each baseline."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from simulations.report.reading.sweeps import Measured, Sweep

__all__ = ["AT_EACH_EPSILON", "BASELINES", "Frontier", "Line", "Point", "frontier"]

BASELINES = ("federated_home", "home", "counts3", "popularity_private")
"""Baselines of the federated model, in the order in which they are shown."""
FEDERATED, ADAPTED = "federated", "federated_home"
AT_EACH_EPSILON = (ADAPTED, "popularity_private")
"""Baselines that depend on ε; the others are computed without privacy."""


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
        baselines: of the other models, over all variants; "federated_home", which follows from
            the federated model, has a line for each variant, in the order of `lines`.
    """

    metric: str
    lines: tuple[Line, ...]
    baselines: tuple[Line, ...]


def frontier(sweep: Sweep, metric: str = f"ndcg@{10}") -> Frontier:
    """Return one line for each variant, and one for each baseline."""
    own = [row for row in sweep.rows if row.model == FEDERATED]
    differing = _varied(own)
    points_of = {row.others: _points(own, metric, row.others) for row in own}
    variants = sorted(points_of, key=lambda others: -points_of[others][-1].mean)
    lines = [Line(FEDERATED, _variant(others, differing), points_of[others]) for others in variants]
    baselines = []
    for model in BASELINES:
        rows = [row for row in sweep.rows if row.model == model]
        settings = variants if model == ADAPTED else [None]
        for others in settings:
            points = _points(rows, metric, others)
            if points:
                variant = "" if others is None else _variant(others, differing)
                baselines.append(Line(model, variant, points))
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
