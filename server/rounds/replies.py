"""Checks every reply before any arithmetic sees it.

Flower's strategies trust what a client sends: one NaN makes the mean NaN, an array of size 1
broadcasts, an example count of 1e300 takes the model over.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Message, RecordDict

from server.flower_internals import ErrorCode
from shared.errors import Outcome, ReplyError, WireError
from shared.messages import TrainReply, Weights, refusal_in

__all__ = ["checked_change", "reply_content"]


def reply_content(reply: Message) -> RecordDict:
    """What a reply holds, if it is neither an error nor empty.

    The text of an error that is not ours is the other side's: it goes into no log.

    Raises:
        ReplyError: it is, with the outcome and our own words for it.
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
    """The change a reply carries, if it may be added to the global weights.

    Args:
        reply: a partner's answer to a train request.
        like: the global weights; names and shapes must be theirs.
        max_norm: longest change accepted, over all weights together, L2.

    Raises:
        ReplyError: an error or refusal, not of the wire's form, other names or shapes, a value
            that is not finite, or a change that is too long.
    """
    content = reply_content(reply)
    try:
        change = TrainReply.from_content(content).change
    except WireError as error:
        raise ReplyError(Outcome.MALFORMED, str(error)) from error
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
    return change
