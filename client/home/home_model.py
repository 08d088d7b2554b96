"""The home model: an organisation's own transition counts, with a prior over the next item.

With n(x) = sum over j of C(x, j), weights w_k = r^(k - 1) and x_1, x_2, ... the user's last K
events, latest first,

    score(j) = sum over k = 1..K of w_k (C(x_k, j) + μ p(j)) / (n(x_k) + μ),
    C(x, j)  = sum over d = 1..K of w_d #(j came d events after x).

Each summand is the posterior mean of the distribution of what follows x_k, under a Dirichlet prior
with mean p and strength μ, in counted transitions (Zhai & Lafferty, "A Study of Smoothing Methods
for Language Models", TOIS 22(2), 2004, equation 6, doi:10.1145/984321.984322). Where the
organisation has seen much of an item, its own counts decide, and elsewhere the prior does. The
prior is the federated model's distribution after the whole history or, for comparison, the
organisation's own popularity.

The counts are exact. They protect nobody from the organisation itself: what one of its users is
shown may depend on another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from torch import Tensor

from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer
from shared.models.counts import add_sparse, item_counts
from shared.models.recent_counts import count_transitions

__all__ = [
    "MEMORIES",
    "HomeModel",
    "Memory",
    "TransitionCounts",
    "popularity_shares",
    "same_for_all",
    "softmax_of",
]


@dataclass(frozen=True, slots=True)
class Memory:
    """How far back the counts look.

    Attributes:
        events: K, last events that are read, and largest distance of a counted pair; >= 1.
        decay: r, weight of an event over that of the next one, in (0, 1].
    """

    events: int
    decay: float

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights w_1..w_K."""
        return tuple(self.decay**back for back in range(self.events))


MEMORIES = (Memory(1, 1.0), Memory(3, 0.5), Memory(6, 0.7), Memory(10, 0.8))
"""What `client.home.adapt` chooses from."""


@dataclass(frozen=True, slots=True, eq=False)
class TransitionCounts:
    """What followed what in an organisation's histories, exactly.

    Attributes:
        memory: how far back they look.
        counts: scipy CSR [V + 1, V], float32, C; row 0, after nothing, is empty.
        totals: float64 [V + 1], n.
    """

    memory: Memory
    counts: Any
    totals: NDArray[np.float64]

    @classmethod
    def of(cls, histories: Histories, items: int, memory: Memory) -> TransitionCounts:
        """Count the pairs of events that are up to K apart, in memory O(K events + V).

        Args:
            histories: the organisation's users.
            items: V, the size of the catalogue.
            memory: how far back to look.
        """
        counts = count_transitions(histories, items, memory.weights).astype(np.float32)
        return cls(memory, counts, np.asarray(counts.sum(1, dtype=np.float64)).ravel())


@dataclass(frozen=True, slots=True, eq=False)
class HomeModel:
    """Score the catalogue by own counts and a prior.

    Attributes:
        transitions: the organisation's own.
        prior: scores int64 [B, T] as probabilities [B, V], each row's sum 1.
        strength: μ, transitions that the prior is worth; > 0, and infinite for the prior alone.
    """

    transitions: TransitionCounts
    prior: Scorer
    strength: float

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Score int64 [B, T], right-padded with 0, as float32 [B, V]."""
        return self.blend(histories, self.prior(histories).float())

    def blend(self, histories: Tensor, prior: Tensor) -> Tensor:
        """Return the scores of histories [B, T] with their prior [B, V]."""
        if np.isinf(self.strength):
            return prior
        counts, weights = self.transitions.counts, self.transitions.memory.weights
        users, width = len(histories), len(weights)
        backs = torch.arange(1, width + 1, device=histories.device)
        places = (histories > 0).sum(1, keepdim=True) - backs  # [B, K]
        last = histories.gather(1, places.clamp(min=0)).where(places >= 0, 0).cpu().numpy()
        totals = self.transitions.totals[last]  # [B, K]; n(x_k)
        shares = np.where(last > 0, np.array(weights), 0.0) / (totals + self.strength)  # [B, K]
        rows = np.repeat(np.arange(users), width)
        mixture = coo_array(
            (shares.ravel().astype(np.float32), (rows, last.ravel())), (users, counts.shape[0])
        )
        of_prior = torch.from_numpy(self.strength * shares.sum(1, keepdims=True)).float()
        # After an empty history there is the prior alone.
        of_prior = of_prior.where(of_prior > 0, 1.0)
        return add_sparse(of_prior.to(prior.device) * prior, mixture.tocsr() @ counts)


def softmax_of(scorer: Scorer) -> Scorer:
    """Return the scorer whose scores are probabilities: the softmax of another's logits."""

    def probabilities(histories: Tensor, /) -> Tensor:
        return torch.softmax(scorer(histories).double(), dim=1)

    return probabilities


def popularity_shares(histories: Histories, items: int) -> Tensor:
    """Return the items' shares of events, float64 [V], after one is added to each count."""
    counts = item_counts(histories, items) + 1
    return counts / counts.sum()


def same_for_all(shares: Tensor) -> Scorer:
    """Return the scorer that gives every user the same probabilities [V]."""

    def probabilities(rows: Tensor, /) -> Tensor:
        return shares.to(rows.device).expand(len(rows), -1)

    return probabilities
