"""Items as people name them: by public id, by list and by category, to internal ids and masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shared.data.catalogue import Catalogue
from shared.data.ids import canonical_id
from shared.errors import RequestError, UnknownItemError

__all__ = ["Filters", "Mask", "NamedItems"]

_KEPT_FILTERS = 32
"""Filters whose items are not looked up again; each holds a byte an item."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which items may be recommended.

    Attributes:
        exclude_seen: leave out what is in the user's history.
        allow: public ids of the only items that may be recommended; None allows all.
        deny: public ids of items that may not be recommended.
        categories: an item must have one of these genres; empty asks for none.
    """

    exclude_seen: bool = True
    allow: frozenset[str] | None = None
    deny: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()


class NamedItems:
    """The items of a catalogue, found by their names.

    Args:
        catalogue: the items.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        forms = {canonical_id(item): number for item, number in catalogue.index.items()}
        self._numbers = forms | dict(catalogue.index)
        self._categories = {genre for genres in set(catalogue.genres) for genre in genres}
        self._kept = lru_cache(maxsize=_KEPT_FILTERS)(self._hide)

    def hidden(self, filters: Filters) -> Mask | None:
        """Return which items the filters leave out, bool [V]; None where there is none.

        What users have seen is not looked at.

        Raises:
            UnknownItemError: the filters name an item that is not there.
            RequestError: a category is not there.
        """
        return self._kept(filters)

    def find(
        self, ids: Sequence[str], where: str, *, skip_unknown: bool = False
    ) -> tuple[list[int], list[int]]:
        """Return positions and internal ids of what the catalogue has.

        Args:
            ids: public ids, in any spelling of theirs.
            where: what names them, for the error.
            skip_unknown: leave out those that the catalogue does not have.

        Raises:
            UnknownItemError: an item is not there.
            RequestError: `ids` is one text.
        """
        if isinstance(ids, str):
            raise RequestError(f"a list of item ids is needed, not the text {ids!r} alone.")
        numbers = [self._number(item) for item in ids]
        if not skip_unknown and not all(numbers):
            unknown = [str(item) for item, number in zip(ids, numbers, strict=True) if not number]
            raise UnknownItemError(unknown, where, sorted(set(self._catalogue.domains)))
        places = [place for place, number in enumerate(numbers) if number]
        return places, [numbers[place] for place in places]

    def _number(self, item: str) -> int:
        """Return an internal id, 0 where there is no such item."""
        text = str(item)
        return self._numbers.get(text) or self._numbers.get(canonical_id(text), 0)

    def _columns_of(self, items: Iterable[str], where: str) -> npt.NDArray[np.int64]:
        names = sorted(items)
        numbers = [self._number(item) for item in names]
        if not all(numbers):
            unknown = [item for item, number in zip(names, numbers, strict=True) if not number]
            raise UnknownItemError(unknown, where, sorted(set(self._catalogue.domains)))
        return np.array(numbers, np.int64) - 1

    def _hide(self, filters: Filters) -> Mask | None:
        """Return which items the lists and categories leave out, bool [V]; None for no item."""
        if filters.allow is None and not filters.deny and not filters.categories:
            return None
        hidden = np.zeros(len(self._catalogue), np.bool_)
        if filters.allow is not None:
            hidden[:] = True
            hidden[self._columns_of(filters.allow, "the allow list")] = False
        hidden[self._columns_of(filters.deny, "the deny list")] = True
        if filters.categories:
            if unknown := sorted(filters.categories - self._categories):
                known = ", ".join(sorted(self._categories)[:20]) or "none"
                raise RequestError(
                    f"no item has the category {unknown[0]!r}. The catalogue's are: {known}."
                )
            wanted = [bool(filters.categories.intersection(own)) for own in self._catalogue.genres]
            hidden |= ~np.array(wanted)
        return hidden
