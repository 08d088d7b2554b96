"""Collect the sum of the organisations' answers under secure aggregation, and no answer.

The counterpart of `server.rounds.collection`: same questions, same report, and each organisation
that is in the sum counts with an equal part of it (`server.rounds.parts`).

| what happens                                   | what follows                                    |
|------------------------------------------------|-------------------------------------------------|
| an organisation does not answer a step         | it has dropped out of this attempt; in the sum  |
|                                                | if its masked input came                        |
| too few answer a step                          | those whose failure may pass are asked again,   |
|                                                | with the same bytes, while half of the retries  |
|                                                | that the attempt began with are left            |
| they are still too few                         | the attempt is given up, and a new one begins,  |
|                                                | with a higher number, while retries are left    |
| no retry is left, or too many have a final     | QuorumError: the run pauses                     |
| outcome                                        |                                                 |
| the sum is beyond what honest ones add up to   | QuorumError: another attempt would cost as much |

An attempt that fails before step 3 costs nobody anything. One that fails later has cost those
whose masked inputs were computed, and their budget pays for the next one, too. Whom step 3 is sent
to is on disk before it leaves (`server.state.attempts`): the model card's claim counts it. A sum
that is known is on disk, too (`server.state.sums`): a run that is resumed does not ask again.

Each masked input is added to the sum as it comes, and not kept.

All that take part are invited, connected or not: who is missing counts as a dropout.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from server.rounds.collection import (
    MAX_REASON,
    Collection,
    CollectionBase,
    CollectionSpec,
    LookUp,
    Memory,
    OnMiss,
)
from server.rounds.collection_report import CollectionReport, Verdict
from server.rounds.grid import PatientGrid
from server.rounds.participants import Partner
from server.rounds.secure_sum import Question, SumAttempt
from server.state.attempts import Attempts
from shared.config import RunConfig, ServerConfig
from shared.errors import ConfigError, QuorumError, ReplyError, SecureAggregationError
from shared.messages import (
    MASKED_STEP,
    STEPS,
    EvaluateRequest,
    Request,
    TrainRequest,
    request_digest,
    summed_kind,
    traffic,
)
from shared.outcomes import Outcome
from shared.privacy.release import Release, ReleaseKind
from shared.secure_aggregation.parameters import Parameters

__all__ = ["SecureCollection", "collection_of"]

log = logging.getLogger("sotto.server")
Value = TypeVar("Value")
_REFUSED_BEFORE_CHARGE = {
    Outcome.REFUSED_BUDGET,
    Outcome.REFUSED_POLICY,
    Outcome.REFUSED_CATALOGUE,
    Outcome.REFUSED_MALFORMED,
    Outcome.REFUSED_BUNDLE,
}
"""What a partner says in answer to a request that it has not charged, when it is first asked."""


def collection_of(
    spec: CollectionSpec[Value], config: RunConfig, memory: Memory, attempts: Attempts | None
) -> Collection[Value] | SecureCollection[Value]:
    """Return what collects answers; with `attempts`, what collects their sum alone."""
    if attempts is None:
        return Collection(spec, config.server, memory)
    return SecureCollection(spec, config, memory, attempts)


def _release_of(request: Request, config: RunConfig) -> Release:
    """Return what each partner charges for its part in an attempt at this sum."""
    rate, steps = 1.0, 1
    if isinstance(request, TrainRequest):
        rate, steps = request.sample_rate, request.local_steps
    elif isinstance(request, EvaluateRequest):
        rate = request.sample_rate
    own = Release(
        kind=ReleaseKind(str(summed_kind(request))),
        noise_multiplier=request.noise_multiplier,
        sample_rate=rate,
        steps=steps,
    )
    return own.with_shares(config.privacy.honest_shares(config.server.organisations))


class _Retries:
    """How often something is tried again in a collection; each wait is twice the one before.

    One attempt may use half of what is left, rounded up: who never comes back ends it, and not the
    collection.
    """

    def __init__(self, config: ServerConfig, count: int, before: OnMiss) -> None:
        self._config, self._left, self._before = config, count, before
        self._used = self._within = 0

    def begin_attempt(self) -> None:
        """Divide what is left between this attempt and those after it."""
        self._within = (self._left + 1) // 2

    def wait_within(self, report: CollectionReport) -> bool:
        """Wait as `wait` does, if this attempt may."""
        if not self._within:
            return False
        self._within -= 1
        return self.wait(report)

    def wait(self, report: CollectionReport) -> bool:
        """Report a miss and wait, if a retry is left; return whether one was."""
        if not self._left:
            return False
        self._before(report)
        time.sleep(self._config.retry_seconds * 2**self._used)
        self._used, self._left = self._used + 1, self._left - 1
        return True


class SecureCollection(CollectionBase[Value]):
    """A sum in progress.

    Args:
        spec: what is asked for; it has a `sum`.
        config: the run's parameters.
        memory: of the collections before.
        attempts: the run's counter.
    """

    def __init__(
        self, spec: CollectionSpec[Value], config: RunConfig, memory: Memory, attempts: Attempts
    ) -> None:
        if spec.sum is None:
            raise ValueError(f"{spec.name} is no sum")
        super().__init__(spec, config.server, memory)
        self._sum, self._privacy, self._counter = spec.sum, config.privacy, attempts
        self._release = _release_of(spec.sum.request, config)
        self._known: dict[str, Partner] = {}
        self._left: dict[str, int] = {}
        self._masking: set[str] = set()  # asked for a masked input in this attempt
        self._asked_in: dict[str, tuple[int, int]] = {}  # attempt and step, by message id
        self._problem, self._number = "", 0
        self._digest, self._once = request_digest(spec.sum.request), False

    def collect(self, grid: Grid, look_up: LookUp, on_miss: OnMiss) -> None:
        """Ask, and ask again until there is a sum of enough organisations.

        Raises:
            QuorumError: there is none.
        """
        if self._take_kept():
            return
        retries = _Retries(self._server, self._server.retries, on_miss)
        while not self._attempt(grid, look_up, retries):
            if self.hopeless or not retries.wait(self.report):
                raise self._no_sum()
        if failures := self.report.failures:
            log.warning("%s goes on without %s", self._spec.name, failures)

    retry_until_quorum = collect

    def ask_once(self, grid: Grid, look_up: LookUp) -> None:
        """Make one attempt, which may come to nothing; none if one was made before a resume."""
        self._once = True
        if self._take_kept():
            return
        retries = _Retries(self._server, 0, lambda _: None)
        if not self._attempt(grid, look_up, retries):
            log.warning("%s: %s", self._spec.name, self._problem)

    def requests(self, grid: Grid, partners: Iterable[Partner]) -> list[Message]:
        """Return none: Flower's loop asks in one step, and a sum takes five."""
        return []

    def take(self, replies: Iterable[Message]) -> None:
        """Do nothing: there are no replies to no requests."""

    @property
    def hopeless(self) -> bool:
        """Whether no retry can come to a sum: too many organisations have a final outcome."""
        final = sum(not verdict.outcome.retryable for verdict in self._verdicts.values())
        return len(self._known) - final < self._needed

    @property
    def report(self) -> CollectionReport:
        """The result so far."""
        return replace(
            super().report,
            sum_attempt=self._number,
            left_at_step={name: self._left[name] for name in sorted(self._left)},
            charges=self._counter.charges,
        )

    @property
    def _organisations(self) -> int:
        return len(self._known)

    # --- an attempt ------------------------------------------------------------------------------

    def _attempt(self, grid: Grid, look_up: LookUp, retries: _Retries) -> bool:
        """Take all organisations through the steps; return whether there is a sum."""
        self._attempts += 1
        retries.begin_attempt()
        self._take_late_replies(grid)
        partners = look_up(grid)
        self._known = {partner.organisation: partner for partner in partners}
        self._left, self._masking = {}, set()
        invited = [partner for partner in partners if self._may_be_invited(partner)]
        try:
            parameters = self._parameters(len(invited))
        except ConfigError as error:
            return self._give_up(str(error))
        self._number = self._counter.begin()
        question = Question(
            name=self._spec.name,
            request=self._sum.request,
            length=self._sum.length,
            number=self._number,
            parameters=parameters,
        )
        attempt = SumAttempt(question, invited)
        try:
            for step in STEPS:
                self._take_step(attempt, step, grid, look_up, retries)
            points = attempt.total()
        except SecureAggregationError as error:
            return self._give_up(str(error))
        survivors = [self._known[name] for name in attempt.survivors]
        self._count(attempt, survivors)
        try:
            part = self._sum.part(points, survivors)
        except ReplyError as error:
            raise QuorumError(
                f"{self._spec.name}: the sum of {len(survivors)} organisations is not what honest "
                f"ones add up to ({error}). Which of them added something else nobody can tell: "
                "ask them before you resume. Another attempt costs each of them as much again."
            ) from error
        users = [(partner.organisation, partner.population) for partner in survivors]
        self._counter.sums.keep(self._spec.round, self._digest, points, users)
        self._valid = {partner.organisation: (partner, part) for partner in survivors}
        return True

    def _take_kept(self) -> bool:
        """Take what an earlier start of the run knew; return whether that is the end of it."""
        kept = self._counter.sums.find(self._spec.round, self._digest)
        if kept is None:
            return False
        if not len(kept.points):
            self._problem = "it was asked for before the run was resumed, and is not asked again"
            log.warning("%s: %s", self._spec.name, self._problem)
            return True
        survivors = [
            Partner(node_id=0, organisation=name, population=users, connected=False)
            for name, users in kept.survivors
        ]
        part = self._sum.part(kept.points, survivors)
        self._valid = {partner.organisation: (partner, part) for partner in survivors}
        self._verdicts = dict.fromkeys(self._valid, Verdict(Outcome.VALID, "its sum was kept"))
        log.info("%s: its sum was kept, and nobody is asked again", self._spec.name)
        return True

    def _may_be_invited(self, partner: Partner) -> bool:
        name = partner.organisation
        before = self._verdicts.get(name)
        if before is None or before.outcome.retryable or before.outcome is Outcome.VALID:
            self._verdicts[name] = Verdict(Outcome.MISSING, "no reply before the deadline")
        if not partner.aggregation_key:
            reason = "its site has no aggregation key: sotto-node peers key"
            self._verdicts[name] = Verdict(Outcome.ABSENT, reason)
        return bool(partner.aggregation_key)

    def _parameters(self, invited: int) -> Parameters:
        """Return what the attempt withstands; its noise is made for `_needed` survivors.

        Raises:
            ConfigError: too few are there.
        """
        privacy, organisations = self._privacy, self._server.organisations
        if invited < self._needed:
            raise ConfigError(f"{invited} organisations can be invited, {self._needed} are needed.")
        return Parameters.choose(
            invited, privacy.colluding_of(organisations), invited - self._needed
        )

    def _take_step(
        self, attempt: SumAttempt, step: int, grid: Grid, look_up: LookUp, retries: _Retries
    ) -> None:
        """Ask one step of all that are left, and again of those that failed if it lacks answers.

        Raises:
            TooFewPartners: the step before has too few answers.
        """
        expected = attempt.begin(step)
        self._ask(attempt, step, expected, grid)
        while attempt.missing(step):
            again = [name for name in expected if self._may_answer(attempt, name)]
            if len(again) < attempt.missing(step) or not retries.wait_within(self.report):
                return  # closing the step says that there are too few
            self._known |= {partner.organisation: partner for partner in look_up(grid)}
            self._ask(attempt, step, again, grid)

    def _may_answer(self, attempt: SumAttempt, name: str) -> bool:
        """Return whether an organisation that did not answer a step may do so if asked again."""
        outcome = self._verdicts[name].outcome
        dropped = outcome is Outcome.REFUSED_DROPPED
        return not attempt.has_answered(name) and outcome.retryable and not dropped

    def _ask(self, attempt: SumAttempt, step: int, names: Sequence[str], grid: Grid) -> None:
        sent: list[tuple[str, Message]] = []
        for name in names:
            verdict, partner = self._verdicts[name], self._known[name]
            if not verdict.outcome.retryable:
                self._left.setdefault(name, step)
                continue
            if not partner.connected:
                self._drop(name, step, Verdict(Outcome.ABSENT, "its node is not connected"))
                continue
            self._drop(name, step, Verdict(Outcome.MISSING, f"no reply to step {step} in time"))
            sent.append((name, attempt.message(step, partner)))
        self._down += sum(traffic(message) for _, message in sent)
        if step != MASKED_STEP:
            self._send(attempt, step, sent, grid)
            return
        asked = [name for name, _ in sent]
        new = [name for name in asked if name not in self._masking]
        self._masking.update(new)
        if self._once and new:
            self._counter.sums.keep(self._spec.round, self._digest, None)
        self._counter.ask(self._release, new)
        try:
            self._send(attempt, step, sent, grid)
        finally:
            self._settle(attempt, asked, new)

    def _send(
        self, attempt: SumAttempt, step: int, sent: Sequence[tuple[str, Message]], grid: Grid
    ) -> None:
        """Send a step's messages, and take each reply as it comes: masked inputs are not kept."""
        messages, deadline = [message for _, message in sent], self._server.deadline_seconds
        asking = grid.send if isinstance(grid, PatientGrid) else grid.send_and_receive
        replies = asking(messages, timeout=deadline)
        for name, message in sent:  # the grid sets the ids as it sends them
            number = message.metadata.message_id
            self._asked[number] = self._known[name]
            self._asked_in[number] = (self._number, step)
        for reply in replies:
            number = reply.metadata.reply_to_message_id
            self._answered.add(number)
            if self._asked_in.get(number) == (self._number, step):
                self._up += traffic(reply)
                self._take_reply(attempt, step, self._asked[number].organisation, reply)

    def _settle(self, attempt: SumAttempt, asked: Sequence[str], new: Sequence[str]) -> None:
        """Count who charged, and who refused before it; of the others it is not known."""
        came = {name: True for name in asked if attempt.has_answered(name)}
        refused = {
            name: False for name in new if self._verdicts[name].outcome in _REFUSED_BEFORE_CHARGE
        }
        self._counter.settle(self._release, came | refused)

    def _take_reply(self, attempt: SumAttempt, step: int, name: str, reply: Message) -> None:
        if attempt.has_answered(name):
            return
        try:
            attempt.take(step, name, reply)
        except ReplyError as error:
            reason = f"step {step}: {error}"[:MAX_REASON]
            self._drop(name, step, Verdict(error.outcome, reason))
            return
        self._left.pop(name, None)

    def _drop(self, name: str, step: int, verdict: Verdict) -> None:
        self._left[name], self._verdicts[name] = step, verdict

    def _count(self, attempt: SumAttempt, survivors: Sequence[Partner]) -> None:
        """Count those in the sum as valid; some may have left after their masked input."""
        for partner in survivors:
            name = partner.organisation
            step = self._left.get(name)
            reason = "" if step is None else f"in the sum; {self._verdicts[name].reason}"
            if name in attempt.faulty:
                reason = "in the sum; it sent wrong shares of the others' secrets"
            self._verdicts[name] = Verdict(Outcome.VALID, reason)

    def _give_up(self, problem: str) -> bool:
        self._problem = problem
        log.warning("%s, attempt %d at the sum: %s", self._spec.name, self._number, problem)
        # Who answered every step so far did nothing wrong, and is in no sum.
        for name, verdict in self._verdicts.items():
            if verdict.outcome.retryable and name not in self._left and name in self._known:
                reason = "it answered, and too few others did"
                self._verdicts[name] = Verdict(Outcome.MISSING, reason)
        return False

    def _take_late_replies(self, grid: Grid) -> None:
        if not isinstance(grid, PatientGrid):
            return
        for reply in grid.late_replies():
            number = reply.metadata.reply_to_message_id
            self._answered.add(number)
            self._take_late(number, reply)

    def _take_late(self, number: str, reply: Message) -> None:
        """Count it; here also an answer to an earlier attempt, which came too late for that."""
        super()._take_late(number, reply)
        if number in self._asked and reply.has_content():
            self._late.add(self._asked[number].organisation)

    def _no_sum(self) -> QuorumError:
        report = self.report
        return QuorumError(
            f"{report.name} has no sum of {report.needed} organisations or more, after "
            f"{report.attempts} attempts ({self._problem} "
            f"{report.failures or 'No organisation is connected'}). Finished rounds are saved. An "
            "attempt that failed after the masked inputs has cost those that sent them: correct "
            "the cause and resume."
        )
