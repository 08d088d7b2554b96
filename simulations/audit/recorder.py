"""Record the answers that leave the sites, as the coordinator sees them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

import client.app
from shared.messages import (
    AGGREGATE,
    EVALUATE,
    STATISTICS,
    TRAIN,
    AggregateRequest,
    EvaluateRequest,
    Request,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
    Weights,
)
from shared.privacy.release import Release, ReleaseKind

__all__ = ["RecordedAnswer", "Recorder"]

_REQUESTS: dict[str, type[Request]] = {
    TRAIN: TrainRequest,
    STATISTICS: StatisticsRequest,
    EVALUATE: EvaluateRequest,
}


@dataclass(frozen=True, slots=True, eq=False)
class RecordedAnswer:
    """One answer of one organisation, with its request.

    Attributes:
        request: of training or of a statistic.
        answer: arrays by name; one array, "total", for a statistic; none where it left masked.
    """

    request: TrainRequest | StatisticsRequest
    answer: Weights


class Recorder(ClientApp):
    """A node's app that records its answers.

    Args:
        rounds: training rounds whose answers are kept; answers to statistics are all kept.
        lost: organisations whose answers never reach the coordinator.

    Attributes:
        asked: every request that was answered, once, in the order of the first answer to each.
        seen: kept answers by organisation (its folder's name), in the order of leaving.
        releases: of every answer, kept or not, by organisation; a repeated one counts once.
    """

    def __init__(self, rounds: Collection[int], lost: Collection[str] = ()) -> None:
        super().__init__()
        self.asked: list[Request] = []
        self.seen: dict[str, list[RecordedAnswer]] = {}
        self.releases: dict[str, list[Release]] = {}
        self._rounds, self._recorded = frozenset(rounds), set[tuple[str, str, str, int]]()
        self._lost = frozenset(lost)

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the node's own answer, and record it; an error in its place if it gets lost."""
        request = _request(message)
        reply = client.app.app(message, context)
        organisation = Path(str(context.node_config["site"])).name
        if request is not None and not reply.has_error():
            self._record(organisation, request, reply)
            if organisation in self._lost:
                return Message(Error(0, "the answer was lost"), reply_to=message)
        return reply

    def _record(self, organisation: str, request: Request, reply: Message) -> None:
        key = (organisation, type(request).__name__, request.run, request.round)
        if key in self._recorded:
            return
        if key[1:] not in {recorded[1:] for recorded in self._recorded}:
            self.asked.append(request)
        self._recorded.add(key)
        self.releases.setdefault(organisation, []).append(_release(request))
        kept = self.seen.setdefault(organisation, [])
        masked = reply.metadata.message_type == AGGREGATE
        if isinstance(request, StatisticsRequest):
            answer = (
                {"total": StatisticsReply.from_content(reply.content).total} if not masked else {}
            )
            kept.append(RecordedAnswer(request, answer))
        elif isinstance(request, TrainRequest) and request.round in self._rounds:
            change = {} if masked else TrainReply.from_content(reply.content).change
            kept.append(RecordedAnswer(request, change))


def _request(message: Message) -> Request | None:
    """Return what a message asks of a user's data; None if nothing."""
    kind = message.metadata.message_type
    if kind == AGGREGATE:
        return AggregateRequest.from_content(message.content).request
    return _REQUESTS[kind].from_content(message.content) if kind in _REQUESTS else None


def _release(request: Request) -> Release:
    """Return the release that the request's own terms describe."""
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
