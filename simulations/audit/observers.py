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
r the rest of the sum, both over the noise's deviation.

Letters: m canaries of one organisation, d numbers in a release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.catalogue import Catalogue
from shared.histories import Histories
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

    def add(self, shares: Floats32, rest: Floats32) -> None:
        gram, against = (shares @ shares.T).astype(np.float64), (shares @ rest).astype(np.float64)
        self.gram = gram if self.gram is None else self.gram + gram
        self.against = against if self.against is None else self.against + against

    def solved(self) -> Floats | None:
        if self.gram is None or self.against is None:
            return None
        prior = _COIN_PRECISION * np.eye(len(self.gram))
        return np.asarray(np.linalg.solve(self.gram + prior, self.against))


@dataclass(slots=True)
class _Look:
    """One release of one organisation: `rest` is what left less what was to be expected."""

    replay: Replay
    rest: Floats32
    key: tuple[str, int] = field(default=("", 0))


def look(parties: Sequence[Party], catalogue: Catalogue) -> Sight:
    """How strongly each canary seems to be in what left.

    Args:
        parties: every organisation.
        catalogue: the federation's.
    """
    looks = [_looks(party, catalogue) for party in parties]
    found: dict[str, list[Floats | None]] = {
        WHITE_BOX: [],
        BETWEEN_ORGANISATIONS: [],
        BETWEEN_ROUNDS: [],
    }
    largest = 0.0
    for number, party in enumerate(parties):
        neighbours = {each.key: each for each in looks[(number + 1) % len(parties)]}
        own = {name: _Normal() for name in found}
        before: tuple[Floats32, Floats32] | None = None
        for each in looks[number]:
            shares, longest = _shares(each.replay, party.canaries.histories)
            largest = max(largest, longest)
            own[WHITE_BOX].add(shares, each.rest)
            other = neighbours.get(each.key)
            if other is not None and other is not each:
                difference = (each.rest - other.rest) / np.float32(2**0.5)
                own[BETWEEN_ORGANISATIONS].add(shares / np.float32(2**0.5), difference)
            if before is not None:
                own[BETWEEN_ROUNDS].add(*_difference((shares, each.rest), before))
            before = shares, each.rest
        for name, equations in own.items():
            found[name].append(equations.solved())
    return Sight(found, largest, sum(map(len, looks)))


def _looks(party: Party, catalogue: Catalogue) -> list[_Look]:
    looks = []
    for seen in party.seen:
        if not can_replay(seen.request):
            continue
        replay = Replay(seen, catalogue, party.population)
        expected = replay.added(party.others) + replay.added(party.canaries.histories) / 2
        rest = (replay.released() - replay.expected_parts * expected) / replay.spread
        key = type(seen.request).__name__, seen.request.round
        looks.append(_Look(replay, rest.astype(np.float32), key))
    return looks


def _shares(replay: Replay, canaries: Histories) -> tuple[Floats32, float]:
    """What each canary adds, over the noise [m, d]; and the longest of these over the clip norm."""
    rows = np.stack([replay.added(canaries.select([row])) for row in range(len(canaries))])
    longest = float(np.linalg.norm(rows, axis=1).max(initial=0.0)) / replay.clip_norm
    rows *= replay.expected_parts / replay.spread
    return rows, longest


def _difference(
    one: tuple[Floats32, Floats32], two: tuple[Floats32, Floats32]
) -> tuple[Floats32, Floats32]:
    """As far as both reach: numbers that are drawn first are drawn first again."""
    (shares, rest), (earlier, earlier_rest) = one, two
    size, scale = min(len(rest), len(earlier_rest)), np.float32(2**0.5)
    return (
        (shares[:, :size] - earlier[:, :size]) / scale,
        (rest[:size] - earlier_rest[:size]) / scale,
    )
