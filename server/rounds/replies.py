"""Check every reply before any arithmetic uses it: how each counts, and why.

Flower's strategies trust what a client sends: one NaN makes the mean NaN, an array of size 1 is
broadcast, and an example count of 1e300 decides the mean alone.

| what came                                              | outcome                      | retried |
|--------------------------------------------------------|------------------------------|---------|
| a reply that passes the check                          | valid                        | no      |
| nothing before the deadline                            | missing                      | yes     |
| the same, and a reply after the collection had ended   | late, reported with the next | -       |
|                                                        | collection                   |         |
| nothing: the node is not connected                     | absent                       | yes     |
| an error of Flower: the app raised, or its process died| failed                       | yes     |
| a refusal of the partner's guard                       | refused-..., by its code     | if it   |
|                                                        |                              | failed  |
| another form, other names or shapes, NaN or infinity,  | malformed, wrong-shape,      | no      |
| a norm above the bound                                 | not-finite, too-long         |         |
| the bytes of this organisation's answer to an earlier  | stale; for a statistic       | no      |
| request                                                | wrong-shape                  |         |

Statistics have no digest. The two of them differ in shape, so an answer to one is refused as an
answer to the other; and a resumed run repeats both requests, whose kept answers it must accept.

The checks of a reply's content are here; what does not come at all, comes late or comes from a node
that is gone is counted by `server.rounds.collection`.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from server.flower_internals import ErrorCode
from shared.errors import ReplyError, WireError
from shared.messages import (
    EvaluateReply,
    EvaluateRequest,
    PlanReply,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    Weights,
    refusal_in,
)
from shared.outcomes import Outcome

__all__ = [
    "Floats",
    "Sums",
    "change_digest",
    "check_change",
    "check_statistic",
    "check_sums",
    "checked_change",
    "checked_plan",
    "checked_statistic",
    "checked_sums",
    "reply_content",
]

MAX_DEVIATIONS = 20.0
"""Standard deviations of noise beyond which a reply is refused: honest noise never gets there."""
Floats = NDArray[np.float64]
Sums = NDArray[np.float32]


def reply_content(reply: Message) -> RecordDict:
    """Return the content of a reply that is neither an error nor empty.

    The text of an error that is not ours was written by the other side, and is not repeated.

    Raises:
        ReplyError: there is no content; with the outcome and a reason in our own words.
    """
    if reply.has_content():
        return reply.content
    if not reply.has_error():
        raise ReplyError(Outcome.MALFORMED, "the reply is empty")
    refusal, code = refusal_in(reply), reply.error.code
    if refusal is not None:
        raise ReplyError(Outcome.of(refusal), refusal.sentence)
    if code == ErrorCode.NODE_UNAVAILABLE:
        raise ReplyError(Outcome.ABSENT, "the node went away")
    raise ReplyError(Outcome.FAILED, f"the node failed (code {code})")


def checked_change(reply: Message, *, like: Weights, max_norm: float) -> Weights:
    """Return the change in a reply, if it may be added to the global weights.

    Args:
        reply: a partner's answer to a train request.
        like: the global weights; the change must have their names and shapes.
        max_norm: largest accepted L2 norm over all weights together.

    Raises:
        ReplyError: an error or refusal, another form, other names or shapes, a value that is not
            finite, or a norm above `max_norm`.
    """
    content = reply_content(reply)
    try:
        change = TrainReply.from_content(content).change
    except WireError as error:
        raise ReplyError(Outcome.MALFORMED, str(error)) from error
    check_change(change, like=like, max_norm=max_norm)
    return change


def check_change(change: Weights, *, like: Weights, max_norm: float) -> None:
    """Refuse a change that may not be added to the global weights; see `checked_change`."""
    if set(change) != set(like):
        odd = sorted(set(change) ^ set(like))
        raise ReplyError(Outcome.WRONG_SHAPE, f"the weights differ from the model's in {odd}")
    for name, value in change.items():
        if value.shape != like[name].shape:
            shapes = f"{value.shape}, not {like[name].shape}"
            raise ReplyError(Outcome.WRONG_SHAPE, f"'{name}' has shape {shapes}")
        if not np.isfinite(value).all():
            raise ReplyError(Outcome.NOT_FINITE, f"'{name}' holds values that are not finite")
    norm = float(np.sqrt(sum(np.square(v, dtype=np.float64).sum() for v in change.values())))
    if norm > max_norm:
        raise ReplyError(
            Outcome.TOO_LONG,
            f"the change has norm {norm:.3g}; server.max_update_norm is {max_norm:g}",
        )


def change_digest(change: Weights) -> str:
    """Return the SHA-256 of a change, in hex; "" if it is 0 everywhere.

    Without noise an empty batch gives a change of 0, and may do so again.
    """
    if not any(value.any() for value in change.values()):
        return ""
    digest = hashlib.sha256()
    for name in sorted(change):
        digest.update(name.encode() + b"\0" + change[name].tobytes())
    return digest.hexdigest()


def checked_plan(reply: Message) -> bool:
    """Return True if a partner admits the whole run; False if it was not told.

    A node of an earlier release does not know the question, and may pay all the same.

    Raises:
        ReplyError: the partner would refuse a request of the run, or its reply has another form.
    """
    try:
        PlanReply.from_content(reply_content(reply))
    except ReplyError as error:
        if error.outcome is Outcome.REFUSED_MALFORMED:
            return False
        raise
    except WireError as error:
        raise ReplyError(Outcome.MALFORMED, str(error)) from error
    return True


def checked_statistic(
    reply: Message, request: StatisticsRequest, *, shape: tuple[int, ...], population: int
) -> Floats:
    """Return the statistic in a reply, if it may be added up: float64.

    Args:
        reply: a partner's answer.
        request: what it answers.
        shape: [V] or [F, F].
        population: declared users of the partner; each adds a norm of 1 at most.

    Raises:
        ReplyError: an error or refusal, another form or shape, a value that is not finite, or a
            norm that so many users and the noise cannot reach.
    """
    content = reply_content(reply)
    try:
        total = StatisticsReply.from_content(content).total.astype(np.float64)
    except WireError as error:
        raise ReplyError(Outcome.MALFORMED, str(error)) from error
    check_statistic(total, request.noise_multiplier, shape=shape, population=population)
    return total


def check_statistic(
    total: Floats, noise_multiplier: float, *, shape: tuple[int, ...], population: int
) -> None:
    """Refuse a statistic that may not be added up; see `checked_statistic`."""
    if total.shape != shape:
        raise ReplyError(Outcome.WRONG_SHAPE, f"a statistic of shape {total.shape}, not {shape}")
    if not np.isfinite(total).all():
        raise ReplyError(Outcome.NOT_FINITE, "a statistic holds values that are not finite")
    norm = float(np.linalg.norm(total))
    noise = noise_multiplier * (math.sqrt(total.size) + MAX_DEVIATIONS)
    if norm > (population + noise) * (1 + 1e-6):
        raise ReplyError(
            Outcome.TOO_LONG,
            f"a statistic of norm {norm:.3g}, more than {population} users add up to",
        )


def checked_sums(reply: Message, request: EvaluateRequest, population: int) -> Sums:
    """Return the noised sums of metrics in a reply, if they may be added up: float32 [m].

    Args:
        reply: a partner's answer.
        request: what it answers.
        population: declared users of the partner; each adds 1 to each sum at most.

    Raises:
        ReplyError: an error or refusal, another form, a value that is not finite, or a sum that so
            many users and the noise cannot reach.
    """
    content = reply_content(reply)
    try:
        sums = EvaluateReply.from_content(content, request.numbers).sums
    except WireError as error:
        raise ReplyError(Outcome.MALFORMED, str(error)) from error
    check_sums(sums, request.noise_multiplier * request.clip_norm, population)
    return sums


def check_sums(sums: Sums, noise_std: float, population: int) -> None:
    """Refuse sums of metrics that may not be added up; see `checked_sums`."""
    limit = population + MAX_DEVIATIONS * noise_std
    if not np.all(np.abs(sums) <= limit):  # NaN too
        raise ReplyError(Outcome.TOO_LONG, f"sums beyond what {population} users add up to")
