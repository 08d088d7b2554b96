"""A private home model: what one user is shown depends on another only within (ε, δ).

Two noised sums over the organisation's users are all that it is made of (`OwnSums`):

1. the popularity of each item, each user's vector of length 1 (`shared.models.moments`);
2. what followed what among the items whose popularity stands out from its noise: each user's
   weighted transitions, as in `client.home.home_model`, scaled to length 1 in L2.

Both get Gaussian noise, of σ / √s and σ / √(1 - s) with s = `POPULARITY_SHARE`: together they are
one release of noise multiplier σ over all users (Dong, Roth & Su 2019, arXiv:1905.02383, corollary
3.3), user-level, neighbours by adding or removing one user. That the second sum's items depend on
the first changes nothing: its noise and the bound on a user's part do not.

All that follows is post-processing of the two, and its numbers are constants of this file: to
choose them by held-out events would cost more. The federated model is shifted towards the own
popularity, and is the prior of the own transitions (`build_private_home`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.special import ndtr
from torch import Tensor

from client.home.home_model import HomeModel, Memory, SoftmaxPrior, TransitionCounts
from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer
from shared.models.moments import (
    POINTS_OF_LENGTH,
    grid_points,
    popularity_sum,
)
from shared.privacy.accounting.accountant import noise_multiplier_for
from shared.privacy.noise import RandomSource, noised
from shared.privacy.release import Release, ReleaseKind

__all__ = [
    "Guarantee",
    "OwnSums",
    "build_private_home",
    "measure_own_sums",
    "popularity_shift",
    "release_for",
    "shrink",
    "transition_sum",
]

POPULARITY_SHARE, POPULARITY_FADE = 0.3, 1.0
"""s, the popularity's share of 1 / σ²; and how much a user's recent events weigh in it."""
MEMORY = Memory(3, 0.5)
"""How far apart the two events of a transition may be, and what a pair weighs."""
MIN_SIGNAL_TO_NOISE, MOST_ITEMS = 4.0, 2000
"""Popularity over its noise from which on transitions of an item are counted; so many at most."""
MIN_COUNT = 2.5
"""Deviations of its noise below which a transition is left out; above, it is shrunk."""
POPULARITY_PRIOR = 8.0
"""What the federated popularity is worth against the own one, in deviations of the own noise."""
STRENGTH, LEAST_SHARE = 8.0, 0.05
"""What the prior is worth against own transitions where all of them stand out from the noise, in
users' lengths; and the least share of them that is reckoned with."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a private home model keeps between an organisation's users.

    Attributes:
        epsilon: > 0.
        delta: in (0, 1).
    """

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True, eq=False)
class OwnSums:
    """The two noised sums, and the standard deviations of their noise.

    Attributes:
        popularity: float64 [V].
        popularity_noise: of each entry.
        items: int64 [M], ascending internal ids of the items between which transitions are counted.
        transitions: float64 [M, M]: row i is after the i-th of `items`.
        transition_noise: of each entry.
    """

    popularity: Floats
    popularity_noise: float
    items: Ints
    transitions: Floats
    transition_noise: float

    @property
    def share(self) -> float:
        """Of all transitions, those that stand out from the noise; in [`LEAST_SHARE`, 1].

        The share of the popularity that `items` have, times the share of what is kept in the
        transitions between them.
        """
        places = self.items - 1
        parts = (
            (float(self.popularity[places].sum()), float(self.popularity.sum())),
            (float(shrink(self.transitions, self.transition_noise).sum()), self.transitions.sum()),
        )
        share = math.prod(part / whole if whole > 0 else 0.0 for part, whole in parts)
        return min(max(share, LEAST_SHARE), 1.0)


def release_for(guarantee: Guarantee) -> Release:
    """Return the release whose ε is that of a guarantee, for the ledger.

    Raises:
        AccountingError: no noise gives it.
    """
    noise = noise_multiplier_for(guarantee.epsilon, guarantee.delta, sample_rate=1.0, steps=1)
    return Release(kind=ReleaseKind.HOME, noise_multiplier=noise, sample_rate=1.0, steps=1)


def measure_own_sums(
    histories: Histories, items: int, release: Release, random: RandomSource
) -> OwnSums:
    """Return the noised sums of a release; charge it before.

    Args:
        histories: the organisation's users.
        items: V, the size of the catalogue.
        release: of `release_for`.
        random: where the noise comes from.
    """
    sigma = release.noise_multiplier
    noise = sigma / math.sqrt(POPULARITY_SHARE), sigma / math.sqrt(1 - POPULARITY_SHARE)
    counted = popularity_sum(histories, items, POPULARITY_FADE)
    popularity = noised(torch.from_numpy(counted), noise[0], random).numpy()
    order = np.argsort(-popularity, kind="stable")[:MOST_ITEMS]
    chosen = np.sort(order[popularity[order] >= MIN_SIGNAL_TO_NOISE * noise[0]]) + 1
    followed = torch.from_numpy(transition_sum(histories, items, chosen, MEMORY))
    transitions = noised(followed, noise[1], random).numpy()
    return OwnSums(popularity, noise[0], chosen, transitions, noise[1])


def build_private_home(sums: OwnSums, federated: Scorer) -> HomeModel:
    """Return the home model that follows from the noised sums.

    Its counts are the transitions, shrunk (`shrink`). Its prior is the federated model, shifted
    towards the own popularity (`popularity_shift`), and worth `STRENGTH` / share²: where noise
    hides most transitions, the few that are known must not outweigh what it says of all.

    Args:
        sums: of `measure_own_sums`.
        federated: the federated model's logits.
    """
    items = len(sums.popularity)
    kept = shrink(sums.transitions, sums.transition_noise)
    rows, columns = np.nonzero(kept)
    places = sums.items[rows], sums.items[columns] - 1
    values = kept[rows, columns].astype(np.float32)
    counts = coo_array((values, places), (items + 1, items)).tocsr()
    totals = np.asarray(counts.sum(1, dtype=np.float64)).ravel()
    prior = SoftmaxPrior(federated, popularity_shift(sums, federated))
    return HomeModel(TransitionCounts(MEMORY, counts, totals), prior, STRENGTH / sums.share**2)


def popularity_shift(sums: OwnSums, federated: Scorer) -> Tensor:
    """Return what is added to the federated model's logits, float32 [V].

    With n the noised popularity, p the federated model's distribution before any event, N the sum
    of n, and c = `POPULARITY_PRIOR` deviations of the noise, log((n + c) / (N p + c)): nothing
    where the own popularity is as the federated one, or drowns in noise.
    """
    before = torch.softmax(federated(torch.zeros(1, 1, dtype=torch.int64))[0].double().cpu(), 0)
    own = torch.from_numpy(sums.popularity)
    worth = POPULARITY_PRIOR * sums.popularity_noise
    expected = own.sum().clamp(min=0) * before
    return ((own + worth).clamp(min=LEAST_SHARE * worth) / (expected + worth)).log().float()


def shrink(noised_sum: Floats, noise: float) -> Floats:
    """Return a noised sum with each entry times the chance that it is more than noise, >= 0.

    Of K entries, K Φ(-z) would be above z deviations by noise alone. Over the number that are, this
    is the rate of false ones among them (Benjamini & Hochberg 1995,
    doi:10.1111/j.2517-6161.1995.tb02031.x), made monotone in z; the factor is 1 less this rate.
    Entries below `MIN_COUNT` deviations are 0.

    >>> shrink(np.array([0.0, 1.0, 3.0, 9.0]), 1.0).round(2)
    array([0.  , 0.  , 2.99, 9.  ])
    """
    deviations = noised_sum.ravel() / noise
    kept = np.flatnonzero(deviations > MIN_COUNT)
    kept = kept[np.argsort(-deviations[kept], kind="stable")]
    false = len(deviations) * ndtr(-deviations[kept]) / np.arange(1, len(kept) + 1)
    false = np.minimum.accumulate(false[::-1])[::-1]
    result = np.zeros(len(deviations))
    result[kept] = deviations[kept] * noise * (1 - false).clip(min=0)
    return result.reshape(noised_sum.shape)


def transition_sum(histories: Histories, items: int, chosen: Ints, memory: Memory) -> Floats:
    """Sum the users' weighted transitions between some items, each user's scaled to length 1.

    They are summed as integers, in multiples of 2^-40: the sum with a user is the sum without plus
    what that user adds, in every bit.

    Args:
        histories: any number of users; those without such a transition add nothing.
        items: V, the size of the catalogue.
        chosen: ascending internal ids, int64 [M].
        memory: how far apart two events may be, and what a pair weighs.

    Returns:
        float64 [M, M].
    """
    most = len(chosen)
    place = np.full(items + 1, -1, np.int64)
    place[chosen] = np.arange(most)
    total = np.zeros(most * most, np.int64)
    for history in histories:
        pairs, weights = _pairs(place[history], most, memory)
        if len(pairs):
            cells, which = np.unique(pairs, return_inverse=True)
            vector = np.bincount(which, weights)
            total[cells] += grid_points(vector / np.linalg.norm(vector))
    return total.reshape(most, most) / POINTS_OF_LENGTH


def _pairs(places: Ints, most: int, memory: Memory) -> tuple[Ints, Floats]:
    """Return the cell of each pair of a history's events, and its weight; -1 is no chosen item."""
    cells, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
    for apart, weight in enumerate(memory.weights, start=1):
        before, after = places[:-apart], places[apart:]
        both = (before >= 0) & (after >= 0)
        cells.append(before[both] * most + after[both])
        weights.append(np.full(len(cells[-1]), weight))
    return np.concatenate(cells), np.concatenate(weights)
