"""Figures of single users, and whether two models differ on the same users. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ndcg_gains", "paired_p"]


def ndcg_gains(ranks: NDArray[Any], k: int) -> NDArray[np.float64]:
    """Return each user's part of nDCG@k, [rank <= k] / log2(1 + rank), in [0, 1].

    `shared.evaluation.ranking.ndcg` is their mean.

    Args:
        ranks: of the users' targets, 1 the best, [N].
        k: the cut-off, >= 1.

    Example:
        >>> ndcg_gains(np.array([1, 3, 40, 11]), k=10).tolist()
        [1.0, 0.5, 0.0, 0.0]
    """
    return np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)


def paired_p(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Return p of a two-sided paired t-test over N users; None where it cannot be made.

    It cannot where no user's figure differs, or there is one user.

    Args:
        one: each user's figure with one model, [N].
        other: with another model, [N], in the same order.
    """
    from scipy.stats import ttest_rel  # noqa: PLC0415 it takes half a second to import

    if len(one) < 2 or not (one != other).any():
        return None
    return float(ttest_rel(one, other).pvalue)
