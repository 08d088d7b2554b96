"""Limits on how fast one user's events count: what is more is dropped before histories are made.

Spam and scripts write many events in little time. A user's events, in time order, pass three
rules, from top to bottom:

| rule                                                       | what is dropped, and its counter   |
|------------------------------------------------------------|------------------------------------|
| the item of an event has an event of the same user less    | the later event: `repeat`          |
|   than `repeat_seconds` before; without times: it is also  |                                    |
|   the item of the user's event before                      |                                    |
| more than `per_minute` events of the user lie in the 60 s  | this last event: `over_minute`     |
|   that end with it; needs times                            |                                    |
| more than `per_day` in the 24 h that end with it; likewise | this last event: `over_day`        |

So the oldest events stay, and a burst that goes on is dropped until it pauses. What becomes of an
event depends on events of its own user alone. 0 switches a rule off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["LIMITS", "NO_LIMITS", "REASONS", "EventLimits"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

REASONS = ("repeat", "over_minute", "over_day")
"""Names of what the rules drop, in their order."""
_SECOND, _MINUTE, _DAY = 10**6, 60, 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLimits:
    """The limits; see the table at the top of this module.

    Attributes:
        per_minute: most events of a user in 60 seconds; 0 for no limit. Ratings are imported in
            bursts: in MovieLens latest-small the fastest user has 392 in a minute, so the default
            drops none of them.
        per_day: most in 24 hours; 0 for no limit. The most of a user there are 1,585.
        repeat_seconds: seconds within which the same item counts once; 0 counts every event.
    """

    per_minute: int = 500
    per_day: int = 2000
    repeat_seconds: int = 3600

    def dropped(
        self, user: npt.NDArray[np.integer], item: Ints, times: Ints | None
    ) -> dict[str, Mask]:
        """Mark the events that each rule drops.

        Args:
            user: whose each event is, [E]; sorted, and each user's events in time order.
            item: [E].
            times: microseconds, [E]; None where the data have positions instead.

        Returns:
            Reason -> bool [E]; an event has one reason at most.

        >>> user, item = np.array([1, 1, 1]), np.array([7, 7, 8])
        >>> found = LIMITS.dropped(user, item, np.array([0, 10**6, 10**6]))
        >>> found["repeat"].tolist(), found["over_minute"].any()
        ([False, True, False], np.False_)
        """
        repeat = np.zeros(len(user), np.bool_)
        if self.repeat_seconds:
            repeat = _repeats(user, item, times, self.repeat_seconds)
        marks = [repeat]
        for most, seconds in ((self.per_minute, _MINUTE), (self.per_day, _DAY)):
            rest = np.flatnonzero(~np.logical_or.reduce(marks))
            marks.append(np.zeros(len(user), np.bool_))
            if most and times is not None:
                marks[-1][rest[_too_fast(user[rest], times[rest], most, seconds)]] = True
        return dict(zip(REASONS, marks, strict=True))


LIMITS = EventLimits()
"""What holds unless a partner states other limits."""
NO_LIMITS = EventLimits(per_minute=0, per_day=0, repeat_seconds=0)


def _repeats(user: npt.NDArray[np.integer], item: Ints, times: Ints | None, seconds: int) -> Mask:
    """Mark events that follow one of the same user and item too soon."""
    # Sorting is stable: each user's events with one item stay in time order.
    order = np.arange(len(user)) if times is None else np.lexsort((item, user))
    repeats = np.zeros(len(user), np.bool_)
    later, before = order[1:], order[:-1]
    soon = (user[later] == user[before]) & (item[later] == item[before])
    if times is not None:
        soon &= times[later] - times[before] < seconds * _SECOND
    repeats[later[soon]] = True
    return repeats


def _too_fast(user: npt.NDArray[np.integer], times: Ints, most: int, seconds: int) -> Ints:
    """Return the events that have `most` or more of their user's in the time before."""
    same = user[most:] == user[:-most]
    return most + np.flatnonzero(same & (times[most:] - times[:-most] < seconds * _SECOND))
