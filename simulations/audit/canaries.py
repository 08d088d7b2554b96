"""Synthetic users of an audit, and the coins that decide who is in the data.

| canary | events                                                   | shows up as            |
|--------|----------------------------------------------------------|------------------------|
| pair   | two items; no two pairs of an organisation share a first | a direction of nearly  |
|        |   item or a second item                                  |   its own              |
| long   | many different items                                     | the same, and longer   |
|        |                                                          |   without clipping     |

Real users get coins too: a membership inference attack must tell those held out from those who
stayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.errors import ConfigError
from simulations.experiment.simulation import PlantedUsers, Simulation

__all__ = ["KINDS", "Canaries", "Experiment", "canary_planter"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KINDS = ("pair", "long")
_LONG = 20
"""Items of a long canary."""


@dataclass(frozen=True, slots=True, eq=False)
class Canaries:
    """The m canaries of one organisation.

    Attributes:
        histories: their events.
        inside: which are in the data, [m].
        kinds: index into `KINDS`, [m].
    """

    histories: Histories
    inside: Bools
    kinds: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Experiment:
    """All coins of an audit.

    Attributes:
        canaries: of each organisation.
        members: rows of real users whose coin left them in.
        held_out: rows of real users whose coin took them out.
    """

    canaries: Sequence[Canaries]
    members: Ints
    held_out: Ints


def canary_planter(
    experiments: list[Experiment],
    *,
    canaries: int,
    held_out: float,
    seed: int,
    at: int | None = None,
) -> Callable[[Simulation], PlantedUsers]:
    """Return a function that draws an audit's users for a simulation.

    Args:
        experiments: the drawn experiment is appended to it.
        canaries: of all organisations together, >= 1.
        held_out: share of the real users that are left out, in [0, .5]; about as many get a coin
            that keeps them.
        seed: of coins and canaries.
        at: number of the organisation, from 0, that gets all canaries; None divides them evenly.
    """

    def plant(simulation: Simulation) -> PlantedUsers:
        rng = np.random.default_rng([seed, 0xCA4A41])
        items = _choosable(simulation)
        number = len(simulation.parts)
        sizes = [len(part) for part in np.array_split(np.arange(canaries), number)]
        if at is not None:
            sizes = [canaries * (k == at) for k in range(number)]
        if 2 * len(items) < max(sizes):
            raise ConfigError(
                f"canaries = {canaries}, {max(sizes)} at an organisation, but there are "
                f"{len(items)} items: ask for {2 * len(items) * (number if at is None else 1)} "
                "or fewer."
            )
        drawn = [_canaries(f"canary-{k}-", size, items, rng) for k, size in enumerate(sizes)]
        users = np.concatenate(list(simulation.parts))
        tossed = rng.permutation(users)[: round(2 * held_out * len(users))]
        outside = rng.random(len(tossed)) < 0.5
        experiments.append(Experiment(drawn, tossed[~outside], tossed[outside]))
        return PlantedUsers(
            kept=[part[~np.isin(part, tossed[outside])] for part in simulation.parts],
            added=[own.histories.select(np.flatnonzero(own.inside)) for own in drawn],
            populations=[
                len(part) + size for part, size in zip(simulation.parts, sizes, strict=True)
            ],
        )

    return plant


def _choosable(simulation: Simulation) -> Ints:
    every = np.arange(1, len(simulation.dataset.catalogue) + 1)
    return np.setdiff1d(every, simulation.cold)


def _canaries(prefix: str, size: int, items: Ints, rng: np.random.Generator) -> Canaries:
    pairs = (size + 1) // 2
    second = rng.permutation(items)
    first = np.roll(second, 1)
    lists = [[int(a), int(b)] for a, b in zip(first[:pairs], second[:pairs], strict=True)]
    long = min(_LONG, len(items))
    lists += [rng.choice(items, long, replace=False).tolist() for _ in range(size - pairs)]
    return Canaries(
        Histories.from_lists(lists, [f"{prefix}{number}" for number in range(size)]),
        rng.random(size) < 0.5,
        np.repeat(np.arange(len(KINDS)), [pairs, size - pairs]),
    )
