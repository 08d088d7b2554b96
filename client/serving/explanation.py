"""Why an item is recommended: the past events that brought it, and the parts of its score.

The score of item j after history h is a probability, s(j | h). Two statements about it are exact.

**Past events.** The difference of an event e is s(j | h) - s(j | h without e): by how much the
score falls if the event is removed. Differences of several events need not add up to the score.

**Parts.** Three numbers add up to the score:

| part         | with a home model                              | federated model alone   |
|--------------|------------------------------------------------|-------------------------|
| `home`       | the share of own transition counts             | 0                       |
| `popularity` | w p(j), the prior's probability without events | s(j), without events    |
| `federated`  | w (p(j | h) - p(j)): what the history changes  | s(j | h) - s(j)         |

where w is the weight of the prior in the blend. `federated` is negative where the federated model
finds the item less likely after this history than without one, and 0 where the prior is own
popularity. With friends (`client.home.friends`) these three are times α, and a fourth part,
`friends`, is what the user's friends add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["CHOSE", "Explanation", "PastEvent", "attends_by_item", "mean_attention"]

CHOSE = "chose"
"""What users do with items, where nothing else is said."""
_LEAST_SHARE = 0.05
"""Share of the score below which an event is not named."""
_LEAST_OF_FIRST = 0.3
"""The second event is named if its difference is at least this share of the first one's."""
_MOST_ATTENDED = 3


@dataclass(frozen=True, slots=True)
class PastEvent:
    """An event of the history, and what it does to the score of a recommended item.

    Attributes:
        place: its position in the history that was given, from 0.
        item: public id.
        title: the item's title; may be empty.
        difference: by how much the score falls without the event; negative if it rises.
        attention: how much the federated model attends to this event, in [0, 1]: of kind "lstm" for
            the recommended item, else from the last event, the mean over blocks and heads; None
            where it does not read the event.
    """

    place: int
    item: str
    title: str
    difference: float
    attention: float | None = None

    @property
    def name(self) -> str:
        """The title, or the id where there is none."""
        return self.title or self.item


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one item has its score; see the top of this module.

    Attributes:
        events: the events that were read, oldest first.
        home: the part of own transition counts, >= 0.
        popularity: the part that a user without history would get, >= 0.
        federated: the part that the federated model adds for this history.
        verb: what users do with items, in the past tense.
        friends: the part of the user's friends, >= 0.
        query: what the user looked for, in words; "" for nothing. The parts are then those of the
            score for these words: `popularity` is what a user without history would get for them.
        modalities: by how much each block of features, and the item's own direction, raises the
            federated model's logit of the item above that of the mean item; {} where the model has
            no gates.
    """

    events: tuple[PastEvent, ...]
    home: float
    popularity: float
    federated: float
    verb: str = CHOSE
    friends: float = 0.0
    query: str = ""
    modalities: Mapping[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The sum of the parts."""
        return self.home + self.popularity + self.federated + self.friends

    @property
    def named(self) -> tuple[PastEvent, ...]:
        """The one or two events that brought most of the score, the strongest first.

        Empty where no event brought a twentieth of it. An item that was chosen several times is
        named once, for its strongest event.
        """
        by_item: dict[str, PastEvent] = {}
        for event in sorted(self.events, key=lambda event: -event.difference):
            by_item.setdefault(event.item, event)
        strongest, least = list(by_item.values())[:2], _LEAST_SHARE * self.score
        if not strongest or strongest[0].difference < least:
            return ()
        least = max(least, _LEAST_OF_FIRST * strongest[0].difference)
        return tuple(event for event in strongest if event.difference >= least)

    @property
    def attended(self) -> tuple[PastEvent, ...]:
        """The three events, at most, that the federated model attends to most, the first most."""
        read = [event for event in self.events if event.attention]
        return tuple(sorted(read, key=lambda event: -(event.attention or 0.0))[:_MOST_ATTENDED])

    @property
    def brought_by(self) -> str:
        """The modality that raises the item most; "" where none does, or there are no gates."""
        highest = max(self.modalities, key=self.modalities.__getitem__, default="")
        return highest if highest and self.modalities[highest] > 0 else ""

    @property
    def sentence(self) -> str:
        """The reason in words, such as "because you watched A and B".

        It names no friend.
        """
        if self.query:
            chosen = " and ".join(event.name for event in self.named)
            also = f", and you {self.verb} {chosen}" if chosen else ""
            return f"because it fits '{self.query}'{also}"
        if self.friends > self.score / 2:
            return f"because your friends {self.verb} it"
        if self.named:
            return f"because you {self.verb} {' and '.join(event.name for event in self.named)}"
        if not self.events or self.popularity >= self.score / 2:
            return "because it is popular"
        return f"because of all that you {self.verb}"


def attends_by_item(reasons: Sequence[Explanation]) -> bool:
    """Return whether the model attends otherwise to a history for one item than for another."""
    return len({tuple(event.attention for event in reason.events) for reason in reasons}) > 1


def mean_attention(reasons: Sequence[Explanation]) -> Mapping[int, float | None]:
    """Return the mean attention over some items' explanations of one history, by event's place."""
    by_place: dict[int, list[float]] = {}
    for reason in reasons:
        for event in reason.events:
            kept = by_place.setdefault(event.place, [])
            kept += [] if event.attention is None else [event.attention]
    return {place: sum(own) / len(own) if own else None for place, own in by_place.items()}
