"""Who over-used: from a column that a partner holds, or by a rule on later events.

A rule reads events after the user's present, and not after the present plus its window; features
read events up to the present (`shared.over_use.sessions`). No event is read by both.

| a value of the column                           | means                            |
|-------------------------------------------------|----------------------------------|
| 1, true, yes (in capitals or not)               | over-used                        |
| 0, false, no                                    | did not                          |
| empty, or nothing                               | not known: the user is left out  |
| anything else                                   | refused, with row and value      |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, DataError
from shared.over_use.sessions import DAY, WEEK, SessionRule

__all__ = [
    "COLUMN",
    "LabelRule",
    "label_by_rule",
    "label_of",
    "labels_from_column",
    "presents_after_sessions",
]

COLUMN = "over_use"
"""Column of a table of users."""
_VALUES = {"1": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "false": 0.0, "no": 0.0, "": math.nan}

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """More than so many hours, or so many events, a day on so many days of a window.

    Attributes:
        weeks: length of the window; > 0.
        days: on how many of its days, at least; >= 1.
        hours: of sessions on such a day, exceeded; None does not count hours.
        events: on such a day, at least; None does not count events.

    Raises:
        ConfigError: a value is out of its range, or neither hours nor events are counted.
    """

    weeks: float = 4.0
    days: int = 2
    hours: float | None = None
    events: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weeks < math.inf:
            raise ConfigError(f"a window of {self.weeks} weeks: choose a number above 0.")
        if not 1 <= self.days <= math.ceil(7 * self.weeks) + 1:
            raise ConfigError(f"{self.days} days in {self.weeks:g} weeks: choose from 1 to all.")
        if self.hours is None and self.events is None:
            raise ConfigError("the rule counts neither hours nor events: state one of them.")
        if self.hours is not None and not 0 <= self.hours < 24:
            raise ConfigError(f"more than {self.hours} hours a day: choose from 0 to below 24.")
        if self.events is not None and self.events < 1:
            raise ConfigError(f"{self.events} events a day: choose a whole number >= 1.")

    def __str__(self) -> str:
        limits = [] if self.hours is None else [f"more than {_count(self.hours, 'hour')}"]
        limits += [] if self.events is None else [f"at least {_count(self.events, 'event')}"]
        days, weeks = _count(self.days, "day"), _count(self.weeks, "week")
        return f"{' or '.join(limits)} a day on at least {days} within the next {weeks}"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def label_by_rule(times: Floats, now: float, rule: LabelRule, sessions: SessionRule) -> bool:
    """Return whether one user's later events meet the rule.

    A day is one of local time. Its hours are those between events of one session of the window,
    counted where each of them begins.

    Args:
        times: of the user's events, ascending, in seconds since 1970 (UTC).
        now: the user's present; events up to then are not read.
        rule: the rule.
        sessions: what a session is, and the local time.

    >>> hours = 3600.0 * np.array([1.0, 1.4, 25.0, 25.4])
    >>> label_by_rule(hours, 0.0, LabelRule(hours=0.3), SessionRule())
    True
    """
    later = times[(times > now) & (times <= now + WEEK * rule.weeks)]
    if not len(later):
        return False
    days = np.floor((later + 3600 * sessions.utc_offset_hours) / DAY).astype(np.int64)
    days -= days[0]
    steps = np.diff(later)
    steps = np.where(steps > 60 * sessions.gap_minutes, 0.0, steps)
    hours = np.bincount(days[:-1], steps / 3600, minlength=int(days[-1]) + 1)
    events = np.bincount(days)
    over = np.zeros(len(events), np.bool_)
    if rule.hours is not None:
        over |= hours > rule.hours
    if rule.events is not None:
        over |= events >= rule.events
    return int(over.sum()) >= rule.days


def presents_after_sessions(times: Sequence[Floats], count: int, rule: SessionRule) -> Floats:
    """Return when each user's `count`-th session is known to be over: its last event and the gap.

    Returns:
        Seconds since 1970, [users]; NaN for a user with fewer sessions.
    """
    presents = np.full(len(times), np.nan)
    for user, own in enumerate(times):
        begin = np.append(rule.breaks(own), len(own))
        if len(begin) > count:
            presents[user] = own[begin[count] - 1] + 60 * rule.gap_minutes
    return presents


def labels_from_column(values: Sequence[str | None], file: Path | str) -> Floats:
    """Return 1 for users who over-used, 0 for others, and NaN where that is not known.

    Args:
        values: of the column, one a row.
        file: that errors name.

    Raises:
        DataError: a value is none of the table above.

    >>> labels_from_column(["yes", "0", None], "users.csv")
    array([ 1.,  0., nan])
    """
    labels = np.empty(len(values))
    for row, value in enumerate(values):
        label = label_of(value)
        if label is None:
            raise DataError(
                "it says neither that the user over-used nor that the user did not",
                file=file,
                row=row + 1,
                field=COLUMN,
                value=value,
                remedy="Write 1, 0, or nothing where it is not known.",
            )
        labels[row] = label
    return labels


def label_of(value: str | None) -> float | None:
    """Return 1, 0, or NaN where a value says nothing; None where it is none of the table above.

    >>> label_of("True"), label_of("0"), label_of("maybe")
    (1.0, 0.0, None)
    """
    return _VALUES.get((value or "").strip().lower())
