"""Shares of users, how sure they are, and whether two of them differ beyond chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, chi2_contingency

__all__ = ["CHANCE", "HITS_AT", "Share", "differ", "hits", "ndcg", "paired_p"]

HITS_AT = 10
"""How many items a user is shown."""
SURE = 1.959963984540054
"""Standard normal quantile of 97.5%: intervals hold 95% of the time."""
CHANCE = 0.05
"""Differences that chance makes less often than this are called differences."""
LEAST_EXPECTED = 5.0
"""Below this many expected hits in a group, the χ² test is not used (Cochran, 1954)."""

Ranks = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many users.

    Attributes:
        count: users with the property.
        users: all of them.
    """

    count: int
    users: int

    @property
    def value(self) -> float:
        """The share; 0 of nobody."""
        return self.count / self.users if self.users else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval, which holds near 0 too (Wilson, JASA 22, 1927, pages 209-212).

        >>> [round(end, 3) for end in Share(0, 10).interval]
        [0.0, 0.278]
        """
        if not self.users:
            return 0.0, 1.0
        n, p, z2 = self.users, self.value, SURE**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        reach = SURE / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, middle - reach), min(1.0, middle + reach)


def hits(ranks: Ranks) -> Share:
    """Users whose item is among the ten they are shown: HR@10."""
    return Share(int((ranks <= HITS_AT).sum()), len(ranks))


def ndcg(ranks: Ranks) -> float:
    """NDCG@10, as `shared.evaluation.ranking.ndcg`; 0 of nobody."""
    gains = np.where(ranks <= HITS_AT, 1 / np.log2(1 + ranks), 0.0)
    return float(gains.mean()) if len(gains) else 0.0


def paired_p(first: Ranks, second: Ranks) -> float:
    """How often chance alone parts two models' hits on the same users so far, or farther.

    McNemar's test in its exact form: of the users whom one model alone hits, each is the one's or
    the other's by a fair coin (McNemar, Psychometrika 12, 1947). 1 if there is no such user.

    >>> round(paired_p(np.array([1] * 9 + [50]), np.array([50] * 9 + [50])), 4)
    0.0039
    """
    one, other = first <= HITS_AT, second <= HITS_AT
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def differ(shares: Sequence[Share]) -> bool | None:
    """Whether groups of users differ beyond chance, by Pearson's χ² test at 5%.

    Returns:
        None where the test cannot tell: fewer than two groups, or under five expected hits in one.
    """
    some = [share for share in shares if share.users]
    if len(some) < 2:
        return None
    table = np.array(
        [[share.count for share in some], [share.users - share.count for share in some]]
    )
    if min(table.sum(1)) == 0:
        return None
    result = chi2_contingency(table, correction=False)
    if result.expected_freq.min() < LEAST_EXPECTED:
        return None
    return bool(result.pvalue < CHANCE)
