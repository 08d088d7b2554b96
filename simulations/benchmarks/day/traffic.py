"""Users who come and click, whose clients send feedback until it is acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from client.data.interactions import Kind
from client.serving.service import recommender_pb2 as pb
from client.serving.service import recommender_pb2_grpc as pb_grpc
from simulations.benchmarks.day.clicks import ClickModel
from simulations.benchmarks.day.service import KilledService

__all__ = ["Acknowledged", "Traffic", "Visit", "visit_random"]

_THREADS, _TIMEOUT, _PATIENCE = 4, 5.0, 120.0
"""Clients; seconds for one attempt; seconds for all attempts at one request."""
_WAIT = 0.1
_KINDS = {Kind.SHOWN: pb.SHOWN, Kind.CHOSEN: pb.CHOSEN}
_CHANNEL = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300))


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the service said to have stored.

    Attributes:
        user: whose it is.
        item: of it.
        kind: what happened.
        position: of the item, from 1.
        exposure: id of the list.
    """

    user: str
    item: str
    kind: Kind
    position: int
    exposure: str


@dataclass(frozen=True, slots=True)
class Visit:
    """What one user saw and did.

    Attributes:
        user: who.
        model: name of the model that ranked.
        exposure: id of the list.
        items: best first.
        clicked: whether each was clicked.
        expected: clicks that the click model expects of this list.
    """

    user: str
    model: str
    exposure: str
    items: tuple[str, ...]
    clicked: tuple[bool, ...]
    expected: float


def visit_random(seed: int, phase: int, number: int, user: str) -> np.random.Generator:
    """Return what the clicks of one visit are drawn with, whichever list the user sees."""
    return np.random.default_rng([seed, phase, number, *user.encode()])


@dataclass
class Traffic:
    """All clients of the service.

    Attributes:
        service: what they ask.
        clicks: how users click.
        truth: by user, the items that are relevant, and were not clicked yet.
        k: length of a list.
        seed: of the clicks.
        acknowledged: by event id, what was stored.
        chosen: by user, what was clicked, in order.
        attempts: requests that had to be sent again.
        repeated: events that the service had stored already when they came again.
    """

    service: KilledService
    clicks: ClickModel
    truth: Mapping[str, set[str]]
    k: int
    seed: int
    acknowledged: dict[str, Acknowledged] = field(default_factory=dict)
    chosen: dict[str, list[str]] = field(default_factory=dict)
    attempts: int = 0
    repeated: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, phase: int, users: Sequence[str], visits: int) -> list[Visit]:
        """Let every user come so many times; return all visits."""
        # Small parts, so that no client has nothing to do while another one waits.
        parts = [users[start::_THREADS] for start in range(_THREADS)]
        with (
            grpc.insecure_channel(self.service.address, options=_CHANNEL) as channel,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            stub: Any = pb_grpc.RecommenderStub(channel)  # type: ignore[no-untyped-call]

            def visit_all(part: Sequence[str]) -> list[Visit]:
                return [
                    self._visit(stub, phase, number, user)
                    for number in range(visits)
                    for user in part
                ]

            return [visit for done in pool.map(visit_all, parts) for visit in done]

    def model(self) -> str:
        """Return the name of the model that answers now."""
        with grpc.insecure_channel(self.service.address, options=_CHANNEL) as channel:
            stub: Any = pb_grpc.RecommenderStub(channel)  # type: ignore[no-untyped-call]
            # Of no user: such a list is not logged.
            request = pb.RecommendRequest(history=pb.History(items=[]), k=1)
            return str(self._ask(stub.Recommend, request).model)

    def _visit(self, stub: Any, phase: int, number: int, user: str) -> Visit:  # noqa: ANN401
        answer = self._ask(stub.Recommend, pb.RecommendRequest(user=user, k=self.k))
        items = tuple(item.item for item in answer.items)
        truth = self.truth[user]
        random = visit_random(self.seed, phase, number, user)
        clicked = self.clicks.click(items, truth, random)
        expected = float(self.clicks.probabilities(items, truth).sum())
        events = {}
        for position, (item, click) in enumerate(zip(items, clicked, strict=True), start=1):
            for kind in (Kind.SHOWN, Kind.CHOSEN) if click else (Kind.SHOWN,):
                name = f"{phase}/{number}/{user}/{position}/{kind}"
                events[name] = Acknowledged(user, item, kind, position, answer.exposure)
        self._send(stub, events, answer.model)
        own = [item for item, click in zip(items, clicked, strict=True) if click]
        truth.difference_update(own)
        self.chosen.setdefault(user, []).extend(own)
        return Visit(user, answer.model, answer.exposure, items, tuple(clicked), expected)

    def _send(self, stub: Any, events: Mapping[str, Acknowledged], model: str) -> None:  # noqa: ANN401
        request = pb.FeedbackRequest(
            events=[
                pb.Event(
                    id=name,
                    user=event.user,
                    item=event.item,
                    kind=_KINDS[event.kind],
                    exposure=event.exposure,
                    position=event.position,
                    model=model,
                )
                for name, event in events.items()
            ]
        )
        answer = self._ask(stub.Feedback, request)
        assert answer.stored + answer.repeated == len(events)
        with self._lock:
            self.repeated += answer.repeated
            self.acknowledged |= events

    def _ask(self, call: Any, request: Any) -> Any:  # noqa: ANN401 generated code
        """Ask until it is answered."""
        end = time.monotonic() + _PATIENCE
        self.service.count_request()
        while True:
            try:
                return call(request, timeout=_TIMEOUT)
            except grpc.RpcError:
                if time.monotonic() > end:
                    raise
            with self._lock:
                self.attempts += 1
            time.sleep(_WAIT)
