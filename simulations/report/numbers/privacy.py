"""The ε of a run after each release, and the limit that ε sets to an attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release
from simulations.report.reading.runs import Organisation, Run

__all__ = ["Spending", "allowed_tpr", "spending"]

FINEST = 48
"""Most points of a curve of ε."""


@dataclass(frozen=True, slots=True)
class Spending:
    """The ε of organisations with the same releases.

    Attributes:
        names: of the organisations.
        releases: numbers of noised sums.
        epsilon: after so many noised sums.
    """

    names: tuple[str, ...]
    releases: tuple[int, ...]
    epsilon: tuple[float, ...]


def spending(run: Run) -> list[Spending]:
    """Return ε after each release, by numerical composition; [] without privacy."""
    if not run.private:
        return []
    by_releases: dict[tuple[Release, ...], list[Organisation]] = {}
    for one in run.organisations:
        by_releases.setdefault(one.releases, []).append(one)
    return [
        Spending(tuple(one.name for one in organisations), *_curve(releases, run.delta))
        for releases, organisations in by_releases.items()
    ]


def _curve(releases: Sequence[Release], delta: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    total = sum(release.steps for release in releases)
    ends = np.cumsum([release.steps for release in releases]).tolist()
    counts = sorted({0, *ends, *np.linspace(0, total, FINEST + 1, dtype=int).tolist()})
    if total <= FINEST:
        counts = list(range(total + 1))
    return tuple(counts), tuple(epsilon(_first(releases, steps), delta) for steps in counts)


def _first(releases: Sequence[Release], steps: int) -> list[Release]:
    """Return the releases up to so many steps."""
    first = []
    for release in releases:
        taken = min(steps, release.steps)
        if taken:
            first.append(replace(release, steps=taken))
        steps -= taken
    return first


def allowed_tpr(fpr: float, epsilon: float, delta: float) -> float:
    """Return the highest true positive rate of any attack on (ε, δ)-DP at a false positive rate.

    Kairouz, Oh & Viswanath, "The Composition Theorem for Differential Privacy", ICML 2015
    (arXiv:1311.0776), theorem 2.1, solved for the true positives.

    >>> round(allowed_tpr(0.001, 1.0, 1e-5), 5), allowed_tpr(1.0, 1.0, 1e-5)
    (0.00273, 1.0)
    """
    growth = math.exp(min(epsilon, 700.0))
    return max(0.0, min(1.0, growth * fpr + delta, 1 - (1 - delta - fpr) / growth))
