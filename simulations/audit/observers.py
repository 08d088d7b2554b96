"""Who looks at what left, and how strongly each canary seems to be in it.

| observer              | sees                                           | finds                   |
|-----------------------|------------------------------------------------|-------------------------|
| white-box             | every site's answers, as the coordinator does, | weak noise, no clipping |
|                       |   and all users but the canaries' coins        |                         |
| between organisations | answers less the next organisation's to the    | noise that two share    |
|                       |   same request                                 |                         |
| between rounds        | answers less the organisation's one before     | noise that comes again  |

They look for each canary's own direction in the sum, less what all the others add there: coins of
variance 1/4 under noise of the claimed deviation have the posterior mean (U Uᵀ + 4 I)⁻¹ U r (a
linear Gaussian model; Kay 1993, "Estimation Theory", theorem 11.1), U being what the canaries add,
r the rest of the sum, both over the noise's deviation. Whoever takes differences hopes that no
noise is left in them, and takes least squares instead, each answer weighed by how well it is
fitted: on the first few thousand numbers alone, which are enough if it is so.

Letters: m canaries of one organisation, d numbers in a release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from simulations.audit.canaries import Canaries
from simulations.audit.replay import Replay, can_replay
from simulations.audit.tap import Seen

__all__ = ["BETWEEN_ORGANISATIONS", "BETWEEN_ROUNDS", "WHITE_BOX", "Party", "Sight", "look"]

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

WHITE_BOX, BETWEEN_ORGANISATIONS, BETWEEN_ROUNDS = (
    "white-box",
    "between organisations",
    "between rounds",
)
_COIN_PRECISION = 4.0
"""One over a fair coin's variance."""
BEGINNING = 8192
"""Numbers of a release that differences are taken of."""
_NUMBERS_PER_UNKNOWN = 1.5
"""Below this a fit leaves nothing, whatever the noise."""
_SINGULAR = 1e-9
"""Of a Gram matrix's mean diagonal: what is added to it where no noise is expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Party:
    """One organisation under audit.

    Attributes:
        others: its users who are no canaries.
        canaries: with their coins.
        population: declared.
        seen: what left it.
    """

    others: Histories
    canaries: Canaries
    population: int
    seen: Sequence[Seen]


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What the observers found.

    Attributes:
        scores: by observer; of each organisation's canaries [m], or None if it saw nothing there.
        largest_share: the most that one canary adds to a sum, over the clip norm.
        releases: how many were looked at.
    """

    scores: Mapping[str, list[Floats | None]]
    largest_share: float
    releases: int


@dataclass(slots=True)
class _Normal:
    """Normal equations of one observer at one organisation."""

    gram: Floats | None = None
    against: Floats | None = None

    def add(self, shares: NDArray[Any], rest: NDArray[Any], weight: float = 1.0) -> None:
        gram, against = weight * (shares @ shares.T), weight * (shares @ rest)
        self.gram = gram if self.gram is None else self.gram + gram
        self.against = against if self.against is None else self.against + against

    def add_by_fit(self, shares: Floats32, rest: Floats32) -> None:
        """Weighs the numbers by how much noise a fit of their own leaves in them."""
        wide, there = shares.astype(np.float64), rest.astype(np.float64)
        unknowns, numbers = wide.shape
        alone, left = _Normal(), there
        if numbers >= _NUMBERS_PER_UNKNOWN * unknowns:
            alone.add(wide, there)
            fitted = alone.solved(unknowns, noise=False)
            assert fitted is not None
            left = there - fitted @ wide
        noise = float((left**2).mean())
        if noise > 0:
            self.add(wide, there, 1 / noise)

    def solved(self, canaries: int, *, noise: bool = True) -> Floats | None:
        """Of the first so many unknowns; without noise, as little as keeps it solvable is added."""
        if self.gram is None or self.against is None:
            return None
        added = (
            _COIN_PRECISION if noise else _SINGULAR * float(np.trace(self.gram)) / len(self.gram)
        )
        solution = np.linalg.solve(self.gram + added * np.eye(len(self.gram)), self.against)
        return np.asarray(solution[:canaries])


@dataclass(slots=True)
class _Look:
    """One release of one organisation: `rest` is what left less what was to be expected.

    `shares` and `rest` are over the noise's deviation; of both the beginning is kept.
    """

    key: tuple[str, int]
    replay: Replay
    rest: Floats32
    shares: Floats32 | None = None


def look(parties: Sequence[Party], catalogue: Catalogue) -> Sight:
    """How strongly each canary seems to be in what left.

    Args:
        parties: every organisation.
        catalogue: the federation's.
    """
    looks = [_looks(party, catalogue) for party in parties]
    white, largest = [_Normal() for _ in parties], 0.0
    for party, own, equations in zip(parties, looks, white, strict=True):
        for each in own:
            shares, longest = _shares(each.replay, party.canaries.histories)
            largest = max(largest, longest)
            equations.add(shares, each.rest)
            each.shares, each.rest = shares[:, :BEGINNING].copy(), each.rest[:BEGINNING].copy()
    sizes = [len(party.canaries.inside) for party in parties]
    return Sight(
        {
            WHITE_BOX: [e.solved(size) for e, size in zip(white, sizes, strict=True)],
            BETWEEN_ORGANISATIONS: [
                _between(looks[number], looks[(number + 1) % len(looks)], size)
                for number, size in enumerate(sizes)
            ],
            BETWEEN_ROUNDS: [_over_time(own, size) for own, size in zip(looks, sizes, strict=True)],
        },
        largest,
        sum(map(len, looks)),
    )


def _between(own: Sequence[_Look], next_one: Sequence[_Look], canaries: int) -> Floats | None:
    """Own answers less another's to the same request; the other's coins are not known either."""
    others, equations = {each.key: each for each in next_one}, _Normal()
    for each in own:
        other = others.get(each.key)
        if other is None or other is each or each.shares is None or other.shares is None:
            continue
        equations.add_by_fit(np.concatenate([each.shares, -other.shares]), each.rest - other.rest)
    return equations.solved(canaries, noise=False)


def _over_time(own: Sequence[_Look], canaries: int) -> Floats | None:
    """Each answer less the one before, as far as both reach: what is drawn first comes first."""
    equations = _Normal()
    for earlier, later in pairwise(own):
        if earlier.shares is not None and later.shares is not None:
            size = min(len(earlier.rest), len(later.rest))
            equations.add_by_fit(
                later.shares[:, :size] - earlier.shares[:, :size],
                later.rest[:size] - earlier.rest[:size],
            )
    return equations.solved(canaries, noise=False)


def _looks(party: Party, catalogue: Catalogue) -> list[_Look]:
    looks = []
    for seen in party.seen:
        if not can_replay(seen.request):
            continue
        replay = Replay(seen, catalogue, party.population)
        expected = replay.added(party.others) + replay.added(party.canaries.histories) / 2
        rest = (replay.released() - replay.expected_parts * expected) / replay.spread
        key = type(seen.request).__name__, seen.request.round
        looks.append(_Look(key, replay, rest.astype(np.float32)))
    return looks


def _shares(replay: Replay, canaries: Histories) -> tuple[Floats32, float]:
    """What each canary adds, over the noise [m, d]; and the longest of these over the clip norm."""
    rows = np.stack([replay.added(canaries.select([row])) for row in range(len(canaries))])
    longest = float(np.linalg.norm(rows, axis=1).max(initial=0.0)) / replay.clip_norm
    rows *= replay.expected_parts / replay.spread
    return rows, longest
