"""Events of feedback that count as interactions, and their times in a source's own form."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

__all__ = ["TIME_FORMS", "Interaction", "Kind", "time_text"]

TIME_FORMS = {
    "seconds": "1600000000",
    "milliseconds": "1600000000000",
    "microseconds": "1600000000000000",
    "nanoseconds": "1600000000000000000",
    "iso": "2020-01-01T00:00:00Z",
}
"""A time in each form that a column may have, as `time_text` takes it."""


class Kind(StrEnum):
    """What happened to an item."""

    SHOWN = "shown"
    CLICKED = "clicked"
    CHOSEN = "chosen"
    DISMISSED = "dismissed"
    RATED = "rated"


@dataclass(frozen=True, slots=True)
class Interaction:
    """An event that counts for a user's history, or a dismissal.

    Attributes:
        number: place of the event in the store, from 1, increasing.
        user: in canonical form.
        item: in canonical form.
        time: microseconds since 1970 in UTC.
        kind: what happened.
    """

    number: int
    user: str
    item: str
    time: int
    kind: Kind


def time_text(time: int, like: str) -> str:
    """Write a time in the form of another one, so that both can stand in one column.

    Args:
        time: microseconds since 1970.
        like: a time of the column; whole numbers of the size of seconds, milliseconds, microseconds
            or nanoseconds, or ISO 8601; "position" for a column of positions.

    >>> time_text(1_700_000_000_250_000, "1600000000"), time_text(1_700_000_000_250_000, "position")
    ('1700000000.250000', '1700000000250000')
    >>> time_text(1_700_000_000_250_000, "2023-11-14T22:13:20Z")
    '2023-11-14T22:13:20.250000+00:00'
    """
    if like == "position":
        return str(time)
    try:
        size = abs(float(like))
    except ValueError:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)
        return at.isoformat(timespec="microseconds")
    if size < 10**11:
        return f"{time // 10**6}.{time % 10**6:06d}"
    if size < 10**14:
        return f"{time // 1000}.{time % 1000:03d}"
    return str(time if size < 10**17 else time * 1000)
