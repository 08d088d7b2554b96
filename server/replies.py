"""Checks every reply before any arithmetic sees it.

Flower's strategies trust what a client sends: one NaN makes the mean NaN, an array of size 1
broadcasts, an example count of 1e300 takes the model over.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Message

from shared.errors import ReplyError, WireError
from shared.wire import TrainReply, Weights, refusal_in

__all__ = ["checked_change", "refusal_reason"]


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
    if not reply.has_content():
        raise ReplyError(refusal_reason(reply))
    try:
        change = TrainReply.from_content(reply.content).change
    except WireError as error:
        raise ReplyError(str(error)) from error
    if set(change) != set(like):
        odd = sorted(set(change) ^ set(like))
        raise ReplyError(f"the weights differ from the model's in {odd}")
    for name, value in change.items():
        if value.shape != like[name].shape:
            raise ReplyError(f"'{name}' has shape {value.shape}, not {like[name].shape}")
        if not np.isfinite(value).all():
            raise ReplyError(f"'{name}' holds values that are not finite")
    norm = float(np.sqrt(sum(np.square(v, dtype=np.float64).sum() for v in change.values())))
    if norm > max_norm:
        raise ReplyError(f"the change has norm {norm:.3g}; server.max_update_norm is {max_norm:g}")
    return change


def refusal_reason(reply: Message) -> str:
    """Why a reply without content failed, in our own words.

    The text of an error that is not ours is the other side's: it goes into no log.
    """
    if not reply.has_error():
        return "the reply is empty"
    refusal = refusal_in(reply)
    return refusal.sentence if refusal else f"the node failed (code {reply.error.code})"
