"""Which users, sessions and labels the model of over-use risk is trained on: public constants.

A user's features and label are functions of that user's events, of the user's row in the partner's
table, and of what stands here:

| `after_sessions`        | the user's present                                                     |
|-------------------------|------------------------------------------------------------------------|
| 0                       | `weeks` before `until`                                                 |
| n >= 1                  | when the user's n-th session is known to be over; who has fewer, or is |
|                         |   there later than `weeks` before `until`, is left out                 |

Features read events up to the present. A rule reads the events of the `weeks` after it. Nothing is
read of what comes after `until`, so that no user's last event decides what is read of another.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated

from shared.errors import ConfigError
from shared.sections import (
    Choice,
    NonNegativeInt,
    OptionalOf,
    PositiveInt,
    PositiveNumber,
    Require,
    flatten,
    parse_sections,
    section,
)

__all__ = ["NO_END", "LabelSource", "OverUseTask", "task_of"]

MOST_WEEKS, LONGEST = 1000, 2000
"""Of a window or of the past; characters of a task's text."""
NO_END = (
    "over_use.until is not set: state up to which moment the partners' data are complete, as "
    "2026-11-01. Labels and features follow from it."
)


class LabelSource(StrEnum):
    """What says who over-used."""

    RULE = "rule"
    """So many hours or events on so many days after the present."""
    COLUMN = "column"
    """The column `over_use` of the partner's table of users."""


def _moment(text: str) -> float | None:
    """Return seconds since 1970; None where the text is no time."""
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


_Weeks = Annotated[
    float, Require(lambda x: 0 < x <= MOST_WEEKS, f"choose a number above 0, at most {MOST_WEEKS}")
]
_Hour = Annotated[float, Require(lambda x: 0 <= x < 24, "choose an hour from 0 to below 24")]


@section("over_use")
class OverUseTask:
    """What a run of the kind "over-use" reads of each user, in as many sessions as its model takes.

    Attributes:
        until: the moment up to which the partners' data are complete, as 2026-11-01 or
            2026-11-01T06:00:00+00:00, in UTC where it has no offset; such a run has no default.
        label: "rule", or "column": `over_use` of the partner's table of users, 1 or 0, about the
            time after the present; users without a value are left out.
        weeks: window of the label, after the present, > 0.
        days: of the rule: on so many of its days, at least, >= 1.
        hours: of the rule: more than so many hours a day, between events of a session; "none"
            counts no hours.
        events: of the rule: or at least so many events a day; "none" counts no events.
        after_sessions: each user's present is after so many of its sessions, see the top of this
            module; 0 has one present for all.
        gap_minutes: a session ends where nothing happens for longer, > 0.
        history_weeks: how far back from the present events are read, > 0.
        night_from: local hour at which the night begins, in [0, 24).
        night_until: local hour at which it ends, in [0, 24).
        utc_offset_hours: local time less UTC, in [-14, 14].

    Raises:
        ConfigError: a value is out of its range, or the rule counts neither hours nor events.
    """

    until: Annotated[
        str,
        Require(
            lambda text: not text or _moment(text) is not None,
            "give a date or a time of ISO 8601, as 2026-11-01",
        ),
    ] = ""
    label: Choice[LabelSource] = LabelSource.RULE
    weeks: _Weeks = 4.0
    days: PositiveInt = 4
    hours: OptionalOf[_Hour] = 1.0
    events: OptionalOf[PositiveInt] = None
    after_sessions: NonNegativeInt = 0
    gap_minutes: PositiveNumber = 30.0
    history_weeks: _Weeks = 8.0
    night_from: _Hour = 23.0
    night_until: _Hour = 5.0
    utc_offset_hours: Annotated[
        float, Require(lambda x: -14 <= x <= 14, "choose hours from -14 to 14")
    ] = 0.0

    def __post_init__(self) -> None:
        if self.label is LabelSource.COLUMN:
            return
        if self.hours is None and self.events is None:
            raise ConfigError(
                "over_use.hours = 'none' and over_use.events = 'none': the rule counts nothing. "
                "State one of them, or over_use.label = 'column'."
            )
        if self.days > math.ceil(7 * self.weeks) + 1:
            raise ConfigError(
                f"over_use.days = {self.days} within over_use.weeks = {self.weeks:g}: choose from "
                "1 to as many days as there are."
            )

    @property
    def end(self) -> float:
        """`until`, in seconds since 1970.

        Raises:
            ConfigError: it is not stated.
        """
        moment = _moment(self.until) if self.until else None
        if moment is None:
            raise ConfigError(NO_END)
        return moment

    @property
    def text(self) -> str:
        """The task as one text, of which `task_of` is the inverse; equal for equal tasks."""
        return json.dumps(flatten(self), sort_keys=True)


@lru_cache(maxsize=64)
def task_of(text: str) -> OverUseTask:
    """Return the task of a text.

    Raises:
        ConfigError: it is none, or has no `until`.

    >>> task_of(OverUseTask(until="2026-11-01").text).weeks
    4.0
    """
    try:
        flat = json.loads(text) if len(text) <= LONGEST else None
    except ValueError:
        flat = None
    if not isinstance(flat, dict) or not all(
        isinstance(value, int | float | str) for value in flat.values()
    ):
        raise ConfigError(f"over_use: no object of settings, of at most {LONGEST} characters.")
    task = parse_sections(OverUseTask, flat)
    if not task.until:
        raise ConfigError(NO_END)
    return task
