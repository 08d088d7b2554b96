"""Invented users of a service: how often they come, and how long they stay.

All of it is invented; the numbers are stated here so that they can be doubted.

| of a user with propensity a ~ N(0, 1)  | is                                                      |
|----------------------------------------|---------------------------------------------------------|
| sessions a day                         | Poisson, .7 exp(.3 a + .5 b), with habit b ~ N(0, 1)    |
| begin                                  | from 18 to 22 h or, with sigmoid(a + c - 2), from 22 to |
|                                        |   2 h, with habit c ~ N(0, 1)                           |
| a step of a session                    | looks at ten films and perhaps chooses one              |
|                                        |   (`ClickModel`: .6 of relevant ones, .1 of others)     |
| minutes of a step                      | 20 with a film, 2 without                               |
| goes on after a step, with the chance  | sigmoid(.3 + .9 a + .6 d + exp(.4 a) g), with habit     |
|                                        |   d ~ N(0, 1)                                           |
| when no film is shown                  | leaves, half the time; otherwise comes back after the   |
|                                        |   pause, and goes on                                    |

g is the engagement of the film that was chosen, or the mean of those shown, weighed by the looks at
their positions. A film's true engagement is N(0, 1), correlated by .3 with the logarithm of its
popularity, and lower by .5 for the two fifths of the films that are called finite. The tenth of the
highest propensity is at risk. Habits are not propensity: they make others look as if they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FILM_MINUTES",
    "LOOK_MINUTES",
    "Films",
    "Users",
    "invent_films",
    "invent_users",
]

FILM_MINUTES, LOOK_MINUTES = 20.0, 2.0
_HOUR, _DAY = 3600.0, 86400.0
_FINITE, _FINITE_LESS, _CORRELATION = 0.4, 0.5, 0.3
_AT_RISK = 0.1

Floats = NDArray[np.float64]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@dataclass(frozen=True, slots=True, eq=False)
class Films:
    """The truth about the films.

    Attributes:
        engagement: by internal id, [V + 1].
        finite: by internal id, bool [V + 1].
    """

    engagement: Floats
    finite: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Users:
    """The truth about the users.

    Attributes:
        propensity: a, [N].
        habits: b, c and d, [N, 3].
        at_risk: the tenth with the highest, bool [N].
    """

    propensity: Floats
    habits: Floats
    at_risk: NDArray[np.bool_]

    def begins(self, user: int, days: int, random: np.random.Generator) -> list[float]:
        """Draw when a user comes, in seconds from the first midnight, ascending."""
        own, (often, late, _) = float(self.propensity[user]), self.habits[user].tolist()
        begins, rate = [], 0.7 * math.exp(0.3 * own + 0.5 * often)
        for day, count in enumerate(random.poisson(rate, days).tolist()):
            for _ in range(count):
                night = random.random() < _sigmoid(own + late - 2)
                hour = (22.0 if night else 18.0) + 4 * random.random()
                begins.append(_DAY * day + _HOUR * hour)
        return sorted(begins)

    def goes_on(self, user: int, engagement: float, random: np.random.Generator) -> bool:
        """Draw whether a session goes on after a film, or a list, of some engagement."""
        own, stays = float(self.propensity[user]), float(self.habits[user, 2])
        chance = _sigmoid(0.3 + 0.9 * own + 0.6 * stays + math.exp(0.4 * own) * engagement)
        return bool(random.random() < chance)


def invent_films(counts: NDArray[np.int64], random: np.random.Generator) -> Films:
    """Invent what films are like.

    Args:
        counts: events of each, by internal id, [V + 1].
        random: source.
    """
    popularity = np.log1p(counts)
    popularity = (popularity - popularity.mean()) / popularity.std()
    noise = random.normal(size=len(counts))
    engagement = _CORRELATION * popularity + math.sqrt(1 - _CORRELATION**2) * noise
    finite = random.random(len(counts)) < _FINITE
    return Films(engagement - _FINITE_LESS * finite, finite)


def invent_users(number: int, random: np.random.Generator) -> Users:
    """Invent users; the tenth of the highest propensity is at risk."""
    propensity = random.normal(size=number)
    least = np.sort(propensity)[-max(1, round(_AT_RISK * number))]
    return Users(propensity, random.normal(size=(number, 3)), propensity >= least)
