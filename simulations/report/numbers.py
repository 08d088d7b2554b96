"""What a report shows, as numbers: each figure's from its inputs, and nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from shared.privacy.accounting import epsilon
from shared.privacy.release import Release
from simulations.report.runs import Evaluation, Organisation, Run
from simulations.report.shares import Share, hits, ndcg, paired_p
from simulations.report.sweeps import Measured, Sweep

__all__ = [
    "BASELINES",
    "Comparison",
    "Frontier",
    "Gain",
    "Line",
    "Part",
    "Point",
    "Spending",
    "allowed_tpr",
    "by_activity",
    "by_group",
    "comparison",
    "frontier",
    "gains",
    "spending",
]

BASELINES = ("popularity_private", "popularity", "markov")
"""What the federated model is measured against, in the order in which it is shown."""
FEDERATED, LOCAL = "federated", "local"
FINEST = 48
"""Points of a curve of ε: more than a figure can show."""


# --- utility against ε ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """One ε of one line, over the seeds.

    Attributes:
        epsilon: infinity without privacy.
        values: one a seed.
    """

    epsilon: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds; 0 of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """One model under one choice of the other settings.

    Attributes:
        model: as in result.json.
        variant: "" if nothing but ε and the seed was varied.
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
        lines: of the federated model, one a variant, the best first.
        baselines: of the other models; over all variants.
    """

    metric: str
    lines: tuple[Line, ...]
    baselines: tuple[Line, ...]


def frontier(sweep: Sweep, metric: str = f"ndcg@{10}") -> Frontier:
    """One line a variant, and one a baseline."""
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
    return {key for key, found in values.items() if len(found) > 1}


def _variant(others: tuple[tuple[str, str], ...], differing: set[str]) -> str:
    """The settings that differ, by the last part of their keys where that tells them apart."""
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


# --- ε spent -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spending:
    """What organisations spent that released the same.

    Attributes:
        names: of the organisations.
        releases: how many noised sums each answer was.
        epsilon: after as many releases.
    """

    names: tuple[str, ...]
    releases: tuple[int, ...]
    epsilon: tuple[float, ...]


def spending(run: Run) -> list[Spending]:
    """The ε of a run after each of its releases, by numerical composition; [] without privacy."""
    if not run.private:
        return []
    alike: dict[tuple[Release, ...], list[Organisation]] = {}
    for one in run.organisations:
        alike.setdefault(one.releases, []).append(one)
    return [
        Spending(tuple(one.name for one in some), *_curve(releases, run.delta))
        for releases, some in alike.items()
    ]


def _curve(releases: Sequence[Release], delta: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    total = sum(release.steps for release in releases)
    ends = np.cumsum([release.steps for release in releases]).tolist()
    asked = sorted({0, *ends, *np.linspace(0, total, FINEST + 1, dtype=int).tolist()})
    if total <= FINEST:
        asked = list(range(total + 1))
    return tuple(asked), tuple(epsilon(_first(releases, steps), delta) for steps in asked)


def _first(releases: Sequence[Release], steps: int) -> list[Release]:
    """The first so many of them."""
    found = []
    for release in releases:
        taken = min(steps, release.steps)
        if taken:
            found.append(_shortened(release, taken))
        steps -= taken
    return found


def _shortened(release: Release, steps: int) -> Release:
    return Release(
        kind=release.kind,
        noise_multiplier=release.noise_multiplier,
        sample_rate=release.sample_rate,
        steps=steps,
    )


# --- who is served -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gain:
    """One organisation by itself, and together with the others.

    Attributes:
        name: of the organisation; "" stands for all of them.
        alone: its users whom its own model hits.
        together: whom the federated model hits.
        alone_ndcg: NDCG@10 of its own model.
        together_ndcg: of the federated one.
        p: how often chance alone would part the two so far.
    """

    name: str
    alone: Share
    together: Share
    alone_ndcg: float
    together_ndcg: float
    p: float


def gains(found: Evaluation) -> list[Gain]:
    """All users first, then each organisation; [] if no organisation trained alone."""
    if LOCAL not in found.ranks:
        return []
    names = list(dict.fromkeys(found.organisations.tolist()))
    masks = [("", np.ones(len(found.events), bool))]
    masks += [(name, found.organisations == name) for name in sorted(names)]
    return [_gain(name, found.ranks[LOCAL][m], found.ranks[FEDERATED][m]) for name, m in masks]


def _gain(name: str, alone: NDArray[np.int64], together: NDArray[np.int64]) -> Gain:
    return Gain(
        name, hits(alone), hits(together), ndcg(alone), ndcg(together), paired_p(alone, together)
    )


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the users.

    Attributes:
        label: which.
        share: by model, the users it hits.
        ndcg: by model, NDCG@10.
    """

    label: str
    share: dict[str, Share]
    ndcg: dict[str, float]

    @property
    def users(self) -> int:
        """How many there are."""
        return next(iter(self.share.values())).users


def by_activity(found: Evaluation, models: Sequence[str]) -> list[Part]:
    """Quarters of the users by training events, ties kept together; fewer with many ties."""
    edges = np.unique(np.quantile(found.events, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf"))
    if len(edges) < 2:
        return []
    parts = []
    for place, (low, high) in enumerate(pairwise(edges)):
        lowest = int(low) if place == 0 else int(low) + 1
        mask = (found.events >= lowest) & (found.events <= high)
        label = f"{lowest:,}" if lowest == high else f"{lowest:,} to {int(high):,}"
        parts.append(_part(label, found, mask, models))
    return parts


def by_group(found: Evaluation, group: str, models: Sequence[str]) -> list[Part]:
    """Each group of one grouping, numbers in their order and "unknown" last."""
    values = found.groups[group]
    return [
        _part(label, found, values == label, models)
        for label in sorted(set(values.tolist()), key=_natural)
    ]


def _natural(label: str) -> tuple[bool, float, str]:
    """Sorts "under 18" before "18-24", and those before "56 or more"."""
    digits = "".join(c if c.isdigit() else " " for c in label).split()
    number = float(digits[0]) if digits else float("inf")
    return label == "unknown", number - label.startswith("under"), label


def _part(label: str, found: Evaluation, mask: NDArray[np.bool_], models: Sequence[str]) -> Part:
    ranks = {model: found.ranks[model][mask] for model in models}
    return Part(
        label,
        {model: hits(some) for model, some in ranks.items()},
        {model: ndcg(some) for model, some in ranks.items()},
    )


# --- the models of one run -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model of a run.

    Attributes:
        model: as in result.json.
        share: the users it hits.
        figures: all of result.json.
    """

    model: str
    share: Share
    figures: dict[str, float]


def comparison(run: Run) -> list[Comparison]:
    """All models of a run, best first."""
    found = [
        Comparison(name, Share(round(figures["hr@10"] * run.tested), run.tested), dict(figures))
        for name, figures in run.models.items()
    ]
    return sorted(found, key=lambda one: -one.figures["ndcg@10"])


# --- what an attack may reach --------------------------------------------------------------------


def allowed_tpr(fpr: float, epsilon: float, delta: float) -> float:
    """The most true positives that any attack on (ε, δ)-DP may have at so many false ones.

    Kairouz, Oh & Viswanath, "The Composition Theorem for Differential Privacy", ICML 2015
    (arXiv:1311.0776), theorem 2.1, solved for the true positives.

    >>> round(allowed_tpr(0.001, 1.0, 1e-5), 5), allowed_tpr(1.0, 1.0, 1e-5)
    (0.00273, 1.0)
    """
    growth = math.exp(min(epsilon, 700.0))
    return max(0.0, min(1.0, growth * fpr + delta, 1 - (1 - delta - fpr) / growth))
