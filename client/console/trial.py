"""Recommendations to look at: users and titles that are searched, and lists with their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from client.console.desk import Blend, Table
from client.serving.explanation import attends_by_item, mean_attention
from shared.errors import RequestError

if TYPE_CHECKING:
    from client.serving.explanation import Explanation, PastEvent
    from client.serving.recommender import Recommended

__all__ = [
    "MOST_ITEMS",
    "Choice",
    "HistoryEvent",
    "Question",
    "Shown",
    "Trial",
    "find_titles",
    "try_it",
]

MOST_EVENTS, MOST_ITEMS, LONGEST_TEXT = 1000, 50, 200
"""Events of a history; items of a list; characters of what is typed."""
_MOST_TITLES = _MOST_REASONS = 12


@dataclass(frozen=True, slots=True)
class Question:
    """What is tried.

    Attributes:
        user: of the source; "" for a history.
        history: public ids, oldest first.
        blend: position of the slider.
        k: length of the list.
        seen: whether what is in the history may be recommended.
        category: of the items; "" for all.
    """

    user: str
    history: tuple[str, ...]
    blend: int
    k: int = 10
    seen: bool = False
    category: str = ""

    @classmethod
    def read(cls, fields: Mapping[str, Any], table: Table) -> Question:
        """Read what a page sends.

        Raises:
            RequestError: it is not as it must be.
        """
        history = fields.get("history", [])
        if not isinstance(history, list) or len(history) > MOST_EVENTS:
            raise RequestError(f"`history` is a list of at most {MOST_EVENTS:,} items.")
        if not all(isinstance(item, str) and len(item) <= LONGEST_TEXT for item in history):
            raise RequestError("`history` holds ids of items, as text.")
        blend, k = fields.get("blend", table.start), fields.get("k", 10)
        if type(blend) is not int or not 0 <= blend < len(table.blends):
            raise RequestError(f"`blend` is a number from 0 to {len(table.blends) - 1}.")
        if type(k) is not int or not 1 <= k <= MOST_ITEMS:
            raise RequestError(f"`k` is a number from 1 to {MOST_ITEMS}.")
        return cls(
            user=text_of(fields, "user"),
            history=tuple(history),
            blend=blend,
            k=k,
            seen=fields.get("seen", False) is True,
            category=text_of(fields, "category"),
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """A title that can be put into a history.

    Attributes:
        item: public id.
        title: the title, or the id where there is none.
        about: year and genres; may be empty.
    """

    item: str
    title: str
    about: str


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """An event of the history.

    Attributes:
        place: from 0.
        item: public id.
        title: the title, or the id where there is none.
        attention: of the federated model to it, the mean over the items that are shown; None where
            it does not read it.
    """

    place: int
    item: str
    title: str
    attention: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """A recommended item.

    Attributes:
        item: rank, id, title and score.
        about: year and genres; may be empty.
        reason: why.
        events: those that change the score most, the strongest first.
        others: how many events that were read are not among them.
    """

    item: Recommended
    about: str
    reason: Explanation
    events: tuple[PastEvent, ...]
    others: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What was recommended.

    Attributes:
        user: whose history it is; "" for a typed one.
        history: oldest first.
        shown: best first.
        blend: of published model and own counts.
        dismissed: items that the user dismissed, which are left out.
        model: its name.
        by_item: whether the model attends otherwise to the history for each item.
    """

    user: str
    history: tuple[HistoryEvent, ...]
    shown: tuple[Shown, ...]
    blend: Blend
    dismissed: int
    model: str
    by_item: bool = False


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """Return a short text that a page sends; "" where there is none.

    Raises:
        RequestError: it is no text, or too long.
    """
    text = fields.get(name, "")
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        raise RequestError(f"`{name}` is a text of at most {LONGEST_TEXT} characters.")
    return text


def find_titles(table: Table, text: str) -> list[Choice]:
    """Return at most twelve items whose title or id holds all words of a text.

    Those that begin with the text come first, and of alike ones the most popular of the source.
    """
    wanted = " ".join(text.casefold().split())
    words = wanted.split()
    if not words:
        return []
    found = [
        number for number, form in enumerate(table.titles) if all(word in form for word in words)
    ]
    shares = table.loaded.histories.shares
    found.sort(
        key=lambda number: (not table.titles[number].startswith(wanted), -shares[number + 1])
    )
    return [_choice(table, number) for number in found[:_MOST_TITLES]]


def try_it(table: Table, question: Question) -> Trial:
    """Recommend, with reasons.

    Raises:
        RequestError: the user, an item or the category is not there.
    """
    from client.serving.named_items import Filters  # noqa: PLC0415 with torch

    loaded, recommender = table.loaded, table.recommenders[question.blend]
    catalogue = recommender.catalogue
    history, dismissed = list(question.history), frozenset[str]()
    if question.user:
        numbers = loaded.histories.find(question.user)
        if numbers is None:
            raise RequestError(f"user {question.user!r} has no history here.")
        history = [catalogue.item_ids[number - 1] for number in numbers]
        dismissed = loaded.histories.dismissed(question.user)
    listed = recommender.recommend(
        history,
        min(question.k, len(catalogue)),
        filters=Filters(
            exclude_seen=not question.seen,
            deny=dismissed,
            categories=frozenset({question.category} if question.category else ()),
        ),
        explain=True,
        user=question.user,
    )
    reasons = [one.explanation for one in listed if one.explanation is not None]
    attention = mean_attention(reasons)
    return Trial(
        user=question.user,
        history=tuple(
            HistoryEvent(place, item, catalogue.titles[number - 1] or item, attention.get(place))
            for place, item in enumerate(history)
            if (number := int(catalogue.find([item])[0]))
        ),
        shown=tuple(_shown(table, one) for one in listed),
        blend=table.blends[question.blend],
        dismissed=len(dismissed),
        model=loaded.model,
        by_item=attends_by_item(reasons),
    )


def _shown(table: Table, one: Recommended) -> Shown:
    assert one.explanation is not None
    events = sorted(one.explanation.events, key=lambda event: -abs(event.difference))
    number = table.loaded.recommender.catalogue.index[one.item] - 1
    return Shown(
        item=one,
        about=_choice(table, number).about,
        reason=one.explanation,
        events=tuple(events[:_MOST_REASONS]),
        others=max(0, len(events) - _MOST_REASONS),
    )


def _choice(table: Table, number: int) -> Choice:
    catalogue = table.loaded.recommender.catalogue
    item, year = catalogue.item_ids[number], catalogue.years[number]
    title = catalogue.titles[number] or item
    shown = [] if year is None or f"({year})" in title else [str(year)]
    return Choice(item, title, ", ".join([*shown, *catalogue.genres[number]]))
