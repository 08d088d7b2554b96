"""The histories of crafted users, and what a partner's limits leave of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.data.event_limits import EventLimits
from shared.data.histories import Histories
from simulations.attack.plan import Attack, Direction
from simulations.attack.targets import Scene

__all__ = ["craft", "limit"]

Ints = NDArray[np.int64]
_EVENTS, _PREDECESSORS, _FILLERS = 1000, 50, 10
_FAST, _SLOW = 100_000, 7_200_000_000
"""Microseconds between two events of a flood, and of users who do not want to be noticed: beyond
`repeat_seconds`, and twelve a day."""


def craft(
    attack: Attack, direction: Direction, target: int, scene: Scene, *, users: int, seed: int
) -> Histories:
    """Return the crafted users of an attack; see `simulations.attack.plan`.

    Args:
        attack: its kind.
        direction: whether it pushes the target or buries it.
        target: internal id.
        scene: of the organisation.
        users: of a group; an attack of one has one.
        seed: of names and fillers.
    """
    rng = np.random.default_rng([seed, target, list(Attack).index(attack)])
    popular, payload = scene.popular(target), _payload(attack, direction, target, scene)
    lists: list[list[int]] = []
    if attack in (Attack.FLOOD, Attack.PATIENT):
        before = popular[:_PREDECESSORS]
        pairs = [(before[n % len(before)], payload[n % len(payload)]) for n in range(_EVENTS // 2)]
        lists = [[int(item) for pair in pairs for item in pair]]
    elif attack is Attack.FILLERS:
        chances = scene.counts[popular] / scene.counts[popular].sum()
        for n in range(users):
            fillers = rng.choice(popular, min(_FILLERS, len(popular)), replace=False, p=chances)
            last = int(payload[n % len(payload)])
            lists.append([*(int(item) for item in fillers if item != last), last])
    else:
        for n in range(users if attack.grouped else 1):
            last = int(payload[n % len(payload)])
            before = popular[popular != last]
            lists.append([int(before[n % len(before)]), last])
    apart = _FAST if attack is Attack.FLOOD else _SLOW
    times = None
    if scene.start is not None:
        times = [[scene.start + apart * place for place in range(len(own))] for own in lists]
    return Histories.from_lists(lists, _names(len(lists), scene.taken, rng), times)


def limit(histories: Histories, limits: EventLimits) -> tuple[Histories, dict[str, int]]:
    """Return what limits leave of histories, and how many events each rule drops.

    Users with fewer than two events left are dropped, as a partner's data are read.
    """
    rows = histories.rows
    marks = limits.dropped(rows, histories.items, histories.times)
    kept = histories.keep(~np.logical_or.reduce(list(marks.values())))
    dropped = {reason: int(marked.sum()) for reason, marked in marks.items()}
    return kept.select(np.flatnonzero(kept.lengths >= 2)), dropped


def _payload(attack: Attack, direction: Direction, target: int, scene: Scene) -> Ints:
    """Return the items that crafted users choose after popular ones."""
    if direction is Direction.PUSH:
        return np.array([target], np.int64)
    small = attack in (Attack.PAIR, Attack.PAIRS)
    return scene.opposites(target) if small else scene.rivals(target)


def _names(number: int, taken: frozenset[str], rng: np.random.Generator) -> Sequence[str]:
    """Return names that nobody has and that look like the others: numbers."""
    names: list[str] = []
    while len(names) < number:
        name = str(rng.integers(1, 10 ** (len(str(len(taken))) + 2)))
        if name not in taken and name not in names:
            names.append(name)
    return names
