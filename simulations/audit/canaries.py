"""Users made up for an audit, and the coins that say who is in the data.

| canary | events                                                   | shows up as            |
|--------|----------------------------------------------------------|------------------------|
| pair   | two items; of an organisation's pairs no other begins or | a direction nearly of  |
|        |   ends with the same                                     |   its own              |
| long   | many different items                                     | the same, and louder   |
|        |                                                          |   if nothing clips     |

Real users have coins too: those held out are whom a membership inference attack has to tell from
those who stayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.errors import ConfigError
from simulations.experiment.simulate import Planted, Simulation

__all__ = ["KINDS", "Canaries", "Experiment", "planting"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KINDS = ("pair", "long")
_LONG = 20
"""Items of a long one."""


@dataclass(frozen=True, slots=True, eq=False)
class Canaries:
    """Those of one organisation, m of them.

    Attributes:
        histories: their events.
        inside: who is in the data, [m].
        kinds: places in `KINDS`, [m].
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


def planting(
    experiments: list[Experiment], *, canaries: int, held_out: float, seed: int
) -> Callable[[Simulation], Planted]:
    """Draws an audit's users for a simulation, and notes them.

    Args:
        experiments: gets what was drawn.
        canaries: of all organisations together, >= 1; dealt out evenly.
        held_out: share of the real users that leave, in [0, .5]; as many have a coin that stays.
        seed: of coins and canaries.
    """

    def plant(simulation: Simulation) -> Planted:
        rng = np.random.default_rng([seed, 0xCA4A41])
        items = _choosable(simulation)
        number = len(simulation.parts)
        sizes = [len(part) for part in np.array_split(np.arange(canaries), number)]
        if 2 * len(items) < max(sizes):
            raise ConfigError(
                f"canaries = {canaries}, {max(sizes)} at an organisation, but there are "
                f"{len(items)} items: ask for {2 * len(items) * number} or fewer."
            )
        drawn = [_canaries(f"canary-{k}-", size, items, rng) for k, size in enumerate(sizes)]
        users = np.concatenate(list(simulation.parts))
        tossed = rng.permutation(users)[: round(2 * held_out * len(users))]
        outside = rng.random(len(tossed)) < 0.5
        experiments.append(Experiment(drawn, tossed[~outside], tossed[outside]))
        return Planted(
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
