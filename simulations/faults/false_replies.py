"""What a partner that runs changed code sends in place of its answers.

In a copy of the packages that `simulations.faults.table` makes, the node passes every reply
through `told`. A file beside this one says which lie; it may change while the node runs.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from flwr.app import Message

from shared.errors import Outcome
from shared.messages import TRAIN, TrainReply, Weights

__all__ = ["LIE", "LIES", "told"]

LIES = {
    "NaN": Outcome.NOT_FINITE,
    "a wrong shape": Outcome.WRONG_SHAPE,
    "a huge norm": Outcome.TOO_LONG,
    "the last round's reply": Outcome.STALE,
    "nothing": Outcome.MISSING,
}
"""What is sent, and what the coordinator has to make of it."""
LIE = Path(__file__).with_name("lie.txt")
_LAST = Path(__file__).with_name("last.npz")


def told(request: Message, reply: Message) -> Message:
    """What is sent in place of a reply to a request for training."""
    if request.metadata.message_type != TRAIN or not reply.has_content():
        return reply
    sent = _instead(LIE.read_text(), TrainReply.from_content(reply.content).change)
    np.savez(_LAST, allow_pickle=False, **sent)
    reply.content = TrainReply(change=sent).to_content()
    return reply


def _instead(lie: str, change: Weights) -> Weights:
    name = min(change)
    match lie:
        case "NaN":
            return {**change, name: change[name] * np.float32(np.nan)}
        case "a wrong shape":
            return {**change, name: change[name][:1]}
        case "a huge norm":
            return {**change, name: np.full_like(change[name], 1e20)}
        case "the last round's reply":
            with np.load(_LAST) as last:
                return dict(last)
        case "nothing":
            while LIE.read_text() == lie:
                time.sleep(1)
    return change
