"""A site's ledger as a statement: what each run cost, what is left, what was refused.

ε is not a sum: what runs cost alone adds up to more than they cost together, so each run has both
figures. All of them hold at the δ of the site's policy, which the owner may change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from client.ledger.balance import EntryType, release_of
from client.ledger.ledger import Ledger, Record
from client.site.policy import Policy
from client.site.site import Site
from shared.errors import Refusal
from shared.privacy.accounting.accountant import MAX_STEPS, epsilon, steps_for
from shared.privacy.release import Release, merge

__all__ = ["NextRound", "Point", "RunCost", "Statement", "curve", "statement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """What one run has cost so far.

    Attributes:
        run: its name; None stands for all that an earlier ledger had charged, before a restore.
        rounds: how many of its rounds were charged, for training, metrics or both; 0 where that is
            not known any more.
        releases: what was charged, equal releases added up.
        epsilon: of this run alone, >= 0; may be infinite.
        cumulative: of everything up to this run's last charge.
        first: when it was charged first, ISO 8601 in UTC.
        last: when it was charged last.
    """

    run: str | None
    rounds: int
    releases: tuple[Release, ...]
    epsilon: float
    cumulative: float
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRound:
    """How far the rest of the budget reaches.

    Attributes:
        like: one round's charge: the last one.
        rounds: how many more of it fit; None where no limit is set.
        at_least: whether that is only where the count stopped.
    """

    like: Release
    rounds: int | None
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The whole budget.

    Attributes:
        organisation: the site's name.
        user_base: whose budget it is.
        delta: at which every ε here holds.
        limit: policy.max_epsilon; infinite where training without privacy is allowed.
        spent: ε of all charges together; infinite once something left without noise or the
            budget was written off.
        runs: in order of their last charge.
        refusals: how many requests were refused, by code.
        following: None before the first round.
        entries: of the ledger.
    """

    organisation: str
    user_base: str
    delta: float
    limit: float
    spent: float
    runs: tuple[RunCost, ...]
    refusals: dict[Refusal, int]
    following: NextRound | None
    entries: int

    @property
    def left(self) -> float:
        """Between what is spent and the limit, >= 0; infinite without a limit."""
        if self.limit == math.inf:
            return math.inf
        return max(0.0, self.limit - self.spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The budget right after a charge.

    Attributes:
        at: when, and never before the point that precedes it: clocks are set back.
        run: whose charge it was.
        epsilon: of everything up to it.
    """

    at: datetime
    run: str | None
    epsilon: float


def statement(site: Site, ledger: Ledger) -> Statement:
    """What the site's ledger says.

    Raises:
        LedgerError: it cannot be read.
    """
    records, policy = ledger.history(), site.policy
    charges = [record for record in records if record.type in (EntryType.CARRIED, EntryType.CHARGE)]
    releases = merge([_release(record) for record in charges])
    refusals = Counter(
        Refusal(record.fields["code"]) for record in records if record.type is EntryType.REFUSAL
    )
    return Statement(
        organisation=site.organisation,
        user_base=site.user_base,
        delta=policy.delta,
        limit=policy.max_epsilon,
        spent=epsilon(releases, policy.delta),
        runs=tuple(_runs(charges, policy.delta)),
        refusals={code: refusals[code] for code in Refusal if refusals[code]},
        following=_following(charges, releases, policy),
        entries=len(records),
    )


def curve(ledger: Ledger, delta: float, most: int = 400) -> list[Point]:
    """How the budget was spent, oldest first.

    Args:
        ledger: of the site.
        delta: at which ε holds.
        most: points at most, >= 2: each one asks the accountant. In a longer ledger they are
            evenly spread over the charges, and exact; the last charge is always among them.
    """
    charges = [r for r in ledger.history() if r.type in (EntryType.CARRIED, EntryType.CHARGE)]
    wanted = {round((len(charges) - 1) * i / (most - 1)) for i in range(most)}
    points: list[Point] = []
    for number, record in enumerate(charges):
        if number in wanted:
            at = datetime.fromisoformat(record.fields["at"])
            latest = max(at, points[-1].at) if points else at
            cost = epsilon(merge([_release(r) for r in charges[: number + 1]]), delta)
            points.append(Point(at=latest, run=_run(record), epsilon=cost))
    return points


def _release(record: Record) -> Release:
    fields = record.fields
    form = (fields["kind"], fields["noise_multiplier"], fields["sample_rate"])
    return release_of(form, fields["steps"])


def _run(record: Record) -> str | None:
    return record.fields.get("run")


def _runs(charges: Sequence[Record], delta: float) -> Iterator[RunCost]:
    lasts = {_run(record): number for number, record in enumerate(charges, start=1)}
    for run, last in sorted(lasts.items(), key=lambda item: item[1]):
        own = [record for record in charges if _run(record) == run]
        releases = merge([_release(record) for record in own])
        together = merge([_release(record) for record in charges[:last]])
        yield RunCost(
            run=run,
            rounds=len({record.fields["round"] for record in own if "round" in record.fields}),
            releases=tuple(releases),
            epsilon=epsilon(releases, delta),
            cumulative=epsilon(together, delta),
            first=own[0].fields["at"],
            last=own[-1].fields["at"],
        )


def _following(charges: Sequence[Record], spent: list[Release], policy: Policy) -> NextRound | None:
    rounds = [record for record in charges if record.type is EntryType.CHARGE]
    if not rounds:
        return None
    like = _release(rounds[-1])
    if policy.max_epsilon == math.inf:
        return NextRound(like=like, rounds=None)
    steps = steps_for(
        policy.max_epsilon,
        policy.delta,
        noise_multiplier=like.noise_multiplier,
        sample_rate=like.sample_rate,
        spent=spent,
    )
    return NextRound(like=like, rounds=steps // like.steps, at_least=steps == MAX_STEPS)
