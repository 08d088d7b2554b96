"""What the guard does to one list: a pure function of candidates, risk, session, policy and time.

A measure holds where the risk is at least its threshold.

| measure   | what it does                                                                       |
|-----------|------------------------------------------------------------------------------------|
| `quiet`   | no item until the quiet hours end                                                  |
| `pause`   | no item for so long, after so long in a row                                        |
| `cap`     | no more items than the session has left                                            |
| `damping` | the k items of the highest log s - λ e / mean e                                    |
| `finite`  | each item without an end gives way to the finite one of the highest score that has |
|           |   no more engagement, and a score of at least 1 / worth of it                      |

The list is never more engaging for being at risk. With L_0 what is shown without the guard, L_1,
L_2, ... what the measures of each threshold up to the risk choose, and n the length that quiet
hours, pause and cap leave, the list is the L_i[:n] with the least sum of engagement. A higher risk
adds lists to this choice, and n does not grow, so neither length nor sum can rise with the risk.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from client.site.wellbeing import Measure, WellbeingConfig

__all__ = ["Action", "Candidates", "Decision", "Session", "decide", "engagement_of"]

Places = NDArray[np.int64]
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What one user's list can be chosen from.

    Attributes:
        scores: probabilities, float64 [C].
        engagement: of each, float64 [C], >= 0; see `client.wellbeing.engagement`.
        finite: whether each has an end, bool [C].
        plain: places in these arrays of what is shown without the guard, in its order, [k].
        typical: mean engagement of all items, >= 0.
    """

    scores: NDArray[np.float64]
    engagement: NDArray[np.float64]
    finite: NDArray[np.bool_]
    plain: Places
    typical: float


@dataclass(frozen=True, slots=True)
class Session:
    """A user's session so far; times in seconds since 1970.

    Attributes:
        last: of the last list with an item, or of the last feedback.
        since: when use in a row began: with the session, or after the last pause.
        items: that were recommended in it.
        pause_until: end of the last pause; 0 without one.
    """

    last: float
    since: float
    items: int = 0
    pause_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Action:
    """What a measure did to a list.

    Attributes:
        measure: which one.
        sentence: what was done and why, in plain words.
    """

    measure: Measure
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A list, and what was done to it.

    Attributes:
        places: of the items among the candidates, in their order, [n]; may be empty.
        actions: what was done; empty where the list is as without the guard.
        pause_seconds: until there may be a next list, where this one is empty on purpose; or 0.
        session: with this list.
    """

    places: Places
    actions: tuple[Action, ...]
    pause_seconds: int
    session: Session


def engagement_of(candidates: Candidates, places: Places) -> float:
    """Return a list's total expected engagement, correctly rounded."""
    return math.fsum(candidates.engagement[places].tolist())


def decide(
    candidates: Candidates,
    risk: float,
    session: Session,
    policy: WellbeingConfig,
    now: float,
    zone: tzinfo | None = None,
) -> Decision:
    """Return what is shown to a user of this risk.

    Args:
        candidates: with what would be shown otherwise.
        risk: in [0, 1].
        session: so far.
        policy: which measures there are, and from which risk.
        now: seconds since 1970.
        zone: of the user's local time; None takes that of the policy.
    """
    holding = [one for one in policy.measures if risk >= policy.threshold_of(one)]
    if Measure.QUIET in holding and (stop := _quiet_until(policy, now, zone)):
        begin, _, end = policy.quiet_hours.partition("-")
        sentence = f"Nothing is recommended from {begin} to {end}: these are quiet hours."
        return _nothing(Measure.QUIET, sentence, stop - now, session)
    if Measure.PAUSE in holding and (paused := _pause(policy, session, now)) is not None:
        return paused
    length, actions = len(candidates.plain), list[Action]()
    if Measure.CAP in holding:
        left = max(0, policy.cap - session.items)
        if not left:
            seconds = session.last + 60 * policy.session_gap_minutes - now
            sentence = (
                f"A session has {policy.cap} items at most, and they were shown. It ends after "
                f"{policy.session_gap_minutes:g} minutes without use."
            )
            return _nothing(Measure.CAP, sentence, seconds, session)
        if left < length:
            sentence = f"{left} of {length} items are shown: a session has {policy.cap} at most."
            actions.append(Action(Measure.CAP, sentence))
            length = left
    places, chosen = _choose(candidates, length, risk, policy)
    after = session
    if len(places):
        after = replace(session, last=now, items=session.items + len(places))
    return Decision(places, (*actions, *chosen), 0, after)


# --- no list -------------------------------------------------------------------------------------


def _nothing(measure: Measure, sentence: str, seconds: float, session: Session) -> Decision:
    wait = max(1, math.ceil(seconds))
    return Decision(np.zeros(0, np.int64), (Action(measure, sentence),), wait, session)


def _quiet_until(policy: WellbeingConfig, now: float, zone: tzinfo | None) -> float:
    """Return when the quiet hours end, in seconds since 1970; 0 outside of them."""
    if policy.quiet is None:
        return 0.0
    begin, end = policy.quiet
    zone = ZoneInfo(policy.time_zone) if zone is None else zone
    local = datetime.fromtimestamp(now, UTC).astimezone(zone)
    if not _within(local.time(), begin, end):
        return 0.0
    day = local.date() if local.time() < end else local.date() + _DAY
    return datetime.combine(day, end, zone).timestamp()


def _within(at: time, begin: time, end: time) -> bool:
    return begin <= at < end if begin < end else at >= begin or at < end


def _pause(policy: WellbeingConfig, session: Session, now: float) -> Decision | None:
    """Return the pause that there is, or that begins now; None for none."""
    after, minutes = policy.pause_after_minutes, policy.pause_minutes
    if now < session.pause_until:
        sentence = f"This is a pause of {minutes:g} minutes after {after:g} minutes in a row."
        return _nothing(Measure.PAUSE, sentence, session.pause_until - now, session)
    if now - session.since < 60 * after:
        return None
    end = now + 60 * minutes
    sentence = f"A pause of {minutes:g} minutes begins after {after:g} minutes in a row."
    return _nothing(
        Measure.PAUSE, sentence, 60 * minutes, replace(session, since=end, pause_until=end)
    )


# --- which items ---------------------------------------------------------------------------------


def _choose(
    candidates: Candidates, length: int, risk: float, policy: WellbeingConfig
) -> tuple[Places, list[Action]]:
    """Return the least engaging of the lists up to a risk, and how it differs from the plain one.

    Of equally engaging lists, that of the highest threshold.
    """
    best, said = candidates.plain[:length], list[Action]()
    least = engagement_of(candidates, best)
    choosing = [one for one in (Measure.DAMPING, Measure.FINITE) if one in policy.measures]
    for level in sorted({policy.threshold_of(one) for one in choosing}):
        if level > risk:
            break
        holding = [one for one in choosing if policy.threshold_of(one) <= level]
        places, actions = _choose_by(candidates, length, holding, policy)
        if (engagement := engagement_of(candidates, places)) <= least:
            best, said, least = places, actions, engagement
    return best, said


def _choose_by(
    candidates: Candidates, length: int, measures: Collection[Measure], policy: WellbeingConfig
) -> tuple[Places, list[Action]]:
    plain, actions = candidates.plain[:length], list[Action]()
    places = plain
    if Measure.DAMPING in measures:
        places = _damped(candidates, policy.damping)[:length]
        if gone := len(np.setdiff1d(plain, places)):
            sentence = f"{gone} of {length} items gave way to others that keep people less long."
            actions.append(Action(Measure.DAMPING, sentence))
        elif not np.array_equal(places, plain):
            sentence = "Items that keep people longest stand lower in the list."
            actions.append(Action(Measure.DAMPING, sentence))
    if Measure.FINITE in measures:
        before, places = places, _with_finite(candidates, places, policy.finite_worth)
        if swapped := int((before != places).sum()):
            sentence = f"{swapped} of {length} items gave way to others that have an end."
            actions.append(Action(Measure.FINITE, sentence))
    # What one measure took out, the other may bring back: then nothing was done.
    return places, [] if np.array_equal(places, plain) else actions


def _damped(candidates: Candidates, strength: float) -> Places:
    """Return as many places as the plain list has, by log s - λ e / mean e; equal ones in order."""
    scores = candidates.scores.clip(min=np.finfo(np.float64).tiny)
    relative = candidates.engagement / candidates.typical if candidates.typical > 0 else 0.0
    order = np.argsort(-(np.log(scores) - strength * relative), kind="stable")
    return order[: len(candidates.plain)].astype(np.int64)


def _with_finite(candidates: Candidates, places: Places, worth: float) -> Places:
    """Return a list with finite items in place of others, from the last place to the first."""
    scores, engagement = candidates.scores, candidates.engagement
    free = candidates.finite.copy()
    free[places] = False
    chosen = places.copy()
    for place in range(len(places) - 1, -1, -1):
        own = places[place]
        if candidates.finite[own]:
            continue
        fit = free & (engagement <= engagement[own]) & (scores * worth >= scores[own])
        if fit.any():
            other = int(np.where(fit, scores, -1.0).argmax())
            chosen[place], free[other] = other, False
    return chosen
