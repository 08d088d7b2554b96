"""What left and what is left: the ledger and its outbox, as the pages show them.

Every ε is at the δ of the site's policy. An answer's ε "alone" is that of its release by itself,
and "so far" that of all charges up to its own; together they cost less than their sum.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import mean
from typing import Any

from client.ledger.balance import EntryType, form_of, release_of
from client.ledger.ledger import Ledger, Record
from client.ledger.outbox import SentAnswer
from client.site.site import Site
from client.site.statement import Point, RunCost, Statement, epsilon_over_time, read_statement
from shared.privacy.accounting.accountant import epsilon, renyi_epsilon
from shared.privacy.release import Release, merge

__all__ = [
    "DAYS",
    "MOST_REFRESHES",
    "Accounts",
    "Books",
    "Forecast",
    "RunAnswers",
    "SentRelease",
    "forecast",
]

MOST_REFRESHES = 1000
"""Refreshes that are counted; of more, it is said that there are more."""
DAYS = {"every week": 7.0, "every month": 30.44, "every quarter": 91.31, "every year": 365.25}
_POINTS, _DRAWN = 120, 24
"""Points of the curve; refreshes that are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRelease:
    """One answer that left, and what it cost.

    Attributes:
        answer: what left.
        release: that was charged for it; None where the ledger no longer says (before a restore).
        alone: ε of the release by itself; None as `release`.
        so_far: ε of all charges up to this one; None as `release`, or where it is not computed.
    """

    answer: SentAnswer
    release: Release | None
    alone: float | None
    so_far: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAnswers:
    """The answers of one run, the latest first.

    Attributes:
        run: its name.
        cost: of the run; None where the ledger no longer says.
        sent: the answers.
    """

    run: str
    cost: RunCost | None
    sent: tuple[SentRelease, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all answers."""
        return sum(one.answer.bytes for one in self.sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How many more refreshes like the last run fit, and until when.

    Attributes:
        like: the last run.
        refreshes: how many fit; None without a limit.
        at_least: whether more fit than were counted.
        last: when the last run ended.
        pace: mean time between the begins of runs; None with fewer than two.
        costs: ε after one more, two more, ...; the first ones alone.
    """

    like: RunCost
    refreshes: int | None
    at_least: bool
    last: datetime
    pace: timedelta | None
    costs: tuple[float, ...]

    def until(self, every: timedelta) -> datetime | None:
        """Return when the last refresh that fits is due; None if that is beyond all calendars.

        Args:
            every: time between refreshes.
        """
        if self.refreshes is None or self.at_least:
            return None
        try:
            return self.last + self.refreshes * every
        except OverflowError:
            return None

    @property
    def dates(self) -> list[tuple[str, datetime | None]]:
        """Until when the budget is enough: at the pace so far, and at others."""
        own = [] if self.pace is None else [("at your pace so far", self.until(self.pace))]
        return own + [(name, self.until(timedelta(days=days))) for name, days in DAYS.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All that the ledger says.

    Attributes:
        statement: what was spent and what is left.
        points: ε over time.
        runs: what left, by run, the latest first.
        unsent: requests that were charged, and have no answer: the node was stopped before.
        forecast: None before the first run.
        last: time of the last request that was charged, answered or refused; None before one.
        trusted: the app bundle that was vetted last: name, version, fingerprint; None before.
    """

    statement: Statement
    points: tuple[Point, ...]
    runs: tuple[RunAnswers, ...]
    unsent: int
    forecast: Forecast | None
    last: datetime | None
    trusted: tuple[str, str, str] | None

    @property
    def sent(self) -> list[SentRelease]:
        """All answers, the latest first."""
        every = [one for run in self.runs for one in run.sent]
        return sorted(every, key=lambda one: -one.answer.number)

    @property
    def bytes(self) -> int:
        """Bytes of all answers."""
        return sum(run.bytes for run in self.runs)


class Accounts:
    """Reads a site's ledger, again only where it has new entries.

    Args:
        site: whose ledger it is.
    """

    def __init__(self, site: Site) -> None:
        self._site, self._lock = site, threading.Lock()
        self._read: tuple[object, Books] | None = None

    def read(self) -> Books:
        """Return what the ledger says now.

        Raises:
            LedgerError: it does not open.
        """
        with self._lock:
            ledger = self._site.open_ledger()
            records = ledger.history()
            version = (ledger.id, len(records), records[-1].hash if records else "")
            if self._read is None or self._read[0] != version:
                self._read = version, _read_books(self._site, ledger, records)
            return self._read[1]

    def body(self, number: int) -> bytes | None:
        """Return the bytes of an answer; None if they are no longer kept.

        Raises:
            LedgerError: the ledger does not open, or the bytes were changed.
        """
        return self._site.open_ledger().sent_body(number)


def _read_books(site: Site, ledger: Ledger, records: Sequence[Record]) -> Books:
    statement, delta = read_statement(site, ledger), site.policy.delta
    points = tuple(epsilon_over_time(ledger, delta, max_points=_POINTS))
    answers = ledger.outbox()
    charges = {
        (record.fields["run"], record.fields["kind"], record.fields["round"]): record
        for record in records
        if record.type is EntryType.CHARGE
    }
    so_far = {point.number: point.epsilon for point in points}
    alone: dict[Release, float] = {}
    runs: dict[str, list[SentRelease]] = {}
    for answer in reversed(answers):
        charge = charges.pop((answer.run, answer.kind, answer.round), None)
        release = None if charge is None else _release(charge)
        if release is not None and release not in alone:
            alone[release] = epsilon([release], delta)
        one = SentRelease(
            answer=answer,
            release=release,
            alone=None if release is None else alone[release],
            so_far=None if charge is None else so_far.get(charge.number),
        )
        runs.setdefault(answer.run, []).append(one)
    costs = {cost.run: cost for cost in statement.runs}
    asked = (EntryType.CHARGE, EntryType.ANSWER, EntryType.REFUSAL)
    times = [record.fields["at"] for record in records if record.type in asked]
    trusted = [record.fields for record in records if record.type is EntryType.TRUSTED]
    return Books(
        statement=statement,
        points=points,
        runs=tuple(
            RunAnswers(run=run, cost=costs.get(run), sent=tuple(sent)) for run, sent in runs.items()
        ),
        unsent=len(charges),
        forecast=forecast(statement),
        last=datetime.fromisoformat(times[-1]) if times else None,
        trusted=_trusted(trusted[-1]) if trusted else None,
    )


def forecast(statement: Statement) -> Forecast | None:
    """Return how many more runs like the last one fit; None before the first."""
    runs = [run for run in statement.runs if run.run is not None]
    if not runs:
        return None
    like, delta = runs[-1], statement.delta
    spent = [release for run in statement.runs for release in run.releases]

    def after(times: int) -> list[Release]:
        more = [replace(release, steps=release.steps * times) for release in like.releases]
        return merge([*spent, *more])

    def fits(times: int) -> bool:
        # The Rényi bound is cheaper, and often enough.
        bounds = (renyi_epsilon, epsilon)
        return any(bound(after(times), delta) <= statement.limit for bound in bounds)

    refreshes = None if statement.limit == math.inf else _most(fits)
    begins = sorted(datetime.fromisoformat(run.first) for run in runs)
    gaps = [(later - one).total_seconds() for one, later in pairwise(begins)]
    drawn = _DRAWN if refreshes is None else min(refreshes, _DRAWN)
    return Forecast(
        like=like,
        refreshes=refreshes,
        at_least=refreshes == MOST_REFRESHES,
        last=datetime.fromisoformat(like.last).astimezone(UTC),
        pace=timedelta(seconds=mean(gaps)) if gaps and mean(gaps) > 0 else None,
        costs=tuple(epsilon(after(times), delta) for times in range(1, drawn + 1)),
    )


def _most(fits: Callable[[int], bool]) -> int:
    """Return the largest number in 0..`MOST_REFRESHES` that fits."""
    if not fits(1):
        return 0
    low, high = 1, 2
    while high < MOST_REFRESHES and fits(high):
        low, high = high, 2 * high
    high = min(high, MOST_REFRESHES + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _release(record: Record) -> Release:
    return release_of(form_of(record.fields), record.fields["steps"])


def _trusted(fields: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(fields["name"]), str(fields["version"]), str(fields["bundle"])
