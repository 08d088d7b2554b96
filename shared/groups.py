"""Public groups of users: which there are, and in which one a user is.

A table of groups is one text, and every value in it is a public constant of the run:

    gender=F|M x age=18|25+35|45; events=20|100; taste=5

| part              | what it says                                                            |
|-------------------|-------------------------------------------------------------------------|
| `;`               | between tables; each user is in exactly one cell of each                |
| ` x `             | between what is crossed in one table, at most three                     |
| `gender=F|M`      | a column of the partner's table of users, and the values that are told  |
|                   | apart; `25+35` takes two as one                                         |
| `events=20|100`   | how many events a user has: below 20, 20 to 99, 100 or more             |
| `taste=5`         | how popular a user's items are: the fifth of all events, by the model's |
|                   | own popularity, in which the median of the user's items lies            |

The last cell of a table is "other": users with another value, or with none. So the data decide
neither how many cells there are nor what they are called.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from shared.errors import ConfigError
from shared.sections import NonNegativeNumber, ShareBelowOne, section

__all__ = [
    "EVENTS",
    "OTHER",
    "TASTE",
    "Factor",
    "GroupsConfig",
    "Table",
    "Weighted",
    "columns_of",
    "robust_weights",
    "tables_of",
    "weighted_of",
    "weights_text",
]

OTHER, EVENTS, TASTE = "other", "events", "taste"
MOST_TABLES, MOST_FACTORS, MOST_CELLS, LONGEST = 8, 3, 200, 2000
"""Of one text: tables, what is crossed in one, cells of all tables, characters."""
MOST_REWEIGHINGS = 4
"""Measurements within a run after which groups are weighed anew."""
MOST_CLASSES = 20
"""Of `taste`."""


@dataclass(frozen=True, slots=True)
class Factor:
    """What users are told apart by.

    Attributes:
        name: a column, `EVENTS` or `TASTE`.
        values: of a column, the values of each class; otherwise empty.
        cuts: of `EVENTS`, the smallest number of events of each class but the first, ascending.
        classes: how many classes there are, without "other".
    """

    name: str
    values: tuple[tuple[str, ...], ...]
    cuts: tuple[int, ...]
    classes: int

    @property
    def labels(self) -> tuple[str, ...]:
        """What each class is called."""
        if self.values:
            return tuple("+".join(of_class) for of_class in self.values)
        if self.name == TASTE:
            return tuple(f"taste {number + 1} of {self.classes}" for number in range(self.classes))
        inner = [f"{low} to {high - 1} events" for low, high in itertools.pairwise(self.cuts)]
        return (f"below {self.cuts[0]} events", *inner, f"{self.cuts[-1]} events or more")

    def class_of(self, values: Mapping[str, str], events: int, taste: float) -> int | None:
        """Return a user's class; None for "other".

        Args:
            values: of the user's columns, by name.
            events: how many the user has.
            taste: in [0, 1): how much of all events is with more popular items.
        """
        if self.name == EVENTS:
            return sum(events >= cut for cut in self.cuts)
        if self.name == TASTE:
            return min(int(taste * self.classes), self.classes - 1) if taste >= 0 else None
        value = values.get(self.name)
        found = (place for place, of_class in enumerate(self.values) if value in of_class)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Table:
    """Groups of which each user is in exactly one.

    Attributes:
        text: as it is written.
        factors: what is crossed.
    """

    text: str
    factors: tuple[Factor, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """What each cell is called, "other" last."""
        crossed = itertools.product(*(factor.labels for factor in self.factors))
        return (*(" x ".join(labels) for labels in crossed), OTHER)

    @property
    def size(self) -> int:
        """How many cells there are, "other" included."""
        return math.prod(factor.classes for factor in self.factors) + 1

    def cell_of(self, values: Mapping[str, str], events: int, taste: float = -1.0) -> int:
        """Return the number of the user's cell; arguments are those of `Factor.class_of`."""
        place = 0
        for factor in self.factors:
            found = factor.class_of(values, events, taste)
            if found is None:
                return self.size - 1
            place = place * factor.classes + found
        return place


@dataclass(frozen=True, slots=True)
class Weighted:
    """How much the users of each group count in training.

    Attributes:
        table: the groups.
        weights: of each cell, in [0, 1], the largest 1.
    """

    table: Table
    weights: tuple[float, ...]


@section("groups")
class GroupsConfig:
    """Public groups of users, by which quality is measured and training weighs; off by default.

    Attributes:
        tables: as `gender=F|M x age=18|25+35; events=20|100; taste=5`, see `shared.groups`; ""
            has none.
        share: what one noised measurement of each group, after the last round, gets of all that
            the run may release (of 1 / σ²), in [0, 1); 0 measures nothing.
        weights: what users of each group count in statistics and gradients, as
            `gender=F|M: 1, 0.6, 1`: a table, and the weight of each cell, "other" last; they are
            divided by the largest. "" weighs all alike.
        robust: step size η >= 0 with which the weights of the first table's groups follow from
            noised figures within the run: it measures before some of the rounds, too, and the
            measurements divide the share. 0 leaves the weights as they are stated.
    """

    tables: str = ""
    share: ShareBelowOne = 0.0
    weights: str = ""
    robust: NonNegativeNumber = 0.0

    def __post_init__(self) -> None:
        _named("groups.tables", tables_of, self.tables)
        _named("groups.weights", weighted_of, self.weights)
        if self.share and not self.tables:
            raise ConfigError(
                f"groups.share = {self.share} without groups.tables: name the groups that are to "
                "be measured, or leave the share out."
            )
        self._check_robust()

    def _check_robust(self) -> None:
        if not self.robust:
            return
        if not self.share or self.weights:
            instead = "leave groups.weights out" if self.weights else "state groups.share"
            raise ConfigError(
                f"groups.robust = {self.robust:g} takes the weights from the run's own measurement "
                f"of groups: {instead}, or set groups.robust = 0."
            )
        table = tables_of(self.tables)[0]
        if any(factor.name == TASTE for factor in table.factors):
            raise ConfigError(
                f"groups.robust = {self.robust:g} weighs the groups of '{table.text}': taste is "
                "known by a finished model alone, and has no weight. Put another table first."
            )

    @property
    def first_weights(self) -> str:
        """The weights of the first round, as `weights` states them."""
        if not self.robust:
            return self.weights
        table = tables_of(self.tables)[0]
        return weights_text(table, [1.0] * table.size)

    def measured_before(self, rounds: int) -> tuple[int, ...]:
        """Return the rounds, 1-based, before which groups are measured to weigh them.

        Each round of a few, and some evenly apart of many: measurements divide one share.

        >>> robust = GroupsConfig(tables="gender=F|M", share=0.1, robust=5.0)
        >>> robust.measured_before(2), robust.measured_before(10), GroupsConfig().measured_before(2)
        ((1, 2), (1, 3, 6, 8), ())
        """
        if not self.robust:
            return ()
        times = min(rounds, MOST_REWEIGHINGS)
        return tuple(1 + number * rounds // times for number in range(times))


@lru_cache(maxsize=64)
def tables_of(text: str) -> tuple[Table, ...]:
    """Return the tables that a text names; none for "".

    Raises:
        ConfigError: it names none, or too many.
    """
    if len(text) > LONGEST or not text.isprintable():
        raise ConfigError(f"groups take at most {LONGEST} characters that can be shown.")
    tables = tuple(_table(part.strip()) for part in text.split(";")) if text.strip() else ()
    cells = sum(table.size for table in tables)
    if len(tables) > MOST_TABLES or cells > MOST_CELLS:
        raise ConfigError(
            f"{len(tables)} tables of {cells} groups together: at most {MOST_TABLES} and "
            f"{MOST_CELLS} are measured. Take values together, as in 18+25."
        )
    return tables


@lru_cache(maxsize=64)
def weighted_of(text: str) -> Weighted | None:
    """Return the weights that a text states; None for "".

    Raises:
        ConfigError: it states none, or one that is no number above 0.
    """
    if not text.strip():
        return None
    named, colon, stated = text.rpartition(":")
    tables = tables_of(named)
    if not colon or len(tables) != 1:
        raise ConfigError(f"'{text}': write one table, a colon, and a weight for each group.")
    [table] = tables
    if any(factor.name == TASTE for factor in table.factors):
        raise ConfigError(f"'{text}': taste is known by a finished model alone, and has no weight.")
    try:
        weights = [float(part) for part in stated.split(",")]
    except ValueError:
        raise ConfigError(f"'{stated.strip()}': write weights with commas between.") from None
    if len(weights) != table.size:
        raise ConfigError(
            f"{len(weights)} weights for {table.size} groups: one is needed for each of "
            f"{', '.join(table.cells)}."
        )
    if not all(0 < weight < math.inf for weight in weights):
        raise ConfigError(f"'{stated.strip()}': choose finite weights above 0.")
    largest = max(weights)
    return Weighted(table, tuple(weight / largest for weight in weights))


def weights_text(table: Table, weights: Sequence[float]) -> str:
    """Return the text that states a table's weights.

    >>> weights_text(tables_of("gender=F|M")[0], [1, 0.6, 1])
    'gender=F|M: 1.000000, 0.600000, 1.000000'
    """
    return f"{table.text}: {', '.join(f'{weight:.6f}' for weight in weights)}"


def columns_of(texts: Sequence[Table]) -> tuple[str, ...]:
    """Return the columns of users that tables need, each once."""
    names = (factor.name for table in texts for factor in table.factors if factor.values)
    return tuple(dict.fromkeys(names))


def robust_weights(losses: Sequence[float], rate: float) -> tuple[float, ...]:
    """Return weights that grow with a group's loss, the largest 1.

    One step of exponentiated gradient from equal weights, w_g ∝ exp(rate · loss_g), as group
    distributionally robust optimisation takes it (Sagawa, Koh, Hashimoto & Liang 2020,
    arXiv:1911.08731, algorithm 1). From losses that were released with noise it costs nothing more.

    Args:
        losses: of each group, finite.
        rate: >= 0; 0 weighs all alike.

    >>> robust_weights([0.9, 0.9, 0.8], 0.0), robust_weights([1.0, 0.0], math.log(2))
    ((1.0, 1.0, 1.0), (1.0, 0.5))
    """
    highest = max(losses)
    return tuple(math.exp(rate * (loss - highest)) for loss in losses)


def _named(key: str, read: object, text: str) -> None:
    try:
        read(text)  # type: ignore[operator]
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def _table(text: str) -> Table:
    factors = tuple(_factor(part.strip()) for part in text.split(" x "))
    names = [factor.name for factor in factors]
    if len(names) > MOST_FACTORS or len(set(names)) < len(names):
        raise ConfigError(f"'{text}': cross at most {MOST_FACTORS} different columns.")
    return Table(text, factors)


def _factor(text: str) -> Factor:
    name, equals, listed = (part.strip() for part in text.partition("="))
    parts = [part.strip() for part in listed.split("|")]
    if not name or not equals or not all(parts):
        raise ConfigError(f"'{text}' names no groups: write column=value|value.")
    if name in (EVENTS, TASTE):
        return _counted(name, text, parts)
    values = tuple(tuple(value.strip() for value in part.split("+")) for part in parts)
    each = [value for of_class in values for value in of_class]
    if not all(each) or len(set(each)) < len(each):
        raise ConfigError(f"'{text}': name each value once, with + between those of one group.")
    return Factor(name, values, (), len(values))


def _counted(name: str, text: str, parts: Sequence[str]) -> Factor:
    numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in parts]
    if name == TASTE:
        if len(numbers) != 1 or not 2 <= numbers[0] <= MOST_CLASSES:
            raise ConfigError(f"'{text}': choose a number of classes from 2 to {MOST_CLASSES}.")
        return Factor(name, (), (), numbers[0])
    if numbers[0] < 1 or any(low >= high for low, high in itertools.pairwise(numbers)):
        raise ConfigError(f"'{text}': choose whole numbers of events above 0, ascending.")
    return Factor(name, (), tuple(numbers), len(numbers) + 1)
