"""Notes what leaves the sites, as the coordinator sees it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import client.app
from shared.messages import (
    EVALUATE,
    STATISTICS,
    TRAIN,
    EvaluateRequest,
    Request,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
    Weights,
)
from shared.privacy.release import Release, ReleaseKind

__all__ = ["Seen", "Tap"]

_REQUESTS: dict[str, type[Request]] = {
    TRAIN: TrainRequest,
    STATISTICS: StatisticsRequest,
    EVALUATE: EvaluateRequest,
}


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One answer of one organisation, with what was asked.

    Attributes:
        request: what was asked.
        answer: arrays by name; of a statistic, one.
    """

    request: TrainRequest | StatisticsRequest
    answer: Weights


class Tap(ClientApp):
    """A node's app that notes what goes by.

    Args:
        rounds: of training, whose answers are kept whole; of statistics all are.

    Attributes:
        seen: what is kept, by organisation (its folder's name), in the order of leaving.
        releases: of every answer, kept or not, by organisation; a repeated one counts once.
    """

    def __init__(self, rounds: Collection[int]) -> None:
        super().__init__()
        self.seen: dict[str, list[Seen]] = {}
        self.releases: dict[str, list[Release]] = {}
        self._rounds, self._known = frozenset(rounds), set[tuple[str, str, str, int]]()

    def __call__(self, message: Message, context: Context) -> Message:
        """The node's own answer."""
        kind = message.metadata.message_type
        request = _REQUESTS[kind].from_content(message.content) if kind in _REQUESTS else None
        reply = client.app.app(message, context)
        if request is not None and not reply.has_error():
            self._note(Path(str(context.node_config["site"])).name, request, reply)
        return reply

    def _note(self, organisation: str, request: Request, reply: Message) -> None:
        key = (organisation, type(request).__name__, request.run, request.round)
        if key in self._known:
            return
        self._known.add(key)
        self.releases.setdefault(organisation, []).append(_release(request))
        kept = self.seen.setdefault(organisation, [])
        if isinstance(request, StatisticsRequest):
            kept.append(Seen(request, {"total": StatisticsReply.from_content(reply.content).total}))
        elif isinstance(request, TrainRequest) and request.round in self._rounds:
            kept.append(Seen(request, TrainReply.from_content(reply.content).change))


def _release(request: Request) -> Release:
    """What the request's own terms cost, as anybody can read them off."""
    kind, rate, steps = ReleaseKind.EVALUATE, 1.0, 1
    if isinstance(request, TrainRequest):
        kind, rate, steps = ReleaseKind.TRAIN, request.sample_rate, request.local_steps
    elif isinstance(request, StatisticsRequest):
        kind = ReleaseKind.STATISTICS
    else:
        rate = request.sample_rate
    return Release(
        kind=kind, noise_multiplier=request.noise_multiplier, sample_rate=rate, steps=steps
    )
