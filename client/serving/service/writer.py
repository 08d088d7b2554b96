"""Feedback of many requests in one transaction, so that one write to disk serves them all.

Events are on disk, and count in the histories, before their request is answered. Lists that were
recommended are written in the background, those of half a second together: a transaction takes
longer than a recommendation. A crash may lose these lists.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from client.data.feedback import Exposure, FeedbackEvent, FeedbackStore, GuardDecision, Stored
from client.logs import Event, Fields, cause, note
from client.serving.service.status import Code, ServiceError
from shared.errors import SiteError

__all__ = ["FeedbackWriter"]

_TOGETHER = 256
"""Requests in one transaction."""
_SECONDS = 0.5
"""How long a recommended list waits for others."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request's events, or a list that was recommended."""

    events: Sequence[FeedbackEvent] = ()
    exposure: Exposure | None = None
    decision: GuardDecision | None = None
    answer: Future[Stored] = field(default_factory=Future)


class FeedbackWriter:
    """The one thread that writes to the store.

    Args:
        store: where to.
        stored: called after each transaction, before its requests are answered.
        most: requests that may wait.
    """

    def __init__(self, store: FeedbackStore, stored: Callable[[], object], most: int) -> None:
        self._store, self._stored = store, stored
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(most)
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="feedback", daemon=True)
        self._thread.start()

    def add(self, events: Sequence[FeedbackEvent]) -> Future[Stored]:
        """Store events; the result is there when they are on disk.

        Raises:
            ServiceError: the queue is full, or the service stops.
        """
        waiting = _Waiting(events)
        if self._closed:
            raise ServiceError(Code.UNAVAILABLE, "the service stops: send it again later.")
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            sentence = "too much feedback is waiting for the disk: send it again later."
            raise ServiceError(Code.RESOURCE_EXHAUSTED, sentence) from None
        return waiting.answer

    def log(self, exposure: Exposure, decision: GuardDecision | None = None) -> bool:
        """Write a recommended list in the background; return False if it had to be left out.

        Args:
            exposure: the list.
            decision: of the wellbeing guard; None for a user whom it does not protect.
        """
        if self._closed:
            return False
        try:
            self._queue.put_nowait(_Waiting(exposure=exposure, decision=decision))
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Write what waits, and end."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        ended = False
        while not ended:
            batch = self._gather()
            ended = None in batch
            self._write([waiting for waiting in batch if waiting is not None])

    def _gather(self) -> list[_Waiting | None]:
        """Return what is to be written now: what waits, or lists of some time together."""
        batch, until = [self._queue.get()], time.monotonic() + _SECONDS
        urgent = batch[0] is None or bool(batch[0].events)
        while len(batch) < _TOGETHER:
            wait = 0.0 if urgent else until - time.monotonic()
            try:
                batch.append(self._queue.get(wait > 0, max(wait, 0.0)))
            except queue.Empty:
                break
            urgent = urgent or batch[-1] is None or bool(batch[-1].events)
        return batch

    def _write(self, batch: Sequence[_Waiting]) -> None:
        requests = [waiting for waiting in batch if waiting.events]
        try:
            if exposures := [one.exposure for one in batch if one.exposure is not None]:
                self._store.add_exposures(exposures)
            if decisions := [one.decision for one in batch if one.decision is not None]:
                self._store.add_decisions(decisions)
            if not requests:
                return
            results = self._store.add([waiting.events for waiting in requests])
        except Exception as error:
            note(Event.FAILED, **cause(error) | Fields(kind="feedback"))
            sentence = "feedback cannot be stored now: send it again later."
            for waiting in requests:
                waiting.answer.set_exception(ServiceError(Code.UNAVAILABLE, sentence))
            return
        try:
            self._stored()
        except Exception as error:
            note(Event.FAILED, **cause(error) | Fields(kind="feedback"))
        for waiting, result in zip(requests, results, strict=True):
            if isinstance(result, SiteError):
                conflict = ServiceError(Code.ALREADY_EXISTS, str(result))
                waiting.answer.set_exception(conflict)
            else:
                waiting.answer.set_result(result)
