"""Adapt the federated model to an organisation: choose its home model on held-out events.

Two numbers are chosen for each prior, by the mean NDCG@10 over the organisation's own held-out
events: first how far back own counts look, then what the prior is worth. Both come from short lists
that are the same for everybody. The best of many that were tried on few events is often so by
luck: so a number other than the default must be better by more than the standard error of the
difference, paired by event and clustered by user. The federated model is the prior where what
is chosen with it is better than what is chosen without it by more than half a standard error. An
attention model of the own data, where one was trained, takes part likewise: as the prior of what is
chosen without the federated model, and together with it, where that is better by more than a
standard error.

Where there are few users, more than one event of each is held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.home.home_model import (
    MEMORIES,
    FixedPrior,
    HomeModel,
    Memory,
    SoftmaxPrior,
    TransitionCounts,
    popularity_shares,
)
from client.home.local_attention import LocalAttention, train_attention
from shared.data.histories import Histories
from shared.evaluation.paired import ndcg_gains
from shared.evaluation.ranking import Scorer, ranks
from shared.models.influence import CAPS, InfluenceCaps

__all__ = [
    "CUTOFF",
    "DEFAULT",
    "FEWEST",
    "MOST",
    "MOST_NUMBERS",
    "STRENGTHS",
    "TRAINING",
    "Candidate",
    "Choice",
    "HeldOutEvents",
    "build_home",
    "choose",
    "last_events",
    "standard_error",
]

STRENGTHS = (8.0, 32.0, 64.0, 128.0, 512.0, math.inf)
"""What a prior may be worth, in counted transitions."""
CUTOFF = 10
FEWEST = 20
"""Users with held-out events from which on a choice is more than luck."""
MOST, MOST_NUMBERS = 1000, 2**26
"""Users whose held-out events are ranked, and scores that are held; more users are sampled
evenly."""
_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutEvents:
    """Events that counts do not contain, to choose by.

    Attributes:
        counted: what is counted.
        inputs: histories before each held-out event, [events].
        targets: int64 [events], the held-out items.
        users: int64 [events], whose each one is, by any number of the user.
    """

    counted: Histories
    inputs: Histories
    targets: NDArray[np.int64]
    users: NDArray[np.int64]

    @property
    def enough(self) -> bool:
        """Whether there are users enough to choose by."""
        return len(np.unique(self.users)) >= FEWEST

    def train_attention(self, items: int) -> LocalAttention | None:
        """Train an attention model on what is counted; None where too few users have events.

        Args:
            items: V, the size of the catalogue.
        """
        if not self.enough:
            return None
        return train_attention(self.counted, self.inputs, self.targets, items)

    @classmethod
    def joined(cls, parts: Sequence[HeldOutEvents]) -> HeldOutEvents:
        """Concatenate events; what the last part counts is counted."""
        return cls(
            parts[-1].counted,
            Histories.joined([part.inputs for part in parts]),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.users for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A home model that could be chosen.

    Attributes:
        federated: whether the prior is the federated model, or own popularity.
        memory: how far back own counts look.
        strength: what the prior is worth.
        attention: whether the prior is the own attention model, alone or with the federated one.
    """

    federated: bool
    memory: Memory
    strength: float
    attention: bool = False

    def describe(self) -> str:
        """Return it in words."""
        federated = ["the federated model"] if self.federated else []
        attention = ["an attention model of your own data"] if self.attention else []
        prior = " with ".join([*federated, *attention]) or "own popularity"
        if math.isinf(self.strength):
            return f"{prior} alone"
        return (
            f"own counts over the last {self.memory.events} events (decay {self.memory.decay:g}), "
            f"and {prior}, worth {self.strength:g} transitions"
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The best candidate, and what it and others reached on the held-out events.

    Attributes:
        chosen: the best one of all.
        home: the best one without the federated model.
        users: whose events were held out; fewer than `FEWEST`: nothing was chosen.
        ndcg: NDCG@10 of `chosen`; None where nothing was chosen.
        ndcg_home: NDCG@10 of `home`.
        ndcg_federated: NDCG@10 of the federated model alone.
        ndcg_attention: NDCG@10 of the own attention model alone; None where there is none.
    """

    chosen: Candidate
    home: Candidate
    users: int
    ndcg: float | None = None
    ndcg_home: float | None = None
    ndcg_federated: float | None = None
    ndcg_attention: float | None = None


DEFAULT = Memory(10, 0.8), 32.0
"""Where there are too few users to choose by, and nothing else is measurably better."""
JOINING, TRAINING = 0.5, 1.0
"""Standard errors by which the federated model must be better, and by which an own attention model:
it was made to rank these events well (`client.home.local_attention`)."""
ENOUGH, MOST_OF_ONE, LEAST_KEPT = 600, 4, 9
"""Events that are held out where histories are long enough, and of one user at most; for each of a
user's, so many others are counted."""


def last_events(histories: Histories, *, apart: int = 0) -> HeldOutEvents:
    """Hold out the last event of each user of two or more; more of each where users are few.

    Args:
        histories: the organisation's.
        apart: events of each user that are held out elsewhere; they count as the first ones.
    """
    lengths = histories.lengths
    several = -(-ENOUGH // max(1, int((lengths >= 2).sum())))
    most = np.maximum(lengths // (1 + LEAST_KEPT), 1) * (lengths >= 2)
    held = np.maximum(np.minimum(most, min(several, MOST_OF_ONE)) - apart, 0)
    counted = histories.first(lengths - held)
    parts = []
    for back in range(int(held.max(initial=0)), 0, -1):
        users = np.flatnonzero(held >= back)
        ends = lengths[users] - back
        places = histories.offsets[:-1][users] + ends
        inputs = histories.select(users).first(ends)
        parts.append(HeldOutEvents(counted, inputs, histories.items[places], users))
    nobody = np.zeros(0, np.int64)
    return HeldOutEvents.joined(
        [HeldOutEvents(counted, histories.select(nobody), nobody, nobody), *parts]
    )


def choose(
    events: HeldOutEvents,
    federated: Scorer,
    *,
    items: int,
    window: int,
    attention: LocalAttention | None = None,
    caps: InfluenceCaps = CAPS,
) -> Choice:
    """Choose the home model that ranks held-out events best, where the difference is measurable.

    Args:
        events: the organisation's.
        federated: the federated model's logits.
        items: V, the size of the catalogue.
        window: events T that a model reads, the most of all.
        attention: was trained on what is counted; None where there is no such model.
        caps: on what one user adds to counts.
    """
    memory, strength = DEFAULT
    if not events.enough:
        home = Candidate(federated=False, memory=memory, strength=strength)
        chosen = Candidate(federated=True, memory=memory, strength=strength)
        return Choice(chosen, home, len(np.unique(events.users)))
    comparison = _Comparison(events, items, window, caps)
    joined = comparison.of(SoftmaxPrior(federated), federated=True)
    popularity = popularity_shares(events.counted, items, caps)
    own = comparison.of(FixedPrior(popularity), federated=False)
    trained, joined_best = None, joined
    if attention is not None:
        trained = comparison.of(attention.prior, federated=False, attention=True)
        own = comparison.better(trained, own, TRAINING)
        mean = comparison.of(attention.prior_with(federated), federated=True, attention=True)
        joined_best = comparison.better(mean, joined, TRAINING)
    best = comparison.better(joined_best, own, JOINING)
    return Choice(
        chosen=best.best,
        home=own.best,
        users=len(np.unique(comparison.users)),
        ndcg=best.mean(best.best),
        ndcg_home=own.mean(own.best),
        ndcg_federated=joined.mean_of_prior,
        ndcg_attention=None if trained is None else trained.mean_of_prior,
    )


def build_home(
    candidate: Candidate,
    histories: Histories,
    federated: Scorer,
    items: int,
    attention: LocalAttention | None = None,
    caps: InfluenceCaps = CAPS,
) -> HomeModel:
    """Return the home model of a candidate, which counts the given histories.

    Args:
        candidate: of `choose`.
        histories: the organisation's.
        federated: the federated model's logits.
        items: V, the size of the catalogue.
        attention: of the own data, where it is the candidate's prior.
        caps: on what one user adds to counts.
    """
    prior: Scorer = FixedPrior(popularity_shares(histories, items, caps))
    if candidate.attention:
        assert attention is not None
        prior = attention.prior_with(federated) if candidate.federated else attention.prior
    elif candidate.federated:
        prior = SoftmaxPrior(federated)
    transitions = TransitionCounts.of(histories, items, candidate.memory, caps)
    return HomeModel(transitions, prior, candidate.strength)


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """What the candidates with one prior reached.

    Attributes:
        best: the default one, or one that is measurably better.
        gains: by candidate, each event's part of NDCG@10.
    """

    best: Candidate
    gains: Mapping[Candidate, NDArray[np.float64]]

    def mean(self, candidate: Candidate) -> float:
        """Return NDCG@10."""
        return float(self.gains[candidate].mean())

    @property
    def mean_of_prior(self) -> float:
        """Return NDCG@10 of the prior alone."""
        [alone] = [candidate for candidate in self.gains if math.isinf(candidate.strength)]
        return self.mean(alone)


class _Comparison:
    """Candidates, ranked on the same held-out events.

    Args:
        events: the organisation's.
        items: V.
        window: events that a model reads.
        caps: on what one user adds to counts.
    """

    def __init__(self, events: HeldOutEvents, items: int, window: int, caps: InfluenceCaps) -> None:
        most = max(1, min(MOST, MOST_NUMBERS // items, len(events.targets)))
        rows = np.linspace(0, len(events.targets) - 1, most).astype(np.int64)
        rows = rows[np.argsort(events.inputs.lengths[rows], kind="stable")]
        self.users = events.users[rows]
        self._inputs, self._targets = events.inputs, torch.from_numpy(events.targets)
        self._batches = [rows[start : start + _BATCH] for start in range(0, most, _BATCH)]
        self._window = max(window, *(memory.events for memory in MEMORIES))
        self._counts = {
            memory: TransitionCounts.of(events.counted, items, memory, caps) for memory in MEMORIES
        }

    @torch.no_grad()
    def of(self, prior: Scorer, *, federated: bool, attention: bool = False) -> _Measured:
        """Measure the candidates with a prior, and choose one."""
        histories = [self._padded(rows, self._window) for rows in self._batches]
        probabilities = [prior(part).float().cpu() for part in histories]
        gains: dict[Candidate, NDArray[np.float64]] = {}

        def measure(memory: Memory, strength: float) -> Candidate:
            candidate = Candidate(federated, memory, strength, attention)
            if candidate not in gains:
                model = HomeModel(self._counts[memory], prior, strength)
                gains[candidate] = self._gains(model, histories, probabilities)
            return candidate

        memory, strength = DEFAULT
        first = measure(memory, strength)
        best = self._better(first, [measure(other, strength) for other in MEMORIES], gains)
        others = [measure(best.memory, other) for other in STRENGTHS]
        return _Measured(self._better(best, others, gains), gains)

    def better(self, one: _Measured, other: _Measured, errors: float) -> _Measured:
        """Return `one` if its best is better by more than so many standard errors, or `other`."""
        difference = one.gains[one.best] - other.gains[other.best]
        enough = difference.mean() > errors * standard_error(difference, self.users)
        return one if enough else other

    def _better(
        self,
        first: Candidate,
        others: Sequence[Candidate],
        gains: Mapping[Candidate, NDArray[np.float64]],
    ) -> Candidate:
        """Return the best of those that are better by more than a standard error, or the first."""
        best, most = first, 0.0
        for other in others:
            difference = gains[other] - gains[first]
            mean = float(difference.mean())
            if mean > most and mean > standard_error(difference, self.users):
                best, most = other, mean
        return best

    def _gains(
        self, model: HomeModel, histories: Sequence[Tensor], probabilities: Sequence[Tensor]
    ) -> NDArray[np.float64]:
        """Return each event's part of NDCG@10."""
        parts = []
        for rows, given, prior in zip(self._batches, histories, probabilities, strict=True):
            seen = self._padded(rows, int(self._inputs.lengths.max()))
            places = ranks(model.blend(given, prior), self._targets[rows], seen)
            parts.append(ndcg_gains(places.numpy(), CUTOFF))
        return np.concatenate(parts)

    def _padded(self, rows: NDArray[np.int64], window: int) -> Tensor:
        """Return histories, padded to the longest of them."""
        longest = max(1, int(self._inputs.lengths[rows].max()))
        return self._inputs.padded(rows, min(window, longest))


def standard_error(values: NDArray[np.float64], users: NDArray[np.int64]) -> float:
    """Return the standard error of a mean of values that come in clusters, one a user.

    With r = value - mean, it is √(Σ_users (Σ_own r)²) / N (Liang & Zeger, Biometrika 73, 1986).

    >>> standard_error(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1])) # doctest: +ELLIPSIS
    0.707...
    """
    _, cluster = np.unique(users, return_inverse=True)
    sums = np.bincount(cluster, values - values.mean())
    return float(np.sqrt((sums**2).sum()) / len(values))
