"""Each user's own history, in memory by user: the site's source, and feedback at once.

The source is read whole when the service starts and when it changes, with the feedback that counts
as interactions. Feedback that arrives later is added from the store, by the number of its last
event. Dismissed items are kept beside the histories.
"""

from __future__ import annotations

import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from client.data.feedback import FeedbackStore
from client.data.interactions import Interaction, Kind
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.ids import canonical_id
from shared.errors import UnknownItemError

__all__ = ["UserHistories"]


class UserHistories:
    """The index; safe to use from several threads.

    Args:
        histories: of the source, with internal ids of `catalogue`.
        catalogue: the items.
        kinds: of feedback that counts as interactions.
        most: last events of a user that are kept.
    """

    def __init__(
        self, histories: Histories, catalogue: Catalogue, kinds: Sequence[str], most: int
    ) -> None:
        self.catalogue, self._kinds, self._most = catalogue, frozenset(kinds), most
        self._rows = {user: row for row, user in enumerate(histories.users)}
        self._items, self._offsets = histories.items.astype(np.int32), histories.offsets
        self._later: dict[str, list[int]] = defaultdict(list)
        self._dismissed: dict[str, set[str]] = defaultdict(set)
        forms = {canonical_id(item): number for item, number in catalogue.index.items()}
        self._numbers = forms | dict(catalogue.index)
        self._last, self._lock = 0, threading.Lock()
        self.shares = _popularity(self._items, len(catalogue))

    @classmethod
    def load(cls, site: Site, catalogue: Catalogue, store: FeedbackStore | None) -> UserHistories:
        """Read the site's source, and the store's events so far.

        Users of a row that cannot be read are left out, as in what a coordinator is answered.

        Raises:
            SiteError: the source or the store cannot be read.
            DataError: the source is not what it should be.
        """
        kinds, most = site.serve.interactions, site.serve.max_events
        last = store.last_number() if store is not None else 0
        events = [] if store is None else list(store.interactions(kinds))
        so_far = [event for event in events if event.number <= last]
        histories = site.load_histories(
            catalogue, most, strict=False, min_events=1, feedback=so_far
        )
        index = cls(histories, catalogue, kinds, most)
        if store is not None:
            index._last = last
            for dismissal in store.interactions([Kind.DISMISSED]):
                if dismissal.number <= last:
                    index._dismissed[dismissal.user].add(dismissal.item)
            index.catch_up(store)
        return index

    def __len__(self) -> int:
        """Return the number of users in the source."""
        return len(self._rows)

    def catch_up(self, store: FeedbackStore) -> int:
        """Add the store's events since the last one; return how many there were.

        Raises:
            SiteError: the store cannot be read.
        """
        with self._lock:
            events = list(store.interactions([*self._kinds, Kind.DISMISSED], after=self._last))
            for event in events:
                self._add(event)
            return len(events)

    def _add(self, event: Interaction) -> None:
        self._last = max(self._last, event.number)
        if event.kind in self._kinds:
            if item := self._numbers.get(event.item):
                later = self._later[event.user]
                later.append(item)
                del later[: -self._most]
        elif event.kind is Kind.DISMISSED:
            self._dismissed[event.user].add(event.item)

    @property
    def of_source(self) -> Histories:
        """The source's, without feedback that came later."""
        return Histories(tuple(self._rows), self._items.astype(np.int64), self._offsets)

    def find(self, user: str) -> list[int] | None:
        """Return the internal ids of a user's events, oldest first; None for an unknown user."""
        name = canonical_id(user)
        row, later = self._rows.get(name), self._later.get(name)
        if row is None:
            return list(later) if later else None
        own: list[int] = self._items[self._offsets[row] : self._offsets[row + 1]].tolist()
        return [*own, *later][-self._most :] if later else own

    def search(self, text: str, most: int = 20) -> list[str]:
        """Return the canonical ids of users whose id contains a text, in any case.

        The id itself comes first, then those that begin with it, then the others, each in the order
        of the source.

        Args:
            text: what is typed; "" finds the first users.
            most: how many are returned, >= 1.
        """
        wanted = canonical_id(text).casefold()
        if not wanted:
            return list(islice(self._users(), most))
        exact, begins, contains = list[str](), list[str](), list[str]()
        for user in self._users():
            form = user.casefold()
            if wanted not in form:
                continue
            found = exact if form == wanted else begins if form.startswith(wanted) else contains
            if len(found) < most:
                found.append(user)
        return [*exact, *begins, *contains][:most]

    def any_user(self) -> str | None:
        """Return a user drawn at random; None where there is none."""
        users = list(self._users())
        return secrets.choice(users) if users else None

    def _users(self) -> Iterator[str]:
        yield from self._rows
        yield from (user for user in list(self._later) if user not in self._rows)

    def dismissed(self, user: str) -> frozenset[str]:
        """Return the items that a user dismissed, as far as the catalogue has them."""
        items = self._dismissed.get(canonical_id(user))
        if not items:
            return frozenset()
        return frozenset(item for item in items if item in self._numbers)

    def locate(self, items: Sequence[str], *, skip_unknown: bool) -> list[int]:
        """Return the internal ids of items that a client names.

        Args:
            items: public ids.
            skip_unknown: whether those that the catalogue does not have are left out.

        Raises:
            UnknownItemError: the catalogue does not have one, and they are not left out.
        """
        numbers = [
            self._numbers.get(item) or self._numbers.get(canonical_id(item), 0) for item in items
        ]
        if not skip_unknown and not all(numbers):
            unknown = [item for item, number in zip(items, numbers, strict=True) if not number]
            raise UnknownItemError(unknown, "the history", sorted(set(self.catalogue.domains)))
        return [number for number in numbers if number]

    def knows(self, item: str) -> bool:
        """Return whether the catalogue has an item, by its canonical id."""
        return item in self._numbers


def _popularity(items: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.float64]:
    """Return, by internal id from 1, the share of items that are at most as popular: [V + 1]."""
    counts = np.bincount(items, minlength=size + 1)[1:]
    ranks = np.searchsorted(np.sort(counts), counts, side="right") / size
    return np.concatenate([np.zeros(1), ranks])
