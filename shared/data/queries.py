"""What users asked for in words, and what each of them then chose.

A query stands at a place in its user's history: after the events before it, and before the first
event of the item that was chosen. What is learned is what a user chooses who has not chosen it yet,
as where a query is answered; and a choice that is recorded before the query that it came from, by a
second or a day, is no part of what is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.data.histories import Histories, offsets_of
from shared.data.ids import canonical_id

__all__ = ["Asked", "Attributes", "Queries", "declared", "queries_of"]

Ints = npt.NDArray[np.int64]
Attributes = tuple[str, ...]
"""What a user declared, as "name=value"; see `declared`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One query.

    Attributes:
        user: canonical id.
        text: what was asked.
        item: internal id in 1..V of what was chosen.
        time: microseconds since 1970; None where it is not known.
        attributes: what the user has declared.
    """

    user: str
    text: str
    item: int
    time: int | None = None
    attributes: Attributes = ()


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Every user's queries, concatenated, beside histories of N users.

    Attributes:
        texts: length Q.
        items: internal ids of what was chosen, int64 [Q].
        places: how many events of its user are before each, int64 [Q].
        offsets: int64 [N + 1]; user i has the queries `offsets[i]` to `offsets[i + 1]`.
        attributes: what the user of each has declared, length Q.
    """

    texts: tuple[str, ...]
    items: Ints
    places: Ints
    offsets: Ints
    attributes: tuple[Attributes, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, user: int) -> Ints:
        """Return the numbers of a user's queries."""
        return np.arange(self.offsets[user], self.offsets[user + 1])


def declared(values: Mapping[str, str]) -> Attributes:
    """Return what a user declared, in the order of the names; an empty value says nothing.

    >>> declared({"gender": " F", "age": "25", "city": ""})
    ('age=25', 'gender=f')
    """
    found = {name: canonical_id(value).casefold() for name, value in values.items()}
    return tuple(f"{name}={value}" for name, value in sorted(found.items()) if value)


def queries_of(histories: Histories, asked: Iterable[Asked]) -> Queries:
    """Return the queries of the users who have a history, in their order for each user.

    Args:
        histories: of N users.
        asked: of any users.

    >>> read = Histories.from_lists([[3, 1, 2]], times=[[10, 20, 30]])
    >>> asked = [Asked("0", "a", 2, 25), Asked("0", "b", 1, 25), Asked("1", "c", 1)]
    >>> queries_of(read, asked).places
    array([2, 1])
    """
    row_of = {user: row for row, user in enumerate(histories.users)}
    known = [(row_of[one.user], one) for one in asked if one.user in row_of]
    known.sort(key=lambda pair: pair[0])
    rows = np.array([row for row, _ in known], np.int64)
    return Queries(
        texts=tuple(one.text for _, one in known),
        items=np.array([one.item for _, one in known], np.int64),
        places=np.array([_place(histories, row, one) for row, one in known], np.int64),
        offsets=offsets_of(np.bincount(rows, minlength=len(histories))),
        attributes=tuple(one.attributes for _, one in known),
    )


def _place(histories: Histories, row: int, one: Asked) -> int:
    """Return how many events are before a query and before the first of what was chosen."""
    events = histories[row]
    same = np.flatnonzero(events == one.item)
    place = int(same[0]) if len(same) else len(events)
    if one.time is None or histories.times is None:
        return place
    times = histories.times[histories.offsets[row] : histories.offsets[row + 1]]
    return min(place, int(np.searchsorted(times, one.time, side="left")))
