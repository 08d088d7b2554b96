"""How engaging items are: how much further use follows them, from the partner's own sessions.

An event's further use F is the number of events after it in its session (at most 50, so that one
endless session does not decide). A session ends with a gap of more than 30 minutes. Early events of
a session have more after them, and so have those of users who stay long, whatever the item. So F is
compared with what is expected of the position p in the session and of the user u, and ē is the mean
F of all events:

    w(u) = (Σ_u F + 5 ē) / (Σ_u m(p) + 5 ē),    m(p) the mean F at position p,
    e(j) = ē · (Σ_j F + 20 ē) / (Σ_j m(p) w(u) + 20 ē),

with sums over the events of user u, and of item j. Users and items with few events are near the
mean: 5 and 20 events of it are added to theirs.

This, because over-use is use that goes on: ratings say what is liked, clicks what is begun, and
neither what is not ended. It is an association: what is chosen when people have time looks as if
it took it. It is computed at home from exact data, and never sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories

__all__ = ["Engagement", "estimate_engagement"]

Floats = NDArray[np.float64]
_MICROSECONDS = 60 * 10**6
_MOST = 50
"""Further events, and positions, beyond which all count alike."""
_PRIOR_OF_USER, _PRIOR_OF_ITEM = 5.0, 20.0
"""Events of the mean that are added."""


@dataclass(frozen=True, slots=True, eq=False)
class Engagement:
    """The estimate.

    Attributes:
        values: by internal id, float64 [V + 1], >= 0; number 0 is nobody's.
        mean: further events of an event, ē >= 0; 0 where no session has two events.
    """

    values: NDArray[np.float64]
    mean: float


def estimate_engagement(histories: Histories, items: int, gap_minutes: float = 30.0) -> Engagement:
    """Estimate the engagement of every item.

    Args:
        histories: the partner's own, with times.
        items: V.
        gap_minutes: a session ends with a longer gap.

    Raises:
        ValueError: the histories have no times.

    >>> own = Histories.from_lists([[1, 2], [1, 2]], times=[[0, 1], [0, 1]])
    >>> estimate_engagement(own, 3).values.round(2).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    if histories.times is None:
        raise ValueError("these histories have no times")
    events = histories.events
    if not events:
        return Engagement(np.zeros(items + 1), 0.0)
    begins = np.zeros(events + 1, np.bool_)
    begins[histories.offsets] = True
    gaps = np.diff(histories.times) > gap_minutes * _MICROSECONDS
    begins[1:-1] |= gaps
    starts = np.flatnonzero(begins)  # of each session, and the end of the last
    lengths = np.diff(starts)
    position = np.arange(events) - np.repeat(starts[:-1], lengths)
    further = np.minimum(np.repeat(lengths, lengths) - 1 - position, _MOST).astype(np.float64)
    position = np.minimum(position, _MOST)
    of_position = np.bincount(position, further) / np.bincount(position).clip(min=1)
    mean = float(further.mean())
    if mean == 0:
        return Engagement(np.zeros(items + 1), 0.0)
    expected = of_position[position]
    user = histories.rows
    expected = (
        expected * _ratios(user, further, expected, len(histories), _PRIOR_OF_USER * mean)[user]
    )
    ratios = _ratios(histories.items, further, expected, items + 1, _PRIOR_OF_ITEM * mean)
    return Engagement(mean * ratios, mean)


def _ratios(
    group: NDArray[np.int64], observed: Floats, expected: Floats, groups: int, prior: float
) -> Floats:
    """Return observed over expected sums of each group, [groups]; `prior` is added to both."""
    sums = (np.bincount(group, values, groups) + prior for values in (observed, expected))
    ratios: Floats = next(sums) / next(sums)
    return ratios
