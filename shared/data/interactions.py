"""Rows of text -> checked interactions, as arrays of numbers.

Rows are read in batches. Only numbers are kept of all rows, 16 bytes a row, and each distinct id
once. The table at the top of `shared.data.reading` says which rows are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from shared.data.ids import MISSING, Batch, IdColumn, Spellings
from shared.data.tables import connect
from shared.data.times import UNREADABLE, Forms, TimeColumn

__all__ = ["Interactions", "collect"]

_MICRO = 10**6
_FRACTION = 10**18
"""What a unit of time is in units of `fraction`, for all units above a microsecond."""
_PER_SECOND = (1, 10**3, 10**6, 10**9, 10**6)
"""Units in a second of each form of a time, see `shared.data.times`."""

Codes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """E rows in the order in which they were read.

    Attributes:
        users: the distinct user ids in canonical form, in order of first appearance.
        items: the distinct item ids, likewise.
        user: int32 [E], indices into `users`.
        item: int32 [E], indices into `items`.
        time: int64 [E]; with `fraction`, it sorts as the times do.
        fraction: int64 [E], what is left of each time; None if all times are whole.
        per_second: units of `time` in a second; 0 for positions, which are no times.
        user_spellings: how the users' ids were written.
        item_spellings: how the items' ids were written.
        left_out: users of whom a row could not be read, bool [len(users)]; no row of theirs is
            here. All False after strict reading.
        nameless: rows without a readable user, which are not here.
        forms: of each row's time, int8 [E]; None after strict reading, when all are of one.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    user: Codes
    item: Codes
    time: Ints
    fraction: Ints | None = None
    per_second: int = 0
    user_spellings: Spellings = field(default_factory=Spellings)
    item_spellings: Spellings = field(default_factory=Spellings)
    left_out: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))
    nameless: int = 0
    forms: Forms | None = None

    @property
    def moment(self) -> tuple[Ints, ...]:
        """The arrays that tell two times apart, the least significant first."""
        return (self.time,) if self.fraction is None else (self.fraction, self.time)

    def microseconds(self, rows: Ints) -> Ints | None:
        """Return the times of some rows in microseconds since 1970, rounded down.

        None where they are positions. Rounding keeps the order of a user's times: those of
        another user may be of another form, and are read by that.
        """
        if not self.per_second:
            return None
        if self.forms is None:
            return self._microseconds(rows, self.per_second)
        micro = np.zeros(len(rows), np.int64)
        forms = self.forms[rows]
        for form, per_second in enumerate(_PER_SECOND):
            some = forms == form
            micro[some] = self._microseconds(rows[some], per_second)
        return micro

    def _microseconds(self, rows: Ints, per_second: int) -> Ints:
        if per_second > _MICRO:
            return np.asarray(self.time[rows] // (per_second // _MICRO), np.int64)
        factor = _MICRO // per_second
        micro = self.time[rows] * factor
        if self.fraction is not None and factor > 1:
            micro += self.fraction[rows] // (_FRACTION // factor)
        return micro

    def order(self) -> Ints:
        """Return all rows sorted by user, then by time, ties in their given order: [E]."""
        keys: list[Codes | Ints] = [*self.moment, self.user]
        return np.lexsort(keys)

    def tied(self, rows: Ints) -> Mask:
        """Mark the rows that follow a row of the same user and time: bool [len(rows) - 1].

        Args:
            rows: some rows, sorted as by `order`.
        """
        same = np.ones(max(len(rows) - 1, 0), np.bool_)
        columns: list[Codes | Ints] = [self.user, *self.moment]
        for column in columns:
            values = column[rows]
            same &= values[1:] == values[:-1]
        return same

    def repeated(self, order: Ints) -> Mask:
        """Mark the rows that repeat an earlier row's user, item and time: bool [E].

        Args:
            order: the result of `order`.
        """
        tied = np.flatnonzero(self.tied(order))
        # Usually few rows share user and time with another, so only those are sorted by item.
        rows = order[np.union1d(tied, tied + 1)]
        times = [part[rows] for part in self.moment]
        keys: list[Codes | Ints] = [rows, self.item[rows], *times, self.user[rows]]
        rows = rows[np.lexsort(keys)]  # the earliest copy comes first
        same = self.tied(rows) & (self.item[rows[1:]] == self.item[rows[:-1]])
        repeated = np.zeros(len(order), np.bool_)
        repeated[rows[1:][same]] = True
        return repeated


def collect(
    batches: Iterable[Batch],
    missing: Collection[str] = MISSING,
    known_items: Container[str] = (),
    *,
    strict: bool = True,
) -> Interactions:
    """Read and check all batches.

    Where reading is not strict, one user's rows decide nothing about another's: a user of whom a
    row cannot be read, or whose times have several forms or units, is left out whole; so is a row
    without a readable user.

    Args:
        batches: the rows, in order. A time column named `position` holds whole numbers.
        missing: spellings of a missing id.
        known_items: canonical item ids that are read although they are such a spelling.
        strict: whether a row that cannot be read is an error.

    Raises:
        DataError: an id or a time is refused, see `shared.data.ids` and `shared.data.times`; only
            if strict.
    """
    users = IdColumn(0, missing, strict=strict)
    items = IdColumn(1, missing, known_items, strict=strict)
    with connect() as connection:
        times = TimeColumn(connection, strict=strict)
        for batch in batches:
            if batch.rows.num_rows:
                users.add(batch)
                items.add(batch)
                times.add(batch)
    whole, fraction = times.values()
    read = Interactions(
        users=tuple(users.indices),
        items=tuple(items.indices),
        user=users.codes(),
        item=items.codes(),
        time=whole,
        fraction=fraction,
        per_second=times.per_second,
        user_spellings=users.spellings(),
        item_spellings=items.spellings(),
        left_out=np.zeros(len(users.indices), np.bool_),
    )
    return read if strict else _leave_out(read, times.forms())


def _leave_out(read: Interactions, forms: Forms) -> Interactions:
    """Leave out every user of whom a row could not be read or has a time of another form.

    Args:
        read: all rows, with the index -1 of an id that could not be read.
        forms: of each row's time, see `shared.data.times`: [E].
    """
    named = read.user >= 0
    # The last place is of those without a user, whose index is -1.
    left_out = np.zeros(len(read.users) + 1, np.bool_)
    left_out[read.user[(read.item < 0) | (forms == UNREADABLE)]] = True
    one_form = np.zeros(len(read.users) + 1, np.int8)
    one_form[read.user] = forms  # of any one of a user's rows
    left_out[read.user[forms != one_form[read.user]]] = True
    kept = named & ~left_out[read.user]
    return replace(
        read,
        user=read.user[kept],
        item=read.item[kept],
        time=read.time[kept],
        fraction=None if read.fraction is None else read.fraction[kept],
        left_out=left_out[:-1],
        nameless=int((~named).sum()),
        forms=forms[kept],
    )
