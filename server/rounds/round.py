"""One round: who was asked, what came back over all attempts, and how each part in it counts.

| what came                                                       | outcome                        |
|-----------------------------------------------------------------|--------------------------------|
| a change that may be aggregated                                 | valid                          |
| nothing before the deadline                                     | missing                        |
| the same, and then an answer after the round                    | late, told with the next round |
| nothing, for its node is not connected                          | absent                         |
| an error of Flower's: the app raised, or its process died       | failed                         |
| a refusal of ours                                               | refused-..., by its code       |
| another form, other names or shapes, NaN or infinity, too long  | malformed, wrong-shape,        |
|                                                                 | not-finite, too-long           |
| the same bytes as this organisation's answer to an earlier round| stale                          |

A retry asks for the same (run, round): a partner that has answered sends its kept answer again,
and pays nothing. Those whose reply was valid, or will not change, are not asked again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from server.aggregation.quorum import quorum_size
from server.rounds.participants import Partner
from server.rounds.replies import checked_change
from shared.config import ServerConfig
from shared.errors import Outcome, ReplyError
from shared.messages import TRAIN, TrainRequest, Weights, traffic

__all__ = ["Memory", "Round", "RoundReport", "Verdict"]

LONGEST_REASON = 300
"""Characters: a reason may name a part of the reply."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an organisation's part in a round counts.

    Attributes:
        outcome: the count.
        reason: in our own words; "" where the outcome says it all.
    """

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What became of a round, or of an attempt at it.

    Attributes:
        number: 1-based.
        attempts: how often it was asked for so far.
        needed: valid replies that make it a round.
        verdicts: by organisation.
        late: organisations that answered an earlier round after it was over.
        seconds: since the first request.
        bytes_up: arrays received.
        bytes_down: arrays sent.
    """

    number: int
    attempts: int
    needed: int
    verdicts: Mapping[str, Verdict]
    late: tuple[str, ...]
    seconds: float
    bytes_up: int
    bytes_down: int

    @property
    def valid(self) -> int:
        """How many replies were valid."""
        return sum(verdict.outcome is Outcome.VALID for verdict in self.verdicts.values())

    @property
    def failures(self) -> str:
        """Who failed and why, for people."""
        return "; ".join(
            f"{name}: {verdict.reason}"
            for name, verdict in self.verdicts.items()
            if verdict.outcome is not Outcome.VALID
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a round must know of those before it.

    Attributes:
        answers: SHA-256 of each organisation's last valid change. There is none of a change that
            is 0 all over: without noise an empty batch gives that, and may give it again.
        unanswered: organisations by the numbers of messages that they never answered.
    """

    answers: Mapping[str, str] = field(default_factory=dict)
    unanswered: Mapping[str, str] = field(default_factory=dict)


class Round:
    """A round in progress.

    Args:
        request: what every partner is asked.
        config: quorum, aggregation rule and norm bound.
        memory: of the rounds before.
    """

    def __init__(self, request: TrainRequest, config: ServerConfig, memory: Memory) -> None:
        self.request, self._config, self._memory = request, config, memory
        self._content = request.to_content()
        self._sent: list[tuple[Partner, Message]] = []
        self._asked: dict[str, Partner] = {}
        self._answered: set[str] = set()
        self._valid: dict[str, tuple[Partner, Weights, str]] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._late: set[str] = set()
        self._started, self._attempts, self._up, self._down = time.monotonic(), 0, 0, 0

    def ask(self, partners: Iterable[Partner]) -> list[Message]:
        """Requests to all whose answer is wanted: at first everybody who is connected."""
        self._attempts += 1
        self._sent = []
        for partner in partners:
            name = partner.organisation
            verdict = self._verdicts.get(name)
            if verdict is not None and not verdict.outcome.passing:
                continue
            if not partner.connected:
                self._verdicts[name] = Verdict(Outcome.ABSENT, "its node is not connected")
                continue
            self._verdicts[name] = Verdict(Outcome.MISSING, "no reply before the deadline")
            self._sent.append((partner, self._message(partner)))
        self._down += sum(traffic(message) for _, message in self._sent)
        return [message for _, message in self._sent]

    def take(self, replies: Iterable[Message]) -> None:
        """Counts what came, each by the request that it answers."""
        for partner, message in self._sent:  # numbered by the grid as it sends them
            self._asked[message.metadata.message_id] = partner
        for reply in replies:
            number = reply.metadata.reply_to_message_id
            self._answered.add(number)
            # By the message answered: an error reply for a dead node carries another source.
            if number in self._asked:
                self._up += traffic(reply)
                self._count(self._asked[number], reply)
            elif number in self._memory.unanswered and reply.has_content():
                self._late.add(self._memory.unanswered[number])

    @property
    def enough(self) -> bool:
        """Whether there are as many valid replies as it takes."""
        return len(self._valid) >= self._needed

    @property
    def hopeless(self) -> bool:
        """Whether no further attempt can help: too many have given their last answer to it."""
        passing = sum(verdict.outcome.passing for verdict in self._verdicts.values())
        return len(self._valid) + passing < self._needed

    @property
    def valid(self) -> list[tuple[Partner, Weights]]:
        """Checked changes, by organisation: floating-point sums depend on the order."""
        return [self._valid[name][:2] for name in sorted(self._valid)]

    @property
    def memory(self) -> Memory:
        """What the next round must know."""
        answers = {name: digest for name, (_, _, digest) in self._valid.items() if digest}
        asked = {number: partner.organisation for number, partner in self._asked.items()}
        return Memory(
            answers={**self._memory.answers, **answers},
            unanswered={
                number: name
                for number, name in {**self._memory.unanswered, **asked}.items()
                if number not in self._answered
            },
        )

    @property
    def report(self) -> RoundReport:
        """What has become of it so far."""
        return RoundReport(
            number=self.request.round,
            attempts=self._attempts,
            needed=self._needed,
            verdicts={name: self._verdicts[name] for name in sorted(self._verdicts)},
            late=tuple(sorted(self._late)),
            seconds=time.monotonic() - self._started,
            bytes_up=self._up,
            bytes_down=self._down,
        )

    @property
    def _needed(self) -> int:
        asked = {partner.organisation for partner in self._asked.values()}
        total = max(len(asked), self._config.organisations)
        return quorum_size(self._config, total)

    def _message(self, partner: Partner) -> Message:
        return Message(self._content, partner.node_id, TRAIN, group_id=str(self.request.round))

    def _count(self, partner: Partner, reply: Message) -> None:
        name = partner.organisation
        if name in self._valid:  # of several replies the first counts
            return
        try:
            change, digest = self._checked(reply, self._memory.answers.get(name))
        except ReplyError as error:
            self._verdicts[name] = Verdict(error.outcome, str(error)[:LONGEST_REASON])
            return
        self._valid[name] = (partner, change, digest)
        self._verdicts[name] = Verdict(Outcome.VALID)

    def _checked(self, reply: Message, before: str | None) -> tuple[Weights, str]:
        """The change and its digest, if they are not those of an earlier round."""
        change = checked_change(
            reply, like=self.request.weights, max_norm=self._config.max_update_norm
        )
        digest = _digest(change)
        if digest and digest == before:
            raise ReplyError(Outcome.STALE, "the same bytes as its answer to an earlier round")
        return change, digest


def _digest(change: Weights) -> str:
    if not any(value.any() for value in change.values()):
        return ""
    digest = hashlib.sha256()
    for name in sorted(change):
        digest.update(name.encode() + b"\0" + change[name].tobytes())
    return digest.hexdigest()
