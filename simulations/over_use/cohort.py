"""Invented users with a latent risk that drives their sessions: the truth is known.

What a user does follows from a few numbers of that user. Those in the first part of the table do
not depend on the risk z, those in the second do.

| of a user           | is                                                                        |
|---------------------|---------------------------------------------------------------------------|
| risk z              | N(0, 1), higher by 0.5 among the young                                    |
| age                 | young (40%) or older                                                      |
| work                | days, or shifts (10%), who are up at night whatever their risk            |
| sessions a day      | log-normal, median 0.7; on single days of binge three times as many       |
| minutes a session   | log-normal, median 18, as in the fourth of eight observed weeks           |
| minutes an event    | log-normal, median 3: what one event is differs between users             |
| trend               | 0.06 z - 0.03 a week, in the logarithm of a session's minutes             |
| night               | chance of a session by night, sigmoid(-2 + 0.8 z), + 2 with shifts        |
| binge days          | share of days, 0.03 + 0.12 sigmoid(z); other days have fewer sessions     |
| played by itself    | share of events, sigmoid(-0.5 + 0.7 z)                                    |

So counts over the observed weeks tell little of the risk, by construction: how sessions grow, when
they are, and how they bunch together does. Whether real users are like that is another question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.over_use.sessions import DAY, WEEK

__all__ = ["OBSERVED_WEEKS", "WEEKS", "Cohort", "make_cohort"]

WEEKS, OBSERVED_WEEKS = 12, 8
"""Weeks of events, and those before the present."""
_START = 19_000 * DAY
"""A midnight in UTC."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Users and the truth about them.

    Attributes:
        times: of each user's events, ascending, in seconds since 1970.
        recommended: which events were played by themselves.
        now: the present of all users.
        end: when their events end.
        risk: the latent risk z of each user.
        hours: expected hours a day after the present, from the latent numbers alone.
        groups: each user's age and work.
    """

    times: list[Floats]
    recommended: list[NDArray[np.bool_]]
    now: float
    end: float
    risk: Floats
    hours: Floats
    groups: dict[str, tuple[str, ...]]


def make_cohort(users: int, seed: int) -> Cohort:
    """Invent users; the same for the same seed."""
    random = np.random.default_rng([seed, 0x0E5E])
    young, shifts = random.random(users) < 0.4, random.random(users) < 0.1
    risk = random.normal(size=users) + 0.5 * young
    rate = 0.7 * np.exp(0.4 * random.normal(size=users))
    minutes = 18 * np.exp(0.4 * random.normal(size=users))
    spacing = np.clip(3 * np.exp(0.6 * random.normal(size=users)), 0.5, 12)
    trend = 0.06 * risk - 0.03
    owner, day = _session_days(random, rate, 0.03 + 0.12 * _sigmoid(risk))
    night = random.random(len(owner)) < _sigmoid(-2 + 0.8 * risk + 2 * shifts)[owner]
    hour = np.where(night, 23 + 6 * random.random(len(owner)), 9 + 13 * random.random(len(owner)))
    growth = np.exp(trend[owner] * (day / 7 - OBSERVED_WEEKS / 2))
    length = minutes[owner] * growth * np.exp(0.5 * random.normal(size=len(owner)))
    length = np.minimum(length, 600)
    count = 1 + np.floor(length / spacing[owner]).astype(np.int64)
    session = np.repeat(np.arange(len(owner)), count)
    place = np.arange(len(session)) - np.repeat(np.cumsum(count) - count, count)
    share = (place + random.random(len(session))) / count[session]
    times = _START + DAY * day[session] + 3600 * hour[session] + 60 * length[session] * share
    played = random.random(len(session)) < _sigmoid(-0.5 + 0.7 * risk)[owner[session]]
    order = np.lexsort((times, owner[session]))
    cuts = np.cumsum(np.bincount(owner[session], minlength=users))[:-1]
    later = np.exp(trend * ((WEEKS + OBSERVED_WEEKS) / 2 - OBSERVED_WEEKS / 2))
    return Cohort(
        times=np.split(times[order], cuts),
        recommended=np.split(played[order], cuts),
        now=_START + WEEK * OBSERVED_WEEKS,
        end=_START + WEEK * WEEKS,
        risk=risk,
        hours=rate * minutes * later / 60,
        groups={
            "age": tuple(np.where(young, "young", "older").tolist()),
            "work": tuple(np.where(shifts, "shifts", "days").tolist()),
        },
    )


def _session_days(
    random: np.random.Generator, rate: Floats, binge: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the user and the day of each session."""
    shape = (len(rate), 7 * WEEKS)
    more = np.where(random.random(shape) < binge[:, None], 3.0, 1.0)
    sessions = random.poisson(rate[:, None] * more / (1 + 2 * binge)[:, None])
    owner, day = np.nonzero(sessions)
    counts = sessions[owner, day]
    return np.repeat(owner, counts), np.repeat(day, counts)


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-x))
    return result
