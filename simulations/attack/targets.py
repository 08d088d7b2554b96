"""Items that an attack is about: a rare, a middle and a popular one, drawn by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import ConfigError

__all__ = ["Scene", "Target", "choose_targets"]

Ints = NDArray[np.int64]
_POPULAR, _RIVALS, _LIKELY, _FEWEST = 100, 10, 10, 12
"""Items that predecessors are drawn from; rivals of a target; the first that no target is; and the
items with events that must be there."""


@dataclass(frozen=True, slots=True)
class Target:
    """An item to push or to bury.

    Attributes:
        kind: "rare", "middle" or "popular", by the organisation's own events.
        item: internal id.
        events: of the organisation with it.
    """

    kind: str
    item: int
    events: int


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What an attacker knows of an organisation, and how its data are.

    That is more than most would know: the exact popularity at the organisation.

    Attributes:
        ranked: internal ids by the organisation's events, most first, [V].
        counts: events of each item, [V + 1].
        features: unit descriptions of the items, [V, F]; None where there are none.
        start: microseconds, when crafted events begin; None where the data have no times.
        taken: names of users.
    """

    ranked: Ints
    counts: Ints
    features: NDArray[np.float64] | None
    start: int | None
    taken: frozenset[str]

    @classmethod
    def of(cls, histories: Histories, catalogue: Catalogue) -> Scene:
        """Take an organisation's.

        Raises:
            ConfigError: its users have too few items to attack among.
        """
        counts = np.bincount(histories.items, minlength=len(catalogue) + 1)
        ranked = np.argsort(-counts[1:], kind="stable") + 1
        if (counts > 0).sum() < _FEWEST:
            raise ConfigError(
                "the attacked organisation has too few items with events: give more data."
            )
        features = None
        if catalogue.features is not None:
            features = catalogue.features.double().numpy()
            features = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
        times = histories.times
        start = None if times is None else int(times.max()) + 3_600_000_000
        return cls(ranked, counts, features, start, frozenset(histories.users))

    def popular(self, target: int) -> Ints:
        """Return the most popular items but the target, most popular first."""
        likely = self.ranked[: _POPULAR + 1]
        likely = likely[self.counts[likely] > 0]
        return np.asarray(likely[likely != target][:_POPULAR], np.int64)

    def rivals(self, target: int) -> Ints:
        """Return the items that are a little less popular than the target, or the last others."""
        others = self.ranked[self.ranked != target]
        place = int(np.flatnonzero(self.ranked == target)[0])
        place = max(0, min(place, len(others) - _RIVALS))
        return np.asarray(others[place : place + _RIVALS], np.int64)

    def opposites(self, target: int) -> Ints:
        """Return the popular items least like the target, or its rivals without features."""
        if self.features is None:
            return self.rivals(target)
        popular = self.popular(target)
        alike = self.features[popular - 1] @ self.features[target - 1]
        return np.asarray(popular[np.argsort(alike, kind="stable")[:_RIVALS]], np.int64)


def choose_targets(scene: Scene, seed: int) -> tuple[Target, ...]:
    """Draw one item of each kind.

    Rare is one of the last tenth of the items with an event at the organisation, middle one of
    those around the median, and popular one of the 11th to the 50th, where there are so many.
    """
    rng = np.random.default_rng([seed, 0xA77AC])
    present = scene.ranked[scene.counts[scene.ranked] > 0]
    number = len(present)
    parts = {
        "rare": present[-max(1, number // 10) :],
        "middle": present[int(0.45 * number) : int(0.55 * number) + 1],
        "popular": present[min(_LIKELY, number // 4) : min(50, number // 2)],
    }
    drawn = {kind: int(rng.choice(items)) for kind, items in parts.items()}
    return tuple(Target(kind, item, int(scene.counts[item])) for kind, item in drawn.items())
