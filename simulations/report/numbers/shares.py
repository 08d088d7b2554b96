"""Shares of users, their confidence intervals, and tests of their differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, chi2_contingency

from shared.evaluation.paired import ndcg_gains

__all__ = ["HITS_AT", "SIGNIFICANCE", "Share", "differ", "hits", "ndcg", "paired_p"]

HITS_AT = 10
"""Length of a list of recommendations."""
NORMAL_QUANTILE = 1.959963984540054
"""97.5% quantile of the standard normal, for 95% intervals."""
SIGNIFICANCE = 0.05
"""Level of the tests."""
LEAST_EXPECTED = 5.0
"""Below this many expected hits in a group, the χ² test is not used (Cochran, 1954)."""

Ranks = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Share:
    """A number of users out of all.

    Attributes:
        count: users with the property.
        users: all of them.
    """

    count: int
    users: int

    @property
    def value(self) -> float:
        """Return the share; 0 without users."""
        return self.count / self.users if self.users else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return Wilson's 95% interval, valid near 0 too (Wilson, JASA 22, 1927, pages 209-212).

        >>> [round(end, 3) for end in Share(0, 10).interval]
        [0.0, 0.278]
        """
        if not self.users:
            return 0.0, 1.0
        n, p, z2 = self.users, self.value, NORMAL_QUANTILE**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        reach = NORMAL_QUANTILE / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, middle - reach), min(1.0, middle + reach)


def hits(ranks: Ranks) -> Share:
    """Return the share of users whose item is among the ten that they are shown (HR@10)."""
    return Share(int((ranks <= HITS_AT).sum()), len(ranks))


def ndcg(ranks: Ranks) -> float:
    """Return NDCG@10, as `shared.evaluation.ranking.ndcg`; 0 without users."""
    gains = ndcg_gains(ranks, HITS_AT)
    return float(gains.mean()) if len(gains) else 0.0


def paired_p(first: Ranks, second: Ranks) -> float:
    """Return the p-value of the difference between two models' hits on the same users.

    McNemar's exact test: under the null hypothesis, a user whom exactly one of the models hits is
    hit by either with probability 1/2 (McNemar, Psychometrika 12, 1947). 1 without such users.

    >>> round(paired_p(np.array([1] * 9 + [50]), np.array([50] * 9 + [50])), 4)
    0.0039
    """
    one, other = first <= HITS_AT, second <= HITS_AT
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def differ(shares: Sequence[Share]) -> bool | None:
    """Return whether groups of users differ significantly, by Pearson's χ² test at 5%.

    Returns:
        None where the test is not applicable: fewer than two groups, or fewer than five expected
        hits in one.
    """
    nonempty = [share for share in shares if share.users]
    if len(nonempty) < 2:
        return None
    table = np.array(
        [[share.count for share in nonempty], [share.users - share.count for share in nonempty]]
    )
    if min(table.sum(1)) == 0:
        return None
    result = chi2_contingency(table, correction=False)
    if result.expected_freq.min() < LEAST_EXPECTED:
        return None
    return bool(result.pvalue < SIGNIFICANCE)
