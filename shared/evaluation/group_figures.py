"""How well each public group is served, from sums over its users: exact, or with noise.

Letters: K groups of one table, of which the last is "other"; n users, s sum of NDCG of one of them.

A group's NDCG is m = s / n. Its variance has two parts:

    v = d / n + τ² (1 + m²) / n²

d is the variance of one user's NDCG: the sample's where squares are known, and at most m (1 - m)
where they are not, since NDCG is in [0, 1]. One more user is counted in it, who is 1 off the mean:
a few users without any hit are not certain to have none. τ is the standard deviation of the noise
in every sum, and its part follows from the ratio's first derivatives (the delta method).

Intervals hold for all groups of a table at once with 95% (Bonferroni): so they hold for the worst
group, too, whichever it turned out to be. That of the gap between the best and the worst holds for
all pairs. A group with fewer users than three deviations of the noise has no figures. "other" is
neither best nor worst.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GroupFigures", "TableFigures", "table_figures"]

ERROR = 0.05
"""Chance that an interval of a table fails."""
DEVIATIONS = 3.0
"""Of the noise, that a group's users must exceed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """One group.

    Attributes:
        name: of the group.
        users: how many it has, or a noised count of them.
        hr: HR@k; None where there are too few users for the noise. So are the next ones.
        ndcg: NDCG@k.
        low: lower end of the interval of `ndcg`.
        high: its upper end.
    """

    name: str
    users: float
    hr: float | None = None
    ndcg: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFigures:
    """The groups of one table.

    Attributes:
        table: as the run's settings name it.
        groups: "other" last.
        worst: name of the group with the lowest NDCG; None where fewer than two have any. So are
            the next ones.
        best: of that with the highest.
        gap: highest NDCG less the lowest.
        gap_low: lower end of the gap's interval; below 0 the order may be chance.
        gap_high: its upper end.
    """

    table: str
    groups: tuple[GroupFigures, ...]
    worst: str | None = None
    best: str | None = None
    gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON has them."""
        return asdict(self) | {"groups": [asdict(group) for group in self.groups]}


def table_figures(
    table: str,
    names: Sequence[str],
    sums: NDArray[np.float64],
    noise_std: float = 0.0,
    squares: NDArray[np.float64] | None = None,
) -> TableFigures:
    """Return the figures of a table's groups.

    Args:
        table: as the run's settings name it.
        names: of the K groups, "other" last.
        sums: of hits, NDCG and users, [K, 3].
        noise_std: τ, of the noise in each sum.
        squares: Σ NDCG² of each group, [K]; None where it is not known.
    """
    told = max(1, len(names) - 1)
    reach = _quantile(told)
    groups, variances = [], {}
    for place, name in enumerate(names):
        hits, gain, users = map(float, sums[place])
        if users <= max(DEVIATIONS * noise_std, 0.5):
            groups.append(GroupFigures(name=name, users=users))
            continue
        mean = gain / users
        inside = min(max(mean, 0.0), 1.0)
        of_one = inside * (1 - inside)
        if squares is not None:
            of_one = max(float(squares[place]) / users - mean**2, 0.0)
        of_one = (users * of_one + 1) / (users + 1)
        variance = of_one / users + noise_std**2 * (1 + mean**2) / users**2
        variances[name] = variance
        half = reach * math.sqrt(variance)
        figures = {"hr": hits / users, "ndcg": mean, "low": mean - half, "high": mean + half}
        groups.append(GroupFigures(name=name, users=users, **figures))
    return TableFigures(table=table, groups=tuple(groups), **_gap(groups[:-1], variances, told))


def _gap(groups: Sequence[GroupFigures], variances: dict[str, float], told: int) -> dict[str, Any]:
    known = [(group.ndcg, group.name) for group in groups if group.ndcg is not None]
    if len(known) < 2:
        return {}
    (lowest, worst), (highest, best) = min(known), max(known)
    gap = highest - lowest
    half = _quantile(told * (told - 1) / 2) * math.sqrt(variances[worst] + variances[best])
    return {
        "worst": worst,
        "best": best,
        "gap": gap,
        "gap_low": gap - half,
        "gap_high": gap + half,
    }


def _quantile(intervals: float) -> float:
    """Return how many deviations make intervals that all hold at once with 95%."""
    return NormalDist().inv_cdf(1 - ERROR / (2 * max(intervals, 1.0)))
