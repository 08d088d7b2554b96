"""One attempt at a sum under secure aggregation: what is asked in each step, and of whom.

The arithmetic is `shared.secure_aggregation.coordinator`; here are the messages. The state of an
attempt need not outlive this process: a coordinator that is killed makes a new attempt, with a
higher number and new keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flwr.app import Message, RecordDict

from server.rounds.participants import Partner
from server.rounds.parts import Points
from server.rounds.replies import reply_content
from shared.errors import ReplyError, SecureAggregationError, WireError
from shared.messages import (
    AGGREGATE,
    LARGEST_STEP,
    MASKED_STEP,
    AggregateReply,
    AggregateRequest,
    Request,
    largest_masked_input,
    request_digest,
    summed_kind,
)
from shared.outcomes import Outcome
from shared.secure_aggregation.coordinator import Coordinator
from shared.secure_aggregation.messages import (
    Aggregation,
    EncryptedShares,
    Invitation,
    KeyAdvertisement,
    MaskedInput,
    Participant,
    SurvivorSignature,
    UnmaskingShares,
)
from shared.secure_aggregation.parameters import Parameters

__all__ = ["Question", "SumAttempt"]


class _Encoded(Protocol):
    def to_bytes(self) -> bytes:
        """Return the message's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is summed, in one attempt.

    Attributes:
        name: of the collection, for messages.
        request: whose answers are summed.
        length: how many numbers an answer has.
        number: of the attempt.
        parameters: how many take part, may collude and may drop out.
    """

    name: str
    request: Request
    length: int
    number: int
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class _Step:
    """What is sent to a partner, the form of its answer, and the machine's method for it."""

    message: Callable[[Coordinator, str], _Encoded]
    form: Any
    receive: str


_STEPS: Mapping[int, _Step] = {
    1: _Step(lambda one, _: one.invitation, KeyAdvertisement, "receive_keys"),
    2: _Step(lambda one, _: one.key_list(), EncryptedShares, "receive_shares"),
    3: _Step(lambda one, name: one.delivery(name), MaskedInput, "receive_masked"),
    4: _Step(lambda one, _: one.survivors(), SurvivorSignature, "receive_signature"),
    5: _Step(lambda one, _: one.proof(), UnmaskingShares, "receive_unmasking"),
}


class SumAttempt:
    """An attempt in progress.

    Args:
        question: what is summed.
        partners: that are invited, each with its aggregation key.
    """

    def __init__(self, question: Question, partners: Sequence[Partner]) -> None:
        self._question = question
        self._digest = request_digest(question.request)
        self._content: RecordDict | None = None  # of the request, which goes to all
        participants = sorted((p.organisation, p.aggregation_key) for p in partners)
        self._machine = Coordinator(
            Invitation(
                aggregation=Aggregation(
                    federation=question.request.catalogue,
                    run=question.request.run,
                    round=question.number,
                    request=self._digest,
                    length=question.length,
                ),
                participants=tuple(Participant(*pair) for pair in participants),
                threshold=question.parameters.threshold,
                dropouts=question.parameters.dropouts,
            )
        )
        self._survivors: tuple[str, ...] = ()

    @property
    def survivors(self) -> tuple[str, ...]:
        """The organisations whose masked inputs are in the sum; none before they are counted."""
        return self._survivors

    @property
    def faulty(self) -> tuple[str, ...]:
        """The organisations whose shares did not fit the others'."""
        return self._machine.faulty

    def begin(self, step: int) -> tuple[str, ...]:
        """Close the step before, and return whom this step is asked of.

        Raises:
            TooFewPartners: the step before has too few answers.
        """
        machine = self._machine
        if step == MASKED_STEP + 1:
            survivors = machine.present
            machine.survivors()
            self._survivors = survivors
        elif step == MASKED_STEP:
            machine.delivery(machine.present[0] if machine.present else "")
        elif step > 1:
            _STEPS[step].message(machine, "")
        return machine.expected

    def missing(self, step: int) -> int:
        """Return how many answers this step still lacks, >= 0."""
        parameters = self._question.parameters
        least = parameters.threshold
        if step <= MASKED_STEP:
            least = max(least, parameters.fewest_survivors)
        return max(0, least - len(self._machine.present))

    def has_answered(self, name: str) -> bool:
        """Return whether an organisation's answer to the current step has come."""
        return name in self._machine.present

    def message(self, step: int, partner: Partner) -> Message:
        """Return what a partner is asked in a step that has begun."""
        question, name = self._question, partner.organisation
        request = AggregateRequest(
            run=question.request.run,
            attempt=question.number,
            kind=summed_kind(question.request),
            step=step,
            message=_STEPS[step].message(self._machine, name).to_bytes(),
            request=question.request if step == MASKED_STEP else None,
        )
        if self._content is None and step == MASKED_STEP:
            self._content = question.request.to_content()
        content = request.to_content(self._content)
        group = f"{question.name}, attempt {question.number}, step {step}"
        return Message(content, partner.node_id, AGGREGATE, group_id=group)

    def take(self, step: int, name: str, reply: Message) -> None:
        """Take an organisation's reply to a step.

        Raises:
            ReplyError: it is a refusal, an error, or no message of this step of the protocol.
        """
        content, part = reply_content(reply), _STEPS[step]
        most = largest_masked_input(self._question.length) if step == MASKED_STEP else LARGEST_STEP
        try:
            message = part.form.from_bytes(AggregateReply.from_content(content, most).message)
            getattr(self._machine, part.receive)(name, message)
        except (WireError, SecureAggregationError) as error:
            raise ReplyError(Outcome.MALFORMED, str(error)) from error

    def total(self) -> Points:
        """Return the sum over the survivors, int64 [m].

        Raises:
            SecureAggregationError: too few sent their shares, or wrong ones.
        """
        return self._machine.total().view("int64")
