"""The service with the guard, and one user's month with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.site.wellbeing import WellbeingConfig
from client.wellbeing.engagement import Engagement
from client.wellbeing.guard import Candidates, Session, decide
from client.wellbeing.sessions import Sessions
from simulations.benchmarks.day.clicks import ClickModel
from simulations.benchmarks.wellbeing.users import (
    FILM_MINUTES,
    LOOK_MINUTES,
    Films,
    Users,
)

__all__ = ["BEGIN", "Month", "Service", "live", "ndcg"]

BEGIN = 20_500 * 86_400.0
"""A midnight in UTC, where all users live."""
_K, _MINUTE = 10, 60.0
_LEAVES = 0.5
_MOST_MINUTES = 16 * 60.0
"""Of a session: somebody sleeps."""
_CLICKS = ClickModel(relevant=0.6, other=0.1)
_WEIGHTS = _CLICKS.looks(_K)


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """What the service knows, and whom it has.

    Attributes:
        films: the truth about them, of which the service knows which are finite.
        users: the truth about them, which it does not know.
        ids: internal ids of each user's candidates, best first, [N, C].
        scores: of them, [N, C].
        truth: what each user will like, by internal id.
        engagement: as estimated; None before there is an estimate.
    """

    films: Films
    users: Users
    ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    truth: Sequence[frozenset[int]]
    engagement: Engagement | None = None


@dataclass(slots=True)
class Month:
    """What one user did.

    Attributes:
        minutes: of use.
        lists: with a film.
        empty: lists without one.
        ndcg: of each list with a film, at 10.
        films: chosen, by internal id.
        times: of the choices, seconds since 1970, ascending.
        at_night: minutes of steps that began from 23 to 6 h.
    """

    minutes: float = 0.0
    lists: int = 0
    empty: int = 0
    ndcg: list[float] = field(default_factory=list)
    films: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_night: float = 0.0


def ndcg(relevant: Sequence[bool], most: int) -> float:
    """Return NDCG@10 of a list, given how many relevant films there are; 0 without any.

    >>> round(ndcg([False, True], 1), 3)
    0.631
    """
    if not most:
        return 0.0
    gained = sum(1 / math.log2(place + 2) for place, hit in enumerate(relevant) if hit)
    return gained / sum(1 / math.log2(place + 2) for place in range(min(most, _K)))


def live(
    service: Service,
    user: int,
    days: int,
    random: np.random.Generator,
    *,
    policy: WellbeingConfig | None = None,
    risk: float = 0.0,
) -> Month:
    """Let a user live through a month.

    Args:
        service: what is recommended.
        user: row number.
        days: of the month.
        random: of this user.
        policy: of the guard; None for none.
        risk: of the user, as the guard knows it.
    """
    visit = _Visits(service, user, random, policy, risk)
    free = BEGIN
    for begin in service.users.begins(user, days, random):
        now = max(BEGIN + begin, free)
        if now < BEGIN + 86_400.0 * days:
            free = visit.run(now)
    return visit.month


class _Visits:
    """One user's sessions, one after the other."""

    def __init__(
        self,
        service: Service,
        user: int,
        random: np.random.Generator,
        policy: WellbeingConfig | None,
        risk: float,
    ) -> None:
        self._service, self._user, self._random = service, user, random
        self._policy, self._risk = policy, risk
        self._left = list(range(service.ids.shape[1]))  # columns of films not seen yet
        self._column = {film: column for column, film in enumerate(service.ids[user].tolist())}
        self._truth = set(service.truth[user])
        self._sessions = Sessions(0.0 if policy is None else _MINUTE * policy.session_gap_minutes)
        self.month = Month()

    def run(self, now: float) -> float:
        """Live through one session; return when it ends."""
        month, begin = self.month, now
        films, users = self._service.films, self._service.users
        while now - begin < _MINUTE * _MOST_MINUTES and len(self._left) >= _K:
            shown, pause = self._ask(now)
            if not len(shown):
                month.empty += 1
                if self._random.random() < _LEAVES:
                    return now
                now += pause
                continue
            film = self._look(shown, now)
            minutes = LOOK_MINUTES if film is None else FILM_MINUTES
            month.minutes += minutes
            month.at_night += minutes * (not 6 <= now % 86_400.0 / 3600 < 23)
            now += _MINUTE * minutes
            weights = _WEIGHTS[: len(shown)]
            mean = float(films.engagement[shown] @ weights / weights.sum())
            engagement = mean if film is None else float(films.engagement[film])
            if not users.goes_on(self._user, engagement, self._random):
                break
        return now

    def _ask(self, now: float) -> tuple[NDArray[np.int64], float]:
        """Return the films that are shown, and for how long nothing is where there are none."""
        columns = np.array(self._left[: 200 if self._policy else _K], np.int64)
        ids = self._service.ids[self._user, columns]
        if self._policy is None:
            return ids, 0.0
        assert self._service.engagement is not None
        policy, estimate = self._policy, self._service.engagement
        candidates = Candidates(
            self._service.scores[self._user, columns],
            estimate.values[ids],
            self._service.films.finite[ids],
            np.arange(_K),
            estimate.mean,
        )

        def use(session: Session) -> tuple[Session, tuple[NDArray[np.int64], float]]:
            found = decide(candidates, self._risk, session, policy, now)
            return found.session, (ids[found.places], float(found.pause_seconds))

        return self._sessions.update("user", now, use)

    def _look(self, shown: NDArray[np.int64], now: float) -> int | None:
        """Look at a list, and return the film that is chosen; None for none."""
        month, names = self.month, shown.tolist()
        month.lists += 1
        liked = [film in self._truth for film in names]
        month.ndcg.append(ndcg(liked, len(self._truth)))
        chances = _WEIGHTS[: len(names)] * np.where(liked, _CLICKS.relevant, _CLICKS.other)
        drawn = self._random.random(len(names)) < chances
        if not drawn.any():
            return None
        film: int = names[int(drawn.argmax())]
        month.films.append(film)
        month.times.append(now)
        self._truth.discard(film)
        self._left.remove(self._column[film])
        return film
