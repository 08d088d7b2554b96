"""Ranking metrics over all partners' users, from their noised sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from server.rounds.replies import Sums
from shared.messages import SUMS, EvaluateRequest

__all__ = ["mean_metrics"]


def mean_metrics(replies: Sequence[Sums], request: EvaluateRequest) -> dict[str, float] | None:
    """Return means over the users of all partners together.

    Args:
        replies: sums of each partner, [3], in the order of `SUMS`.
        request: that they answer.

    Returns:
        "hr@k", "ndcg@k" and "noise", the approximate standard deviation of the noise in either;
        None if the noised count of users is below three standard deviations of its noise. Noise can
        put a mean below 0 or above 1.
    """
    noise_std = request.noise_multiplier * request.clip_norm * math.sqrt(len(replies))
    added = np.zeros(len(SUMS)) + sum(sums.astype(np.float64) for sums in replies)
    totals = {name: float(total) for name, total in zip(SUMS, added, strict=True)}
    users = totals.pop("users")
    if users <= 3 * noise_std:
        return None
    means = {f"{name}@{request.k}": total / users for name, total in totals.items()}
    return means | {"noise": noise_std / users}
