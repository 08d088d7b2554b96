"""What the service does: each operation once, whichever transport asks for it.

Requests and responses are the messages of `recommender.proto`. A request that cannot be answered
raises a `ServiceError` with a code and a sentence; nothing else leaves an operation.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from client.data.feedback import Exposure, FeedbackEvent, GuardDecision
from client.data.interactions import Kind
from client.logs import Event, Fields, cause, note
from client.serving.explanation import Explanation
from client.serving.guarded import Pool, pools
from client.serving.named_items import Filters
from client.serving.service import recommender_pb2 as pb
from client.serving.service.admission import Admission
from client.serving.service.current import Loaded
from client.serving.service.guarding import GuardedList, ListGuard, plain_list
from client.serving.service.metrics import ServiceMetrics
from client.serving.service.status import Code, ServiceError
from client.serving.service.writer import FeedbackWriter
from shared.data.histories import Histories
from shared.data.ids import MISSING, canonical_id, inexact_id
from shared.errors import RequestError, SottoError

__all__ = ["MOST_EVENTS", "Operations", "Timing"]

MOST_EVENTS, MOST_ITEMS, LONGEST_ID = 1000, 10_000, 200
"""Events in a request; items in a history or a filter; characters of an id."""
_DEFAULT_K = 10
_EARLIEST, _DAY = 10**14, 86_400 * 10**6
"""Microseconds since 1970: times before 1973 are in another unit."""
_MISSING = frozenset(text.casefold() for text in MISSING)
_KINDS = {
    pb.SHOWN: Kind.SHOWN,
    pb.CLICKED: Kind.CLICKED,
    pb.CHOSEN: Kind.CHOSEN,
    pb.DISMISSED: Kind.DISMISSED,
    pb.RATED: Kind.RATED,
}


class _InUse(Protocol):
    """What `client.serving.service.current` keeps."""

    @property
    def loaded(self) -> Loaded:
        """What is in use now."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request came from, and until when it can be answered.

    Attributes:
        transport: "grpc" or "http".
        seconds: until the deadline.
    """

    transport: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Question:
    """A request that was read: what its history is, and what is asked."""

    place: int
    user: str
    numbers: list[int]
    k: int
    filters: Filters
    explain: bool
    wish: bool | None = None
    query: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


class Operations:
    """The four operations.

    Args:
        current: model, catalogue and histories.
        admission: the queue and the threads.
        writer: of feedback; None where none is kept.
        metrics: where requests are counted.
        guard: decides on lists of users at risk of over-use, and knows their sessions.
    """

    def __init__(
        self,
        current: _InUse,
        admission: Admission,
        writer: FeedbackWriter | None,
        metrics: ServiceMetrics,
        guard: ListGuard,
    ) -> None:
        self._current, self._admission, self._guard = current, admission, guard
        self._writer, self._metrics = writer, metrics

    async def recommend(self, request: pb.RecommendRequest, at: Timing) -> pb.RecommendResponse:
        """Recommend to one user or history.

        Raises:
            ServiceError: it cannot be answered.
        """
        async with self._measured("recommend", at):
            work = partial(self._recommend, [request])
            [response] = await self._admission.run(work, at.seconds)
            if response.HasField("error"):
                raise ServiceError(Code[response.error.code], response.error.message)
            return response

    async def recommend_batch(
        self, requests: Sequence[pb.RecommendRequest], at: Timing
    ) -> list[pb.RecommendResponse]:
        """Recommend to many; a request that is refused has its `error`.

        Raises:
            ServiceError: none can be answered.
        """
        async with self._measured("recommend_batch", at):
            return await self._admission.run(partial(self._recommend, requests), at.seconds)

    async def similar(self, request: pb.SimilarRequest, at: Timing) -> pb.RecommendResponse:
        """List items that are like others.

        Raises:
            ServiceError: it cannot be answered.
        """
        async with self._measured("similar", at):
            return await self._admission.run(partial(self._similar, request), at.seconds)

    async def feedback(self, request: pb.FeedbackRequest, at: Timing) -> pb.FeedbackResponse:
        """Store events; they are on disk, and count, when this returns.

        Raises:
            ServiceError: nothing of it is stored.
        """
        async with self._measured("feedback", at):
            if self._writer is None:
                raise ServiceError(Code.UNAVAILABLE, "this service keeps no feedback.")
            events = _read_events(request)
            loaded = self._current.loaded
            answer = asyncio.wrap_future(self._writer.add(events))
            try:
                # Given up or not, the events are stored: their ids make a repetition harmless.
                result = await asyncio.wait_for(asyncio.shield(answer), at.seconds)
            except TimeoutError:
                sentence = "the disk did not answer in time: send the same events again."
                raise ServiceError(Code.DEADLINE_EXCEEDED, sentence) from None
            self._guard.use(events)
            for event in events if result.stored else ():
                self._metrics.feedback.labels(event.kind).inc()
            unknown = sum(not loaded.histories.knows(event.item) for event in events)
            return pb.FeedbackResponse(
                stored=result.stored,
                repeated=result.repeated,
                unknown_items=unknown if result.stored else 0,
            )

    @asynccontextmanager
    async def _measured(self, operation: str, at: Timing) -> AsyncIterator[None]:
        """Count and time an operation, and let nothing but a `ServiceError` leave it."""
        begin, code = time.perf_counter(), "OK"
        try:
            yield
        except ServiceError as error:
            code = error.code.name
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            code = Code.INTERNAL.name
            note(Event.FAILED, **cause(error) | Fields(kind=operation))
            raise ServiceError(
                Code.INTERNAL, "a fault of this service, which its log names; ask again later."
            ) from None
        finally:
            self._metrics.requests.labels(operation, at.transport, code).inc()
            self._metrics.seconds.labels(operation).observe(time.perf_counter() - begin)

    # --- in a thread of `Admission` ------------------------------------------------------------

    def _recommend(self, requests: Sequence[pb.RecommendRequest]) -> list[pb.RecommendResponse]:
        loaded = self._current.loaded
        rerank = str(loaded.rerank) if loaded.rerank.changes else ""
        responses = [
            pb.RecommendResponse(model=loaded.model, request_id=request.request_id, rerank=rerank)
            for request in requests
        ]
        together: dict[Hashable, list[_Question]] = defaultdict(list)
        for place, request in enumerate(requests):
            try:
                question = _read_question(place, request, loaded)
                alike = (question.k, question.filters, question.query, question.attributes)
                together[alike].append(question)
            except (ServiceError, RequestError) as error:
                _refuse(responses[place], error)
        for questions in together.values():
            self._answer_alike(questions, loaded, responses)
        return responses

    def _answer_alike(
        self, questions: Sequence[_Question], loaded: Loaded, responses: list[pb.RecommendResponse]
    ) -> None:
        """Answer questions with the same k, filters and query in one pass."""
        first = questions[0]
        histories = Histories.from_lists(
            [question.numbers for question in questions], [question.user for question in questions]
        )
        try:
            asked = loaded.recommender.for_query(first.query, dict(first.attributes))
            loaded = replace(loaded, recommender=asked)
            lists = loaded.recommender.rank_many(
                histories, first.k, filters=first.filters, rerank=loaded.rerank
            )
            protection, found = loaded.protection, dict[int, Pool]()
            if protection is not None:
                protected = [
                    row
                    for row, one in enumerate(questions)
                    if one.user and protection.protects(one.user, one.wish)
                ]
                found = pools(
                    protection, loaded.recommender, histories, lists, protected, first.filters
                )
            for row, question in enumerate(questions):
                if protection is not None and row in found:
                    listed = self._guard.decide(protection, question.user, found[row])
                else:
                    listed = plain_list(lists, row)
                self._fill(responses[question.place], question, loaded, listed)
        except (ServiceError, SottoError) as error:
            if len(questions) == 1:
                _refuse(responses[first.place], error)
                return
            for question in questions:  # one of them is at fault
                self._answer_alike([question], loaded, responses)

    def _fill(
        self,
        response: pb.RecommendResponse,
        question: _Question,
        loaded: Loaded,
        listed: GuardedList,
    ) -> None:
        del response.items[:]
        ids, catalogue = listed.ids, loaded.recommender.catalogue
        numbers = ids.tolist()
        for rank, (number, score) in enumerate(
            zip(numbers, listed.scores.tolist(), strict=True), 1
        ):
            response.items.add(
                rank=rank,
                item=catalogue.item_ids[number - 1],
                title=catalogue.titles[number - 1],
                score=score,
            )
        if question.explain and numbers:
            reasons = loaded.recommender.explain(question.numbers, ids, user=question.user)
            for item, reason in zip(response.items, reasons, strict=True):
                item.explanation.CopyFrom(_explanation(reason))
            if listed.ranks is not None:
                for item, rank in zip(response.items, listed.ranks.tolist(), strict=True):
                    item.rank_by_score = rank
        if listed.message is not None:
            response.wellbeing.CopyFrom(listed.message)
            for measure in listed.message.measures:
                self._metrics.measures.labels(measure.name).inc()
        if numbers:
            self._metrics.popularity.observe(float(loaded.histories.shares[ids].mean()))
        elif listed.message is None:
            self._metrics.empty.inc()
        if question.user and self._writer is not None:
            self._log(response, question.user, listed.log)

    def _log(self, response: pb.RecommendResponse, user: str, decided: str) -> None:
        """Write down what was recommended to a user, and what the guard decided, if it did."""
        assert self._writer is not None
        exposure = Exposure(
            id=secrets.token_hex(8),
            user=user,
            time=time.time_ns() // 1000,
            model=response.model,
            items=tuple(item.item for item in response.items),
            scores=tuple(item.score for item in response.items),
        )
        response.exposure = exposure.id
        decision = GuardDecision(id=exposure.id, user=user, time=exposure.time, text=decided)
        logged = self._writer.log(exposure, decision if decided else None)
        if not logged:
            self._metrics.unlogged.inc()

    def _similar(self, request: pb.SimilarRequest) -> pb.RecommendResponse:
        loaded = self._current.loaded
        k = request.k if request.HasField("k") else _DEFAULT_K
        _check_lists(request.items)
        try:
            found = loaded.recommender.similar(
                list(request.items), k, filters=_read_filters(request.filters)
            )
        except SottoError as error:
            raise ServiceError(Code.INVALID_ARGUMENT, str(error)) from None
        response = pb.RecommendResponse(model=loaded.model, request_id=request.request_id)
        for item in found:
            response.items.add(rank=item.rank, item=item.item, title=item.title, score=item.score)
        return response


def _read_question(place: int, request: pb.RecommendRequest, loaded: Loaded) -> _Question:
    """Read a request: its history as internal ids, and its filters.

    Raises:
        ServiceError: it has neither user nor history, or the user is unknown.
        RequestError: an item of the history is not in the catalogue.
    """
    filters, user = _read_filters(request.filters), ""
    whom = request.WhichOneof("whom")
    wish = _read_wish(request, whom == "user", loaded)
    if whom == "user":
        user = canonical_id(_checked_id("user", request.user))
        found = loaded.histories.find(user)
        if found is None and not request.allow_unknown_user:
            raise ServiceError(
                Code.NOT_FOUND,
                f"user {request.user!r} has no history here: send one as `history`, or set "
                "`allow_unknown_user`.",
            )
        numbers = found or []
        if dismissed := loaded.histories.dismissed(user):
            filters = Filters(
                filters.exclude_seen, filters.allow, filters.deny | dismissed, filters.categories
            )
    elif whom == "history":
        _check_lists(request.history.items)
        numbers = loaded.histories.locate(request.history.items, skip_unknown=request.skip_unknown)
    else:
        sentence = "name a `user`, or give a `history`, which may be empty."
        raise ServiceError(Code.INVALID_ARGUMENT, sentence)
    k = request.k if request.HasField("k") else _DEFAULT_K
    declared = tuple(sorted(request.attributes.items())) if request.query.strip() else ()
    return _Question(
        *(place, user, numbers, k, filters, request.explain, wish, request.query, declared)
    )


def _read_wish(request: pb.RecommendRequest, of_user: bool, loaded: Loaded) -> bool | None:
    """Return whether the user opts in or out; None for neither.

    Raises:
        ServiceError: a wish that this service cannot fulfil.
    """
    if not request.HasField("wellbeing"):
        return None
    if not of_user:
        sentence = "`wellbeing` is of a `user`: name one, or leave it out."
        raise ServiceError(Code.INVALID_ARGUMENT, sentence)
    if request.wellbeing and loaded.protection is None:
        sentence = "this service has no wellbeing guard: set [wellbeing], or leave `wellbeing` out."
        raise ServiceError(Code.INVALID_ARGUMENT, sentence)
    return request.wellbeing


def _read_filters(filters: pb.Filters) -> Filters:
    _check_lists(filters.allow, filters.deny, filters.categories)
    return Filters(
        exclude_seen=not filters.include_seen,
        allow=frozenset(filters.allow) if filters.allow else None,
        deny=frozenset(filters.deny),
        categories=frozenset(filters.categories),
    )


def _check_lists(*lists: Sequence[str]) -> None:
    if any(len(items) > MOST_ITEMS for items in lists):
        sentence = f"a list has more than {MOST_ITEMS:,} items: give fewer."
        raise ServiceError(Code.INVALID_ARGUMENT, sentence)


def _checked_id(name: str, text: str) -> str:
    """Return an id; refuse what reading it from a source would refuse."""
    form = canonical_id(text)
    if not form or len(text) > LONGEST_ID:
        problem = f"`{name}` must have 1 to {LONGEST_ID} characters."
    elif form.casefold() in _MISSING:
        problem = f"`{name}` is {text!r}, which is a spelling of a missing value."
    elif inexact_id(text):
        problem = f"`{name}` is {text!r}, a rounded number: send ids as whole numbers or as text."
    else:
        return text
    raise ServiceError(Code.INVALID_ARGUMENT, problem)


def _read_events(request: pb.FeedbackRequest) -> list[FeedbackEvent]:
    """Check and read all events of a request.

    Raises:
        ServiceError: one of them, which is named by its place from 0, is not as it must be.
    """
    if not 1 <= len(request.events) <= MOST_EVENTS:
        sentence = f"a request has {len(request.events):,} events: send 1 to {MOST_EVENTS:,}."
        raise ServiceError(Code.INVALID_ARGUMENT, sentence)
    now = time.time_ns() // 1000
    events = []
    for place, event in enumerate(request.events):
        try:
            events.append(_read_event(event, now))
        except ServiceError as error:
            sentence = f"events[{place}]: {error.sentence} Nothing of this request was stored."
            raise ServiceError(error.code, sentence) from None
    return events


def _read_event(event: pb.Event, now: int) -> FeedbackEvent:
    def refuse(unless: bool, sentence: str) -> None:
        if not unless:
            raise ServiceError(Code.INVALID_ARGUMENT, sentence)

    kind = _KINDS.get(event.kind)
    known = ", ".join(pb.EventKind.Name(number) for number in _KINDS)
    refuse(kind is not None, f"`kind` must be one of {known}.")
    assert kind is not None
    event_id, user, item = (
        _checked_id(name, getattr(event, name)) for name in ("id", "user", "item")
    )
    moment = event.time if event.HasField("time") else now
    refuse(
        _EARLIEST <= moment <= now + _DAY,
        f"`time` is {moment}: give microseconds since 1970 in UTC, not in the future.",
    )
    rating = event.rating if event.HasField("rating") else None
    refuse(
        (rating is not None) == (kind is Kind.RATED), "`rating` belongs to RATED, and only there."
    )
    refuse(rating is None or math.isfinite(rating), "`rating` is not a finite number.")
    position = event.position if event.HasField("position") else None
    refuse(position is None or position >= 1, "`position` counts from 1.")
    for name in ("exposure", "model"):
        length = len(getattr(event, name))
        refuse(length <= LONGEST_ID, f"`{name}` has over {LONGEST_ID} characters.")
    return FeedbackEvent(
        id=event_id,
        user=canonical_id(user),
        item=canonical_id(item),
        kind=kind,
        time=moment,
        rating=rating,
        exposure=event.exposure,
        position=position,
        model=event.model,
    )


def _explanation(reason: Explanation) -> pb.Explanation:
    """Return an explanation as a message, with the events that matter most first."""
    ordered = sorted(reason.events, key=lambda event: -event.difference)
    return pb.Explanation(
        sentence=reason.sentence,
        reasons=[
            pb.Reason(
                item=event.item,
                title=event.title,
                difference=event.difference,
                attention=event.attention,
            )
            for event in ordered
        ],
        popularity=reason.popularity,
        federated=reason.federated,
        home=reason.home,
    )


def _refuse(response: pb.RecommendResponse, error: Exception) -> None:
    code = error.code if isinstance(error, ServiceError) else Code.INVALID_ARGUMENT
    if isinstance(error, SottoError) and not isinstance(error, RequestError):
        code = Code.INTERNAL
    del response.items[:]
    response.error.code, response.error.message = code.name, str(error)
