"""Score how strongly each canary is present in what left the sites, as several observers.

| observer              | sees                                           | detects                 |
|-----------------------|------------------------------------------------|-------------------------|
| white-box             | every site's answers, as the coordinator does, | weak noise, no clipping |
|                       |   and all users except the canaries' coins     |                         |
| between organisations | each answer minus the next organisation's      | noise that two sites    |
|                       |   answer to the same request                   |   share                 |
| between rounds        | each answer minus the organisation's previous  | noise that is repeated  |
|                       |   answer                                       |                         |

The white-box observer estimates the coins in a linear Gaussian model. With coins of variance 1/4
and noise of the claimed deviation, their posterior mean is (U Uᵀ + 4 I)⁻¹ U r (Kay 1993,
"Estimation Theory", theorem 11.1): U is what the canaries add, r the sum minus what all other users
add, both divided by the noise's deviation. The other two observers assume that the noise cancels in
their differences. They use least squares, where each answer is weighted by its residual, on the
first few thousand numbers of a release: enough if the noise does cancel.

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
from simulations.audit.recorder import RecordedAnswer
from simulations.audit.replay import Replay, can_replay

__all__ = [
    "BETWEEN_ORGANISATIONS",
    "BETWEEN_ROUNDS",
    "WHITE_BOX",
    "AuditedSite",
    "Observations",
    "observe",
    "observe_views",
]

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

WHITE_BOX, BETWEEN_ORGANISATIONS, BETWEEN_ROUNDS = (
    "white-box",
    "between organisations",
    "between rounds",
)
_COIN_PRECISION = 4.0
"""Inverse of a fair coin's variance."""
BEGINNING = 8192
"""How many numbers of a release the differences use."""
_NUMBERS_PER_UNKNOWN = 1.5
"""With fewer numbers, least squares fits the noise too."""
_SINGULAR = 1e-9
"""Ridge where no noise is expected, over the Gram matrix's mean diagonal."""


@dataclass(frozen=True, slots=True, eq=False)
class AuditedSite:
    """One organisation under audit, or several of whose answers only the sum is seen.

    Attributes:
        others: its users except canaries.
        canaries: with their coins.
        population: declared.
        seen: the answers that left it.
        shares: organisations whose noise is in each answer.
    """

    others: Histories
    canaries: Canaries
    population: int
    seen: Sequence[RecordedAnswer]
    shares: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """The scores of all observers.

    Attributes:
        scores: by observer, of each organisation's canaries [m]; None where it saw nothing.
        largest_share: the most that one canary adds to a sum, over the clip norm.
        releases: how many were examined.
    """

    scores: Mapping[str, list[Floats | None]]
    largest_share: float
    releases: int


@dataclass(slots=True)
class _NormalEquations:
    """Normal equations of one observer at one organisation."""

    gram: Floats | None = None
    against: Floats | None = None

    def add(self, shares: NDArray[Any], rest: NDArray[Any], weight: float = 1.0) -> None:
        gram, against = weight * (shares @ shares.T), weight * (shares @ rest)
        self.gram = gram if self.gram is None else self.gram + gram
        self.against = against if self.against is None else self.against + against

    def add_by_fit(self, shares: Floats32, rest: Floats32) -> None:
        """Add one release, weighted by the residual variance of its own least-squares fit."""
        design, target = shares.astype(np.float64), rest.astype(np.float64)
        unknowns, numbers = design.shape
        single, residual = _NormalEquations(), target
        if numbers >= _NUMBERS_PER_UNKNOWN * unknowns:
            single.add(design, target)
            fitted = single.solve(unknowns, noise=False)
            assert fitted is not None
            residual = target - fitted @ design
        variance = float((residual**2).mean())
        if variance > 0:
            self.add(design, target, 1 / variance)

    def solve(self, canaries: int, *, noise: bool = True) -> Floats | None:
        """Return the first `canaries` unknowns; without noise, the ridge is tiny."""
        if self.gram is None or self.against is None:
            return None
        ridge = (
            _COIN_PRECISION if noise else _SINGULAR * float(np.trace(self.gram)) / len(self.gram)
        )
        solution = np.linalg.solve(self.gram + ridge * np.eye(len(self.gram)), self.against)
        return np.asarray(solution[:canaries])


@dataclass(slots=True)
class _ObservedRelease:
    """One release of one organisation: `rest` is what left minus its expected value.

    `shares` and `rest` are divided by the noise's deviation; only their first numbers are kept.
    """

    key: tuple[str, int]
    replay: Replay
    rest: Floats32
    shares: Floats32 | None = None


def observe(sites: Sequence[AuditedSite], catalogue: Catalogue) -> Observations:
    """Score every canary by every observer.

    Args:
        sites: every organisation under audit.
        catalogue: the federation's.
    """
    releases = [_observe_site(site, catalogue) for site in sites]
    white, largest = [_NormalEquations() for _ in sites], 0.0
    for site, own, equations in zip(sites, releases, white, strict=True):
        for each in own:
            largest = max(largest, _add_release([(equations, each)], site.canaries))
    sizes = [len(site.canaries.inside) for site in sites]
    return Observations(
        {
            WHITE_BOX: [e.solve(size) for e, size in zip(white, sizes, strict=True)],
            BETWEEN_ORGANISATIONS: [
                _score_between_sites(releases[number], releases[(number + 1) % len(releases)], size)
                for number, size in enumerate(sizes)
            ],
            BETWEEN_ROUNDS: [
                _score_between_rounds(own, size) for own, size in zip(releases, sizes, strict=True)
            ],
        },
        largest,
        sum(map(len, releases)),
    )


def observe_views(views: Sequence[AuditedSite], catalogue: Catalogue) -> list[Observations]:
    """Score the same canaries in several views of the same requests, such as two sums.

    What the canaries add is computed once.

    Args:
        views: with the same canaries.
        catalogue: the federation's.

    Returns:
        Of each view, with the white-box observer and the one between rounds.
    """
    releases = [{each.key: each for each in _observe_site(view, catalogue)} for view in views]
    white, canaries, largest = [_NormalEquations() for _ in views], views[0].canaries, 0.0
    for key in dict.fromkeys(key for own in releases for key in own):
        seen = [(e, own[key]) for e, own in zip(white, releases, strict=True) if key in own]
        largest = max(largest, _add_release(seen, canaries))
    size = len(canaries.inside)
    return [
        Observations(
            {
                WHITE_BOX: [equations.solve(size)],
                BETWEEN_ROUNDS: [_score_between_rounds([*own.values()], size)],
            },
            largest,
            len(own),
        )
        for equations, own in zip(white, releases, strict=True)
    ]


def _add_release(
    seen: Sequence[tuple[_NormalEquations, _ObservedRelease]], canaries: Canaries
) -> float:
    """Add views of one release to their equations, and return the largest share of a canary.

    Each view keeps the first numbers of what the canaries add and of the rest.
    """
    shares, longest = _canary_shares(seen[0][1].replay, canaries.histories)
    spread = seen[0][1].replay.spread
    for equations, each in seen:
        if each.replay.spread != spread:
            shares *= np.float32(spread / each.replay.spread)
            spread = each.replay.spread
        equations.add(shares, each.rest)
        each.shares, each.rest = shares[:, :BEGINNING].copy(), each.rest[:BEGINNING].copy()
    return longest


def _score_between_sites(
    own: Sequence[_ObservedRelease], next_one: Sequence[_ObservedRelease], canaries: int
) -> Floats | None:
    """Score from answers minus another's to the same request, whose coins are unknown too."""
    others, equations = {each.key: each for each in next_one}, _NormalEquations()
    for each in own:
        other = others.get(each.key)
        if other is None or other is each or each.shares is None or other.shares is None:
            continue
        equations.add_by_fit(np.concatenate([each.shares, -other.shares]), each.rest - other.rest)
    return equations.solve(canaries, noise=False)


def _score_between_rounds(own: Sequence[_ObservedRelease], canaries: int) -> Floats | None:
    """Score from each answer minus the previous one, over the numbers that both have."""
    equations = _NormalEquations()
    for earlier, later in pairwise(own):
        if earlier.shares is not None and later.shares is not None:
            size = min(len(earlier.rest), len(later.rest))
            equations.add_by_fit(
                later.shares[:, :size] - earlier.shares[:, :size],
                later.rest[:size] - earlier.rest[:size],
            )
    return equations.solve(canaries, noise=False)


def _observe_site(site: AuditedSite, catalogue: Catalogue) -> list[_ObservedRelease]:
    releases = []
    for seen in site.seen:
        if not can_replay(seen.request):
            continue
        replay = Replay(seen, catalogue, site.population, site.shares)
        expected = replay.added(site.others) + replay.added(site.canaries.histories) / 2
        rest = (replay.released() - replay.expected_parts * expected) / replay.spread
        key = type(seen.request).__name__, seen.request.round
        releases.append(_ObservedRelease(key, replay, rest.astype(np.float32)))
    return releases


def _canary_shares(replay: Replay, canaries: Histories) -> tuple[Floats32, float]:
    """Return what each canary adds, over the noise [m, d], and the largest norm over C."""
    rows = np.stack([replay.added(canaries.select([row])) for row in range(len(canaries))])
    longest = float(np.linalg.norm(rows, axis=1).max(initial=0.0)) / replay.clip_norm
    rows *= replay.expected_parts / replay.spread
    return rows, longest
