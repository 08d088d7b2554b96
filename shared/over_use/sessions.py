"""Sessions of one user's event times, and bounded features of the last of them.

A session ends where nothing happens for longer than the rule's gap. Each feature of a session is
in [-1, 1] by its formula, for any times: none is scaled by what other users do. All but `growth`
are 2x - 1 of a share x in [0, 1], so that they lie about 0, which gradient descent needs.

| column        | x, and `growth` itself                                                       |
|---------------|------------------------------------------------------------------------------|
| `events`      | log(1 + events), over log(1 + 500), at most 1                                |
| `minutes`     | log(1 + minutes from first to last event), over log(1 + 720), at most 1      |
| `gap`         | log(1 + hours since the session before), over log(1 + 24 * 90), at most 1;   |
|               |   1 for the first one that is read                                           |
| `night`       | share of the events between the rule's night hours                           |
| `pace`        | log(1 + events an hour), over log(1 + 600), at most 1; 0 for a single event  |
| `growth`      | log(1 + minutes) less its mean over earlier sessions, halved, in [-1, 1];    |
|               |   0 for the first one                                                        |
| `run`         | sessions begun within a day up to this one's begin, itself included; over    |
|               |   10, at most 1                                                              |
| `age`         | log(1 + days from the session's end to the present), over log(1 + 365)       |
| `recommended` | share of the events that were recommended or played automatically; 0 where   |
|               |   that is not known                                                          |

Only events after the present less the rule's weeks, and not after the present, are read. Hours of
the day are UTC, unless the rule has an offset. A user's features depend on that user's own events
alone, in every bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DAY", "FEATURES", "WEEK", "SessionRule", "Sessions", "features_of", "session_features"]

FEATURES = (*("events", "minutes", "gap", "night", "pace", "growth", "run", "age", "recommended"),)
"""Columns of the features, in order; F of them."""
DAY, WEEK = 86400.0, 7 * 86400.0
"""Seconds."""
_MOST_EVENTS, _MOST_MINUTES, _MOST_GAP_HOURS, _MOST_PACE = 500.0, 720.0, 24 * 90.0, 600.0
_MOST_RUN, _MOST_AGE_DAYS, _GROWTH = 10.0, 365.0, 2.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SessionRule:
    """What a session is, and how much of the past is read: public constants.

    Attributes:
        gap_minutes: a session ends where nothing happens for longer; > 0.
        sessions: how many of the last ones are read, S; >= 1.
        weeks: how far back events are read; > 0.
        night_from: local hour at which the night begins, in [0, 24).
        night_until: local hour at which it ends, in [0, 24).
        utc_offset_hours: local time less UTC, in [-14, 14].

    Raises:
        ValueError: a value is out of its range.
    """

    gap_minutes: float = 30.0
    sessions: int = 16
    weeks: float = 8.0
    night_from: float = 23.0
    night_until: float = 5.0
    utc_offset_hours: float = 0.0

    def __post_init__(self) -> None:
        # NaN fails every comparison: each range is stated as what must hold.
        ranges = {
            "gap_minutes": 0 < self.gap_minutes < math.inf,
            "sessions": 1 <= self.sessions <= 1000,
            "weeks": 0 < self.weeks < math.inf,
            "night_from": 0 <= self.night_from < 24,
            "night_until": 0 <= self.night_until < 24,
            "utc_offset_hours": -14 <= self.utc_offset_hours <= 14,
        }
        for name, holds in ranges.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)} is out of range")

    def breaks(self, times: Floats) -> NDArray[np.int64]:
        """Return where sessions begin among ascending times, as positions; [0] is the first.

        >>> SessionRule(gap_minutes=10).breaks(np.array([0.0, 60.0, 1000.0]))
        array([0, 2])
        """
        later = np.flatnonzero(np.diff(times) > 60 * self.gap_minutes) + 1
        return np.concatenate([np.zeros(min(len(times), 1), np.int64), later])

    def is_night(self, times: Floats) -> NDArray[np.bool_]:
        """Return which times are in the night.

        >>> SessionRule().is_night(3600.0 * np.array([22.0, 23.0, 28.0, 29.0]))
        array([False,  True,  True, False])
        """
        hours = (times / 3600 + self.utc_offset_hours) % 24
        after, before = hours >= self.night_from, hours < self.night_until
        return after & before if self.night_from <= self.night_until else after | before


@dataclass(frozen=True, slots=True, eq=False)
class Sessions:
    """The last sessions of some users, the earliest first.

    Attributes:
        features: float32 [users, S, F], each in [-1, 1]; 0 where there is no session.
        mask: bool [users, S], where there is one; those of a user come first.
    """

    features: NDArray[np.float32]
    mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.mask)

    def of(self, users: NDArray[np.int64]) -> Sessions:
        """Return some users' sessions."""
        return Sessions(self.features[users], self.mask[users])


def session_features(
    times: Sequence[Floats],
    now: Floats,
    rule: SessionRule,
    recommended: Sequence[NDArray[np.bool_]] | None = None,
) -> Sessions:
    """Return the features of each user's last sessions.

    Args:
        times: of each user's events, ascending, in seconds since 1970 (UTC).
        now: each user's present, [users]: nothing later is read.
        rule: what a session is.
        recommended: which events were recommended or played automatically; None if not known.

    Raises:
        ValueError: a user's times are not ascending or not finite.
    """
    features = np.zeros((len(times), rule.sessions, len(FEATURES)), np.float32)
    mask = np.zeros((len(times), rule.sessions), np.bool_)
    for user, own in enumerate(times):
        marks = None if recommended is None else recommended[user]
        rows = features_of(own, float(now[user]), rule, marks)
        features[user, : len(rows)], mask[user, : len(rows)] = rows, True
    return Sessions(features, mask)


def features_of(
    times: Floats, now: float, rule: SessionRule, recommended: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Return the features of one user's last sessions, [at most S, F]; see the table above.

    Raises:
        ValueError: the times are not ascending or not finite.
    """
    times = np.asarray(times, np.float64)
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError("event times must be finite and ascending")
    read = (times > now - WEEK * rule.weeks) & (times <= now)
    own = times[read]
    if not len(own):
        return np.zeros((0, len(FEATURES)), np.float32)
    marks = np.zeros(len(own), np.bool_) if recommended is None else recommended[read]
    begin = rule.breaks(own)
    events = np.diff(np.append(begin, len(own)))
    first, last = own[begin], own[begin + events - 1]
    minutes, gaps = (last - first) / 60, (first[1:] - last[:-1]) / 3600
    hours = np.maximum(minutes, 1.0) / 60
    shares = {
        "events": _log_share(events, _MOST_EVENTS),
        "minutes": _log_share(minutes, _MOST_MINUTES),
        "gap": np.concatenate([[1.0], _log_share(gaps, _MOST_GAP_HOURS)]),
        "night": np.add.reduceat(rule.is_night(own).astype(np.float64), begin) / events,
        "pace": np.where(events > 1, _log_share(events / hours, _MOST_PACE), 0.0),
        "run": np.minimum(_recent_sessions(first) / _MOST_RUN, 1.0),
        "age": _log_share((now - last) / DAY, _MOST_AGE_DAYS),
        "recommended": np.add.reduceat(marks.astype(np.float64), begin) / events,
    }
    features = {name: 2 * share - 1 for name, share in shares.items()}
    features["growth"] = _growth(np.log1p(minutes))
    rows = np.stack([features[name] for name in FEATURES], axis=1)
    return rows[-rule.sessions :].astype(np.float32)


def _log_share(values: Floats | NDArray[np.int64], most: float) -> Floats:
    """Return log(1 + x) / log(1 + most), at most 1."""
    return np.minimum(np.log1p(values) / math.log1p(most), 1.0)


def _growth(lengths: Floats) -> Floats:
    """Return each length less the mean of those before it, over `_GROWTH`, in [-1, 1]."""
    counts = np.arange(len(lengths))
    means = (np.cumsum(lengths) - lengths) / np.maximum(counts, 1)
    return np.where(counts > 0, np.clip((lengths - means) / _GROWTH, -1, 1), 0.0)


def _recent_sessions(first: Floats) -> Floats:
    """Return how many sessions began within a day up to each one's begin."""
    before = np.searchsorted(first, first - DAY, side="right")
    return (np.arange(1, len(first) + 1) - before).astype(np.float64)
