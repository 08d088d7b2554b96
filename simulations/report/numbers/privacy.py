"""What a run spent release by release, and what an attack on it may reach."""

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
"""Points of a curve of ε: more than a figure can show."""


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
            found.append(replace(release, steps=taken))
        steps -= taken
    return found


def allowed_tpr(fpr: float, epsilon: float, delta: float) -> float:
    """The most true positives that any attack on (ε, δ)-DP may have at so many false ones.

    Kairouz, Oh & Viswanath, "The Composition Theorem for Differential Privacy", ICML 2015
    (arXiv:1311.0776), theorem 2.1, solved for the true positives.

    >>> round(allowed_tpr(0.001, 1.0, 1e-5), 5), allowed_tpr(1.0, 1.0, 1e-5)
    (0.00273, 1.0)
    """
    growth = math.exp(min(epsilon, 700.0))
    return max(0.0, min(1.0, growth * fpr + delta, 1 - (1 - delta - fpr) / growth))
