"""Whether and how the service protects users at risk of over-use: the [wellbeing] table.

| measure   | keys                                   | what is done from its threshold on         |
|-----------|----------------------------------------|--------------------------------------------|
| `cap`     | `cap`                                  | a session has so many items at most        |
| `damping` | `damping`                              | items that keep people longest score lower |
| `pause`   | `pause_after_minutes`, `pause_minutes` | nothing for a while after so long          |
| `quiet`   | `quiet_hours`, `time_zone`             | nothing at these hours                     |
| `finite`  | `finite_worth`, `items`                | items with an end go before those without  |

Each is off until its key is set, and has a threshold of its own, `<measure>_threshold`, where the
common one does not hold. `client.wellbeing` does it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import time
from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo

from shared.errors import ConfigError
from shared.sections import (
    Choice,
    Fraction,
    NonNegativeInt,
    NonNegativeNumber,
    OptionalOf,
    PositiveInt,
    PositiveNumber,
    Require,
    section,
)

__all__ = ["Measure", "WellbeingConfig", "Who", "is_time_zone"]

_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")
_MOST = 1000


class Who(StrEnum):
    """Whom the guard may protect: nobody, those who asked for it, or all but those who did not."""

    NOBODY = "nobody"
    OPTED_IN = "opted-in"
    ALL = "all"


class Measure(StrEnum):
    """What the guard can do; see the top of this module."""

    QUIET = "quiet"
    PAUSE = "pause"
    CAP = "cap"
    DAMPING = "damping"
    FINITE = "finite"


def is_time_zone(name: str) -> bool:
    """Return whether the database of time zones has a name.

    >>> [is_time_zone(name) for name in ("Europe/Berlin", "UTC", "../etc", "Mars/Base")]
    [True, True, False, False]
    """
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        return False
    return True


def _read_hours(text: str) -> tuple[time, time] | None:
    """Return begin and end of `HH:MM-HH:MM`; None where it is another text."""
    found = _HOURS.fullmatch(text)
    if found is None:
        return None
    numbers = [int(part) for part in found.groups()]
    try:
        begin, end = time(numbers[0], numbers[1]), time(numbers[2], numbers[3])
    except ValueError:
        return None
    return None if begin == end else (begin, end)


@section("wellbeing")
class WellbeingConfig:
    """The [wellbeing] table; paths are relative to site.toml.

    Attributes:
        who: "nobody", "opted-in" or "all"; the last leaves out who opted out.
        model: folder of the model of over-use.
        users: table of who opted in or out: the column of users of [data], `wellbeing` (true or
            false), and perhaps `time_zone`; "" for none.
        items: table of which items have an end: the column of items of [data], and `finite` (true
            or false); "" for none.
        threshold: risk, in [0, 1], from which the measures hold.
        session_gap_minutes: a session ends after so long without a list and without feedback.
        cap: most items that are recommended in a session; 0 for no cap.
        cap_threshold: instead of `threshold`; "none" takes that one. Likewise below.
        damping: λ >= 0 in score · exp(-λ e / mean e), with e the engagement of an item; 0 for none.
        damping_threshold: see `cap_threshold`.
        pause_after_minutes: of use in a row, after which there is a pause; 0 for none.
        pause_minutes: how long it is.
        pause_threshold: see `cap_threshold`.
        quiet_hours: `HH:MM-HH:MM` of local time, over midnight or not; "" for none.
        time_zone: whose local time, where the table of users has no other.
        quiet_threshold: see `cap_threshold`.
        finite_worth: how many times its score a finite item counts for; >= 1, 1 for no preference.
        finite_threshold: see `cap_threshold`.
        candidates: of the highest scores, from which damping and `finite` choose; k where that is
            more.

    Raises:
        ConfigError: the keys do not fit together.
    """

    who: Choice[Who] = Who.NOBODY
    model: str = ""
    users: str = ""
    items: str = ""
    threshold: Fraction = 0.5
    session_gap_minutes: PositiveNumber = 30.0
    cap: NonNegativeInt = 0
    cap_threshold: OptionalOf[Fraction] = None
    damping: NonNegativeNumber = 0.0
    damping_threshold: OptionalOf[Fraction] = None
    pause_after_minutes: NonNegativeNumber = 0.0
    pause_minutes: PositiveNumber = 5.0
    pause_threshold: OptionalOf[Fraction] = None
    quiet_hours: Annotated[
        str,
        Require(
            lambda text: not text or _read_hours(text) is not None,
            "give two times of the day, as 23:00-07:00, or '' for none",
        ),
    ] = ""
    time_zone: Annotated[str, Require(is_time_zone, "name a time zone, as Europe/Berlin")] = "UTC"
    quiet_threshold: OptionalOf[Fraction] = None
    finite_worth: Annotated[
        PositiveNumber, Require(lambda x: x >= 1, "choose a finite number >= 1; 1 is off")
    ] = 1.0
    finite_threshold: OptionalOf[Fraction] = None
    candidates: Annotated[
        PositiveInt, Require(lambda n: n <= _MOST, f"choose a whole number from 1 to {_MOST}")
    ] = 200

    def __post_init__(self) -> None:
        if self.who is Who.NOBODY:
            return
        if not self.model:
            raise ConfigError(
                f"wellbeing.who = '{self.who}' needs wellbeing.model, the folder of the model of "
                "over-use: name it, or set who = 'nobody'."
            )
        if not self.measures:
            raise ConfigError(
                f"wellbeing.who = '{self.who}', but no measure is on: set some of wellbeing.cap, "
                "damping, pause_after_minutes, quiet_hours and finite_worth, or who = 'nobody'."
            )
        if Measure.FINITE in self.measures and not self.items:
            raise ConfigError(
                f"wellbeing.finite_worth = {self.finite_worth:g} needs wellbeing.items, the table "
                "that says which items are finite: name it, or set finite_worth = 1."
            )

    @property
    def on(self) -> bool:
        """Whether anybody may be protected."""
        return self.who is not Who.NOBODY

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Those that are on, in the order in which they are looked at."""
        on = {
            Measure.QUIET: bool(self.quiet_hours),
            Measure.PAUSE: self.pause_after_minutes > 0,
            Measure.CAP: self.cap > 0,
            Measure.DAMPING: self.damping > 0,
            Measure.FINITE: self.finite_worth > 1,
        }
        return tuple(measure for measure, holds in on.items() if holds)

    @property
    def for_files(self) -> WellbeingConfig | None:
        """The policy of lists in a file, which are shown at a time that is not known.

        Without quiet hours and pauses: whoever shows the lists keeps them. None where nothing else
        is on.
        """
        if not self.on or not set(self.measures) - {Measure.QUIET, Measure.PAUSE}:
            return None
        return replace(self, quiet_hours="", pause_after_minutes=0.0)

    def threshold_of(self, measure: Measure) -> float:
        """Return the risk from which a measure holds."""
        own: float | None = getattr(self, f"{measure}_threshold")
        return self.threshold if own is None else own

    @property
    def least(self) -> float:
        """The lowest threshold of the measures that are on: below it nobody is protected."""
        return min(map(self.threshold_of, self.measures), default=1.0)

    @property
    def quiet(self) -> tuple[time, time] | None:
        """Begin and end of the quiet hours; None for none."""
        return _read_hours(self.quiet_hours)
