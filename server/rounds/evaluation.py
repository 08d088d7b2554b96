"""Means of metrics from the partners' noised sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from server.rounds.replies import reply_content
from shared.errors import Outcome, ReplyError, WireError
from shared.messages import SUMS, EvaluateReply, EvaluateRequest

__all__ = ["checked_sums", "mean_metrics"]

Sums = NDArray[np.float32]
_OUTLIER = 20.0
"""Standard deviations of noise that no honest partner ever sees."""


def checked_sums(reply: Message, request: EvaluateRequest, population: int) -> Sums:
    """The sums a reply carries, if they may be added up: float32 [3].

    Raises:
        ReplyError: an error or refusal, not of the wire's form, not finite, or more than the
            partner's declared users could add up to.
    """
    content = reply_content(reply)
    try:
        sums = EvaluateReply.from_content(content).sums
    except WireError as error:
        raise ReplyError(Outcome.MALFORMED, str(error)) from error
    limit = population + _OUTLIER * request.noise_multiplier * request.clip_norm
    if not np.all(np.abs(sums) <= limit):  # NaN too
        raise ReplyError(Outcome.TOO_LONG, f"sums beyond what {population} users add up to")
    return sums


def mean_metrics(replies: Sequence[Sums], request: EvaluateRequest) -> dict[str, float] | None:
    """Metrics over the users of all partners together, from their sums.

    Args:
        replies: one [3] a partner, in the order of `SUMS`.
        request: what they answer.

    Returns:
        "hr@k" and "ndcg@k", and "noise", about the standard deviation that noise gives to either;
        None where the noised count of users does not stand out from its own noise. Noise may put
        a mean below 0 or above 1.
    """
    spread = request.noise_multiplier * request.clip_norm * math.sqrt(len(replies))
    added = np.zeros(len(SUMS)) + sum(sums.astype(np.float64) for sums in replies)
    totals = {name: float(total) for name, total in zip(SUMS, added, strict=True)}
    users = totals.pop("users")
    if users <= 3 * spread:
        return None
    means = {f"{name}@{request.k}": total / users for name, total in totals.items()}
    return means | {"noise": spread / users}
