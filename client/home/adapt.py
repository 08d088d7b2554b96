"""Adapt the federated model to an organisation: choose its home model on held-out events.

Two numbers are chosen for each prior, by the mean NDCG@10 over the organisation's own held-out
events: first how far back own counts look, then what the prior is worth. Both come from short lists
that are the same for everybody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.home.home_model import (
    MEMORIES,
    HomeModel,
    Memory,
    TransitionCounts,
    popularity_shares,
    same_for_all,
    softmax_of,
)
from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer, ndcg, ranks

__all__ = [
    "CUTOFF",
    "FEWEST",
    "STRENGTHS",
    "Candidate",
    "Choice",
    "HeldOutEvents",
    "build_home",
    "choose",
    "last_events",
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
        inputs: histories before the held-out event, one a user.
        targets: int64, each user's held-out item.
    """

    counted: Histories
    inputs: Histories
    targets: NDArray[np.int64]

    @property
    def enough(self) -> bool:
        """Whether there are users enough to choose by."""
        return len(self.targets) >= FEWEST


@dataclass(frozen=True, slots=True)
class Candidate:
    """A home model that could be chosen.

    Attributes:
        federated: whether the prior is the federated model, or own popularity.
        memory: how far back own counts look.
        strength: what the prior is worth.
    """

    federated: bool
    memory: Memory
    strength: float

    def describe(self) -> str:
        """Return it in words."""
        prior = "the federated model" if self.federated else "own popularity"
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
        users: whose held-out events were ranked; fewer than `FEWEST`: nothing was chosen.
        ndcg: NDCG@10 of `chosen`; None where nothing was chosen.
        ndcg_home: NDCG@10 of `home`.
        ndcg_federated: NDCG@10 of the federated model alone.
    """

    chosen: Candidate
    home: Candidate
    users: int
    ndcg: float | None = None
    ndcg_home: float | None = None
    ndcg_federated: float | None = None


DEFAULT = Memory(6, 0.7), 64.0
"""Where there are too few users to choose by."""


def last_events(histories: Histories) -> HeldOutEvents:
    """Hold out the last event of each user of two or more."""
    held = histories.lengths >= 2
    counted = histories.first(histories.lengths - held)
    users = np.flatnonzero(held)
    return HeldOutEvents(
        counted, counted.select(users), histories.items[histories.offsets[1:][users] - 1]
    )


def choose(events: HeldOutEvents, federated: Scorer, *, items: int, window: int) -> Choice:
    """Choose the home model that ranks held-out events best.

    Args:
        events: the organisation's.
        federated: the federated model's logits.
        items: V, the size of the catalogue.
        window: events T that the federated model reads.
    """
    memory, strength = DEFAULT
    if not events.enough:
        home = Candidate(federated=False, memory=memory, strength=strength)
        chosen = Candidate(federated=True, memory=memory, strength=strength)
        return Choice(chosen, home, len(events.targets))
    comparison = _Comparison(events, items, window)
    joined = comparison.of(softmax_of(federated), federated=True)
    own = comparison.of(same_for_all(popularity_shares(events.counted, items)), federated=False)
    means = own | joined  # of equals, the first: what needs no federation
    chosen, home = max(means, key=means.__getitem__), max(own, key=own.__getitem__)
    [of_federated] = [mean for candidate, mean in joined.items() if math.isinf(candidate.strength)]
    return Choice(chosen, home, len(comparison.targets), means[chosen], means[home], of_federated)


def build_home(
    candidate: Candidate, histories: Histories, federated: Scorer, items: int
) -> HomeModel:
    """Return the home model of a candidate, which counts the given histories.

    Args:
        candidate: of `choose`.
        histories: the organisation's.
        federated: the federated model's logits.
        items: V, the size of the catalogue.
    """
    prior = (
        softmax_of(federated)
        if candidate.federated
        else same_for_all(popularity_shares(histories, items))
    )
    transitions = TransitionCounts.of(histories, items, candidate.memory)
    return HomeModel(transitions, prior, candidate.strength)


class _Comparison:
    """Candidates, ranked on the same held-out events.

    Args:
        events: the organisation's.
        items: V.
        window: events that a model reads.
    """

    def __init__(self, events: HeldOutEvents, items: int, window: int) -> None:
        most = max(1, min(MOST, MOST_NUMBERS // items, len(events.targets)))
        rows = np.linspace(0, len(events.targets) - 1, most).astype(np.int64)
        self.targets = torch.from_numpy(events.targets[rows])
        lengths = events.inputs.lengths[rows]
        self._seen = events.inputs.padded(rows, max(1, int(lengths.max())))
        self._window = max(window, *(memory.events for memory in MEMORIES))
        self._histories = events.inputs.padded(rows, self._window)
        self._counts = {
            memory: TransitionCounts.of(events.counted, items, memory) for memory in MEMORIES
        }

    @torch.no_grad()
    def of(self, prior: Scorer, *, federated: bool) -> dict[Candidate, float]:
        """Return NDCG@10 of the candidates with a prior."""
        probabilities = [prior(part).float().cpu() for part in self._histories.split(_BATCH)]
        best, strength = DEFAULT
        means: dict[Candidate, float] = {}

        def measure(memory: Memory, strength: float) -> float:
            candidate = Candidate(federated=federated, memory=memory, strength=strength)
            if candidate not in means:
                model = HomeModel(self._counts[memory], prior, strength)
                means[candidate] = ndcg(self._ranks(model, probabilities), CUTOFF)
            return means[candidate]

        best = max(MEMORIES, key=lambda memory: measure(memory, strength))
        for other in STRENGTHS:
            measure(best, other)
        return means

    def _ranks(self, model: HomeModel, probabilities: list[Tensor]) -> Tensor:
        parts = zip(
            *(x.split(_BATCH) for x in (self._histories, self.targets, self._seen)),
            probabilities,
            strict=True,
        )
        return torch.cat(
            [
                ranks(model.blend(histories, prior), targets, seen)
                for histories, targets, seen, prior in parts
            ]
        )
