"""Asks every site for a noised statistic, and adds the answers up.

Where too few sites have answered, those whose answer may still come are asked again, as in a round
of training: a site that has answered sends its kept answer, and pays nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server.aggregation.quorum import quorum_size
from server.aggregation.robust import robust_mean
from server.rounds.participants import Partner
from server.rounds.replies import reply_content
from shared.config import Aggregation, RunConfig, ServerConfig
from shared.errors import Outcome, QuorumError, ReplyError, WireError
from shared.messages import STATISTICS, Statistic, StatisticsReply, StatisticsRequest, traffic

__all__ = ["Answer", "Asker", "Floats"]

log = logging.getLogger("sotto.server")
_OUTLIER = 20.0
"""Standard deviations of noise that no honest partner ever sees."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sites answered together.

    Attributes:
        total: the sum, or what a robust rule makes of it, up to a factor; None where nobody was
            asked.
        spread: standard deviation of the noise in it.
        bytes_up: arrays received.
    """

    total: Floats | None = None
    spread: float = 0.0
    bytes_up: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who is asked, and how.

    Attributes:
        grid: Flower's.
        look_up: which organisations there are; called before every attempt.
        run: the run's name.
        noise_multipliers: of the statistics; 0 without privacy.
        fade: of popularity, in [0, 1].
        config: the run's parameters.
        catalogue: fingerprint of the catalogue.
    """

    grid: Grid
    look_up: Callable[[], Sequence[Partner]]
    run: str
    noise_multipliers: Mapping[Statistic, float]
    fade: float
    config: RunConfig
    catalogue: str

    def sum(
        self, statistic: Statistic, own_items: tuple[int, ...], shape: tuple[int, ...]
    ) -> Answer:
        """The sites' answers together, by the run's rule of aggregation.

        Raises:
            QuorumError: too few sites gave a valid answer, at every attempt.
        """
        noise_multiplier = self.noise_multipliers[statistic]
        request = StatisticsRequest(
            run=self.run,
            round=list(Statistic).index(statistic) + 1,
            catalogue=self.catalogue,
            model=replace(self.config.model, own_items=own_items),
            noise_multiplier=noise_multiplier,
            statistic=statistic,
            fade=self.fade,
        )
        tally = _Tally(shape, noise_multiplier, self.config.server)
        self._ask(request, tally)
        for retry in range(self.config.server.retries):
            if tally.enough or tally.hopeless:
                break
            log.warning("the warm start asks again: %s", tally.reasons)
            time.sleep(self.config.server.retry_seconds * 2**retry)
            self._ask(request, tally)
        tally.check()
        return tally.together()

    def _ask(self, request: StatisticsRequest, tally: _Tally) -> None:
        content, asked = request.to_content(), tally.wanted(self.look_up())
        messages = [
            Message(content, partner.node_id, STATISTICS, group_id="0") for partner in asked
        ]
        deadline = self.config.server.deadline_seconds
        tally.take(asked, list(self.grid.send_and_receive(messages, timeout=deadline)))


@dataclass(slots=True)
class _Tally:
    """What came over all attempts.

    Attributes:
        shape: of the statistic.
        noise_multiplier: in each answer.
        config: names the quorum and the rule of aggregation.
        totals: valid answers, by organisation.
        users: that each of these declares.
        missing: why there is none from the others.
        bytes_up: arrays received.
    """

    shape: tuple[int, ...]
    noise_multiplier: float
    config: ServerConfig
    totals: dict[str, Floats] = field(default_factory=dict)
    users: dict[str, int] = field(default_factory=dict)
    missing: dict[str, ReplyError] = field(default_factory=dict)
    bytes_up: int = 0

    def wanted(self, partners: Iterable[Partner]) -> list[Partner]:
        """Whom to ask: whoever is there and may yet give an answer."""
        open_ = [p for p in partners if p.organisation not in self.totals and not self._final(p)]
        for partner in open_:
            if not partner.connected:
                gone = ReplyError(Outcome.ABSENT, "its node is not connected")
                self.missing[partner.organisation] = gone
        return [partner for partner in open_ if partner.connected]

    def take(self, asked: Iterable[Partner], replies: Sequence[Message]) -> None:
        """Counts what came."""
        self.bytes_up += sum(map(traffic, replies))
        # An error reply for a dead node carries another source: it counts as none.
        answers = {reply.metadata.src_node_id: reply for reply in replies}
        for partner in asked:
            name, reply = partner.organisation, answers.get(partner.node_id)
            try:
                total = _checked(reply, self.shape, partner.population, self.noise_multiplier)
            except ReplyError as error:
                self.missing[name] = error
                log.warning("no statistic from %s: %s", name, error)
            else:
                self.totals[name], self.users[name] = total, partner.population
                self.missing.pop(name, None)

    @property
    def enough(self) -> bool:
        """Whether a quorum has answered."""
        return len(self.totals) >= self._needed

    @property
    def hopeless(self) -> bool:
        """Whether no further attempt can help: too many have given their last answer."""
        passing = sum(error.outcome.passing for error in self.missing.values())
        return len(self.totals) + passing < self._needed

    @property
    def reasons(self) -> str:
        """Who is missing and why, for people."""
        return "; ".join(f"{name}: {error}" for name, error in self.missing.items())

    def check(self) -> None:
        """Refuses to go on without a quorum.

        Raises:
            QuorumError: too few sites gave a valid answer.
        """
        if not self.enough:
            raise QuorumError(
                f"{len(self.totals)} of {self._asked} organisations answered the warm start, "
                f"{self._needed} are needed ({self.reasons}). Nothing is paid twice: mend the "
                "cause and resume, or lower server.quorum."
            )

    def together(self) -> Answer:
        """All valid answers as one."""
        # In the order of their names: floating-point sums depend on it.
        names = sorted(self.totals)
        totals, users = [self.totals[n] for n in names], [self.users[n] for n in names]
        if self.config.aggregation is Aggregation.MEAN:
            spread = self.noise_multiplier * math.sqrt(len(totals))
            return Answer(np.sum(totals, axis=0), spread, self.bytes_up)
        total, spread = robust_mean(totals, users, self.noise_multiplier, self.config)
        return Answer(total, spread, self.bytes_up)

    @property
    def _asked(self) -> int:
        return len(self.totals) + len(self.missing)

    @property
    def _needed(self) -> int:
        return quorum_size(self.config, max(self._asked, self.config.organisations))

    def _final(self, partner: Partner) -> bool:
        error = self.missing.get(partner.organisation)
        return error is not None and not error.outcome.passing


def _checked(
    reply: Message | None, shape: tuple[int, ...], population: int, noise_multiplier: float
) -> Floats:
    """The total a reply carries, if it may be added up.

    Raises:
        ReplyError: an error or refusal, not of the wire's form, another shape, not finite, or more
            than the partner's declared users could add up to.
    """
    if reply is None:
        raise ReplyError(Outcome.MISSING, "no reply before the deadline")
    try:
        total = StatisticsReply.from_content(reply_content(reply)).total.astype(np.float64)
    except WireError as error:
        raise ReplyError(Outcome.MALFORMED, str(error)) from error
    if total.shape != shape:
        raise ReplyError(Outcome.WRONG_SHAPE, f"a statistic of shape {total.shape}, not {shape}")
    if not np.isfinite(total).all():
        raise ReplyError(Outcome.NOT_FINITE, "a statistic holds values that are not finite")
    norm = float(np.linalg.norm(total))
    noise = noise_multiplier * (math.sqrt(total.size) + _OUTLIER)
    if norm > (population + noise) * (1 + 1e-6):
        raise ReplyError(
            Outcome.TOO_LONG,
            f"a statistic of norm {norm:.3g}, more than {population} users add up to",
        )
    return total
