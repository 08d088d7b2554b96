"""Ask every organisation for the same thing, and collect valid replies until there is a quorum.

Used for a round of training, for each statistic of a warm start, and (without a quorum) for noised
metrics. `server.rounds.requests` says what is asked, `server.rounds.replies` checks the replies.

The outcomes, and which of them are retried, stand in the table of `server.rounds.replies`.

A retry sends the same request again: a partner that has answered it sends its kept answer and pays
nothing. Partners whose reply was valid, or whose outcome is final, are not asked again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server.aggregation.quorum import quorum_size
from server.rounds.collection_report import CollectionReport, Verdict
from server.rounds.grid import PatientGrid
from server.rounds.participants import Partner
from shared.config import ServerConfig
from shared.errors import QuorumError, ReplyError
from shared.messages import Request, traffic
from shared.outcomes import Outcome

__all__ = [
    "MAX_REASON",
    "Collection",
    "CollectionBase",
    "CollectionSpec",
    "LookUp",
    "Memory",
    "OnMiss",
    "SumSpec",
]

log = logging.getLogger("sotto.server")
MAX_REASON = 300
"""Characters: a reason may quote a part of the reply."""
Value = TypeVar("Value")
LookUp = Callable[[Grid], Sequence[Partner]]
"""Returns the organisations that take part now, connected or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumSpec(Generic[Value]):
    """The same question where only the sum of the answers is known (`server.rounds.parts`).

    Attributes:
        request: whose answers are summed.
        length: how many numbers an answer has.
        part: returns the equal part that each partner in the sum counts with, from the sum in steps
            of the grid; or raises ReplyError.
    """

    request: Request
    length: int
    part: Callable[[NDArray[np.int64], Sequence[Partner]], Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec(Generic[Value]):
    """What is asked for, and how a reply is checked.

    Attributes:
        name: in messages and log lines, for instance "round 3"; no two requests of a run have the
            same kind and name.
        round: of training, 1-based; 0 for what precedes the first round.
        kind: Flower's message type.
        content: of every request.
        check: returns the value of a reply, or raises ReplyError.
        digest: of a value, to detect an answer to an earlier request; "" where equal values are
            legitimate.
        sum: the same under secure aggregation; None for what is never summed.
    """

    name: str
    round: int
    kind: str
    content: RecordDict
    check: Callable[[Message, Partner], Value]
    digest: Callable[[Value], str] = lambda _: ""
    sum: SumSpec[Value] | None = None


OnMiss = Callable[[CollectionReport], None]
"""Called after an attempt with too few valid replies, before the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a collection must know of those before it.

    Attributes:
        answers: digest of each organisation's last valid value, where it has one.
        unanswered: organisations by the ids of messages that they have not answered.
    """

    answers: Mapping[str, str] = field(default_factory=dict)
    unanswered: Mapping[str, str] = field(default_factory=dict)


class CollectionBase(Generic[Value]):
    """What every collection in progress keeps, with its report.

    Args:
        spec: what is asked for.
        config: quorum, deadline and retries.
        memory: of the collections before.
    """

    def __init__(self, spec: CollectionSpec[Value], config: ServerConfig, memory: Memory) -> None:
        self._spec, self._server, self._memory = spec, config, memory
        self._asked: dict[str, Partner] = {}  # by message id
        self._answered: set[str] = set()
        self._valid: dict[str, tuple[Partner, Value]] = {}
        self._digests: dict[str, str] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._late: set[str] = set()
        self._started, self._attempts, self._up, self._down = time.monotonic(), 0, 0, 0

    @property
    def valid(self) -> list[tuple[Partner, Value]]:
        """Checked values, sorted by organisation: floating-point sums depend on the order."""
        return [self._valid[name] for name in sorted(self._valid)]

    @property
    def memory(self) -> Memory:
        """What the next collection must know."""
        asked = {number: partner.organisation for number, partner in self._asked.items()}
        return Memory(
            answers={**self._memory.answers, **self._digests},
            unanswered={
                number: name
                for number, name in {**self._memory.unanswered, **asked}.items()
                if number not in self._answered
            },
        )

    @property
    def report(self) -> CollectionReport:
        """The result so far."""
        return CollectionReport(
            name=self._spec.name,
            round=self._spec.round,
            attempts=self._attempts,
            needed=self._needed,
            verdicts={name: self._verdicts[name] for name in sorted(self._verdicts)},
            late=tuple(sorted(self._late)),
            seconds=time.monotonic() - self._started,
            bytes_up=self._up,
            bytes_down=self._down,
        )

    @property
    def _organisations(self) -> int:
        """How many take part, as far as it is known yet."""
        return len({partner.organisation for partner in self._asked.values()})

    @property
    def _needed(self) -> int:
        return quorum_size(self._server, max(self._organisations, self._server.organisations))

    def _take_late(self, number: str, reply: Message) -> None:
        """Count an answer to an earlier collection, which came too late for it."""
        if number in self._memory.unanswered and reply.has_content():
            self._late.add(self._memory.unanswered[number])


class Collection(CollectionBase[Value]):
    """A collection of each organisation's own answer, in progress."""

    def __init__(self, spec: CollectionSpec[Value], config: ServerConfig, memory: Memory) -> None:
        super().__init__(spec, config, memory)
        self._sent: list[tuple[Partner, Message]] = []

    def collect(self, grid: Grid, look_up: LookUp, on_miss: OnMiss) -> None:
        """Ask, and ask again until there is a quorum.

        Raises:
            QuorumError: too few replies were valid in every attempt.
        """
        self._attempt(grid, look_up)
        self.retry_until_quorum(grid, look_up, on_miss)

    def retry_until_quorum(self, grid: Grid, look_up: LookUp, on_miss: OnMiss) -> None:
        """Ask again while there is no quorum; each wait is twice the one before.

        Raises:
            QuorumError: too few replies were valid in every attempt.
        """
        for retry in range(self._server.retries):
            if self.has_quorum or self.hopeless:
                break
            on_miss(self.report)
            time.sleep(self._server.retry_seconds * 2**retry)
            self._attempt(grid, look_up)
        if not self.has_quorum:
            raise _no_quorum(self.report)
        if failures := self.report.failures:
            log.warning("%s goes on without %s", self._spec.name, failures)

    def requests(self, grid: Grid, partners: Iterable[Partner]) -> list[Message]:
        """Return the requests of the next attempt; none if late replies have made a quorum."""
        if isinstance(grid, PatientGrid):
            self.take(grid.late_replies())
        return [] if self.has_quorum else self._next_requests(partners)

    def take(self, replies: Iterable[Message]) -> None:
        """Check and count replies, each by the request that it answers."""
        for partner, message in self._sent:  # the grid sets the ids as it sends them
            self._asked[message.metadata.message_id] = partner
        for reply in replies:
            number = reply.metadata.reply_to_message_id
            self._answered.add(number)
            # Not by source: for a node that is gone Flower answers itself, as another node.
            if number in self._asked:
                self._up += traffic(reply)
                self._count(self._asked[number], reply)
            else:
                self._take_late(number, reply)

    @property
    def has_quorum(self) -> bool:
        """Whether there are enough valid replies."""
        return len(self._valid) >= self._needed

    @property
    def hopeless(self) -> bool:
        """Whether no retry can make a quorum: too many organisations have a final outcome."""
        passing = sum(verdict.outcome.retryable for verdict in self._verdicts.values())
        return len(self._valid) + passing < self._needed

    def _attempt(self, grid: Grid, look_up: LookUp) -> None:
        messages = self.requests(grid, look_up(grid))
        self.take(grid.send_and_receive(messages, timeout=self._server.deadline_seconds))

    def _next_requests(self, partners: Iterable[Partner]) -> list[Message]:
        self._attempts += 1
        self._sent = []
        for partner in partners:
            name = partner.organisation
            verdict = self._verdicts.get(name)
            if verdict is not None and not verdict.outcome.retryable:
                continue
            if not partner.connected:
                self._verdicts[name] = Verdict(Outcome.ABSENT, "its node is not connected")
                continue
            self._verdicts[name] = Verdict(Outcome.MISSING, "no reply before the deadline")
            self._sent.append((partner, self._message(partner)))
        self._down += sum(traffic(message) for _, message in self._sent)
        return [message for _, message in self._sent]

    def _message(self, partner: Partner) -> Message:
        spec = self._spec
        return Message(spec.content, partner.node_id, spec.kind, group_id=spec.name)

    def _count(self, partner: Partner, reply: Message) -> None:
        name = partner.organisation
        if name in self._valid:  # of several replies the first counts
            return
        try:
            value, digest = self._checked(reply, partner)
        except ReplyError as error:
            self._verdicts[name] = Verdict(error.outcome, str(error)[:MAX_REASON])
            return
        self._valid[name] = (partner, value)
        self._verdicts[name] = Verdict(Outcome.VALID)
        if digest:
            self._digests[name] = digest

    def _checked(self, reply: Message, partner: Partner) -> tuple[Value, str]:
        """Return the value of a reply and its digest, if it is not an earlier answer again."""
        value = self._spec.check(reply, partner)
        digest = self._spec.digest(value)
        if digest and digest == self._memory.answers.get(partner.organisation):
            raise ReplyError(Outcome.STALE, "the same bytes as its answer to an earlier round")
        return value, digest


def _no_quorum(report: CollectionReport) -> QuorumError:
    return QuorumError(
        f"{report.name} has {report.valid} valid replies of {len(report.verdicts)}, "
        f"{report.needed} are needed ({report.failures or 'no organisation is connected'}), after "
        f"{report.attempts} attempts. Finished rounds are saved, and no partner pays twice: "
        "correct the cause and resume, or resume with a smaller quorum: sotto-server resume RUN "
        "--quorum SHARE"
    )
