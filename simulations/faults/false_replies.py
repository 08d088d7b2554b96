"""Replace a partner's training replies by false ones, as changed code at a partner could.

`simulations.faults.changed_code` makes a copy of the packages in which the node answers each
request with `falsify`. The file `KIND_FILE` in that copy names the kind of false reply; it may
change while the node runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Context, Message

from shared.messages import TRAIN, TrainReply, Weights
from shared.outcomes import Outcome

if TYPE_CHECKING:
    from simulations.faults.changed_code import App

__all__ = ["FALSE_REPLIES", "KIND_FILE", "falsify"]

FALSE_REPLIES = {
    "NaN": Outcome.NOT_FINITE,
    "a wrong shape": Outcome.WRONG_SHAPE,
    "a huge norm": Outcome.TOO_LONG,
    "the last round's reply": Outcome.STALE,
    "nothing": Outcome.MISSING,
}
"""What is sent, and the outcome that the coordinator must record."""
KIND_FILE = Path(__file__).with_name("false_reply.txt")
_PREVIOUS = Path(__file__).with_name("last.npz")


def falsify(app: App, request: Message, context: Context) -> Message:
    """Return what is sent in place of a reply; replies to other requests are unchanged."""
    reply = app(request, context)
    if request.metadata.message_type != TRAIN or not reply.has_content():
        return reply
    sent = _false_change(KIND_FILE.read_text(), TrainReply.from_content(reply.content).change)
    np.savez(_PREVIOUS, allow_pickle=False, **sent)
    reply.content = TrainReply(change=sent).to_content()
    return reply


def _false_change(kind: str, change: Weights) -> Weights:
    name = min(change)
    match kind:
        case "NaN":
            return {**change, name: change[name] * np.float32(np.nan)}
        case "a wrong shape":
            return {**change, name: change[name][:1]}
        case "a huge norm":
            return {**change, name: np.full_like(change[name], 1e20)}
        case "the last round's reply":
            with np.load(_PREVIOUS) as previous:
                return dict(previous)
        case "nothing":
            while KIND_FILE.read_text() == kind:
                time.sleep(1)
    return change
