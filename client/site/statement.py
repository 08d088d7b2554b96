"""A site's ledger as a statement: what each run cost, what is left, and what was refused.

The ε of several runs together is less than the sum of their separate ε, so each run has both: its
own, and that of all charges so far. All figures hold at the δ of the site's policy, which its owner
may change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from client.ledger.balance import EntryType, form_of, release_of
from client.ledger.ledger import Ledger, Record
from client.site.policy import Policy
from client.site.site import Site
from shared.outcomes import Refusal
from shared.privacy.accounting.accountant import epsilon, rounds_for
from shared.privacy.release import Release, ReleaseKind, merge

__all__ = [
    "HomeCost",
    "NextRound",
    "Point",
    "RunCost",
    "Statement",
    "epsilon_over_time",
    "read_statement",
    "shown",
]


def shown(epsilon: float) -> str:
    """Return an ε as people read it.

    >>> shown(1.23456), shown(float("inf"))
    ('1.235', '∞')
    """
    return "∞" if epsilon == math.inf else f"{epsilon:.4g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """The cost of one run so far.

    Attributes:
        run: its name; None for the charges of an earlier ledger, from before a restore.
        rounds: number of its rounds that were charged, of any kind; 0 if no longer known.
        releases: the charged releases, equal ones merged.
        epsilon: ε of this run by itself, >= 0; may be infinite.
        cumulative: ε of all charges up to this run's last one.
        first: time of its first charge, ISO 8601 in UTC.
        last: time of its last charge.
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
    """How many more rounds the rest of the budget allows.

    Attributes:
        like: the charge of one round, as in the last one.
        rounds: how many more such rounds fit; None if there is no limit.
        at_least: whether even more fit, beyond the largest number that is counted.
    """

    like: Release
    rounds: int | None
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeCost:
    """What the private home models cost so far, which stay at home.

    Attributes:
        models: how many were charged.
        spent: ε of all of them together, between the site's own users.
        limit: home.max_epsilon; None where site.toml has none now.
        together: ε of all of them and of all that left, for who sees both.
        last: time of the last one's charge, ISO 8601 in UTC.
    """

    models: int
    spent: float
    limit: float | None
    together: float
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The state of a user base's budget.

    Attributes:
        organisation: the site's name.
        user_base: the users whose budget it is.
        delta: the δ at which every ε here holds.
        limit: policy.max_epsilon; infinite if training without privacy is allowed.
        spent_if_all_collude: ε of all charges together if all other organisations colluded with the
            coordinator: as `spent`, but for releases under secure aggregation.
        spent: ε of all charges together; infinite after a release without noise, or after the
            budget was written off.
        runs: in order of their last charge.
        refusals: number of refused requests, by code.
        following: the rounds that still fit; None before the first round.
        home: what private home models spent; None where there is none.
        entries: number of entries of the ledger.
    """

    organisation: str
    user_base: str
    delta: float
    limit: float
    spent: float
    spent_if_all_collude: float
    runs: tuple[RunCost, ...]
    refusals: dict[Refusal, int]
    following: NextRound | None
    entries: int
    home: HomeCost | None = None

    @property
    def left(self) -> float:
        """Difference between limit and spent ε, >= 0; infinite without a limit."""
        if self.limit == math.inf:
            return math.inf
        return max(0.0, self.limit - self.spent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The spent ε right after a charge.

    Attributes:
        at: time of the charge, but not before the previous point's, even if the clock was set back.
        run: the run that was charged.
        epsilon: ε of all charges up to this one.
        number: of the charge's entry in the ledger.
    """

    at: datetime
    run: str | None
    epsilon: float
    number: int = 0


def read_statement(site: Site, ledger: Ledger) -> Statement:
    """Compute the statement of a site's ledger.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    records, policy = ledger.history(), site.policy
    charges = [record for record in records if _may_have_left(record)]
    releases = merge([_release(record) for record in charges])
    refusals: Counter[Refusal] = Counter()
    for record in records:
        if record.type is EntryType.REFUSAL:
            refusals[Refusal(record.fields["code"])] += record.fields.get("times", 1)
    return Statement(
        organisation=site.organisation,
        user_base=site.user_base,
        delta=policy.delta,
        limit=policy.max_epsilon,
        spent=epsilon(releases, policy.delta),
        spent_if_all_collude=epsilon([release.alone for release in releases], policy.delta),
        runs=tuple(_runs(charges, policy.delta)),
        refusals={code: refusals[code] for code in Refusal if refusals[code]},
        following=_remaining_rounds(charges, releases, policy),
        entries=len(records),
        home=_home_cost(site, records, releases),
    )


def epsilon_over_time(ledger: Ledger, delta: float, max_points: int = 400) -> list[Point]:
    """Return the spent ε after each charge, oldest first.

    Args:
        ledger: the site's ledger.
        delta: the δ at which ε holds.
        max_points: largest number of points, >= 2; each one takes a call of the accountant. Of more
            charges, an evenly spread selection is returned, which includes the last one.
    """
    charges = [record for record in ledger.history() if _may_have_left(record)]
    selected = {round((len(charges) - 1) * i / (max_points - 1)) for i in range(max_points)}
    points: list[Point] = []
    for number, record in enumerate(charges):
        if number in selected:
            at = datetime.fromisoformat(record.fields["at"])
            latest = max(at, points[-1].at) if points else at
            cost = epsilon(merge([_release(r) for r in charges[: number + 1]]), delta)
            points.append(Point(at=latest, run=_run(record), epsilon=cost, number=record.number))
    return points


def _release(record: Record) -> Release:
    fields = record.fields
    return release_of(form_of(fields), fields["steps"])


def _may_have_left(record: Record) -> bool:
    charged = record.type in (EntryType.CARRIED, EntryType.CHARGE)
    return charged and record.fields["kind"] != ReleaseKind.HOME


def _home_cost(site: Site, records: Sequence[Record], left: list[Release]) -> HomeCost | None:
    charged = (EntryType.CARRIED, EntryType.HOME)
    own = [r for r in records if r.type in charged and r.fields["kind"] == ReleaseKind.HOME]
    if not own:
        return None
    releases, delta = merge([_release(record) for record in own]), site.policy.delta
    lost = [release for release in left if release.kind is ReleaseKind.WRITTEN_OFF]
    return HomeCost(
        models=sum(release.steps for release in releases),
        spent=epsilon([*lost, *releases], delta),
        limit=site.home.max_epsilon,
        together=epsilon([*left, *releases], delta),
        last=own[-1].fields["at"],
    )


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


def _remaining_rounds(
    charges: Sequence[Record], spent: list[Release], policy: Policy
) -> NextRound | None:
    rounds = [record for record in charges if record.type is EntryType.CHARGE]
    if not rounds:
        return None
    like = _release(rounds[-1])
    if policy.max_epsilon == math.inf:
        return NextRound(like=like, rounds=None)
    number, at_least = rounds_for(policy.max_epsilon, policy.delta, like, spent)
    return NextRound(like=like, rounds=number, at_least=at_least)
