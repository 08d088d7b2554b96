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

The counts are exact, but for caps on what one user adds (`shared.models.influence`): a history that
repeats itself would outweigh all others. They protect nobody from the organisation itself: what one
of its users is shown may depend on another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from torch import Tensor

from client.home.friends_part import FriendsPart
from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer
from shared.models.counts import add_sparse
from shared.models.influence import CAPS, InfluenceCaps, capped_item_counts
from shared.models.recent_counts import count_transitions

__all__ = [
    "MEMORIES",
    "CountShares",
    "FixedPrior",
    "HomeModel",
    "Memory",
    "SoftmaxPrior",
    "TransitionCounts",
    "popularity_shares",
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
    def of(
        cls, histories: Histories, items: int, memory: Memory, caps: InfluenceCaps = CAPS
    ) -> TransitionCounts:
        """Count the pairs of events that are up to K apart, in memory O(K events + V).

        Args:
            histories: the organisation's users.
            items: V, the size of the catalogue.
            memory: how far back to look.
            caps: on what one user adds.
        """
        counts = count_transitions(histories, items, memory.weights, caps).astype(np.float32)
        return cls(memory, counts, np.asarray(counts.sum(1, dtype=np.float64)).ravel())


@dataclass(frozen=True, slots=True, eq=False)
class CountShares:
    """The scores after one history: those of counts, and what the prior is multiplied with.

    Attributes:
        columns: int64 [C], ascending: items with counts; column j is item j + 1.
        values: float32 [C], what counts add to their scores.
        prior: what the prior's probabilities are multiplied with.
        total: the sum of the scores of all items.
    """

    columns: NDArray[np.int64]
    values: NDArray[np.float32]
    prior: float
    total: float


@dataclass(frozen=True, slots=True, eq=False)
class HomeModel:
    """Score the catalogue by own counts and a prior.

    Attributes:
        transitions: the organisation's own.
        prior: scores int64 [B, T] as probabilities [B, V], each row's sum 1.
        strength: μ, transitions that the prior is worth; > 0, and infinite for the prior alone.
        friends: what users' friends chose, which counts where the user is named; None for none.
    """

    transitions: TransitionCounts
    prior: Scorer
    strength: float
    friends: FriendsPart | None = None

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Score int64 [B, T], right-padded with 0, as float32 [B, V]."""
        return self.blend(histories, self.prior(histories).float())

    def after(self, history: NDArray[np.int64], user: str = "") -> CountShares:
        """Return the parts of `blend` for one history, without a number for every item.

        Args:
            history: internal ids, int64 [events], oldest first; may be empty.
            user: whose friends count, in canonical form; "" for nobody's.
        """
        counts = self._after(history)
        found = None if self.friends is None else self.friends.shares(user)
        if self.friends is None or found is None:
            return counts
        alpha, columns = self.friends.alpha, np.union1d(counts.columns, found[0])
        values = np.zeros(len(columns))
        values[np.searchsorted(columns, counts.columns)] = alpha / counts.total * counts.values
        values[np.searchsorted(columns, found[0])] += (1 - alpha) * found[1]
        prior = alpha * counts.prior / counts.total
        return CountShares(columns, values.astype(np.float32), prior, float(values.sum()) + prior)

    def _after(self, history: NDArray[np.int64]) -> CountShares:
        nothing = CountShares(np.zeros(0, np.int64), np.zeros(0, np.float32), 1.0, 1.0)
        counts, memory = self.transitions.counts, self.transitions.memory
        last = history[-memory.events :][::-1]
        if np.isinf(self.strength) or len(last) == 0:
            return nothing
        weights = np.array(memory.weights[: len(last)])
        shares = weights / (self.transitions.totals[last] + self.strength)
        parts = [slice(counts.indptr[item], counts.indptr[item + 1]) for item in last]
        indices = np.concatenate([counts.indices[part] for part in parts])
        added = np.concatenate(
            [counts.data[part] * share for part, share in zip(parts, shares, strict=True)]
        )
        columns, place = np.unique(indices, return_inverse=True)
        values = np.bincount(place, added, len(columns))
        prior = self.strength * float(shares.sum())
        total = float(values.sum()) + prior
        return CountShares(columns.astype(np.int64), values.astype(np.float32), prior, total)

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


@dataclass(frozen=True, slots=True, eq=False)
class SoftmaxPrior:
    """The softmax of a scorer's logits.

    Attributes:
        scorer: scores int64 [B, T] as logits [B, V].
        shift: is added to them, [V]; None adds nothing.
        window: events that the scorer reads; 0 for as many as the federated model.
    """

    scorer: Scorer
    shift: Tensor | None = None
    window: int = 0

    def logits(self, histories: Tensor, /) -> Tensor:
        """Return logits [B, V]."""
        logits = self.scorer(histories)
        return logits if self.shift is None else logits + self.shift.to(logits)

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Return probabilities, float64 [B, V]."""
        return torch.softmax(self.logits(histories).double(), dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class FixedPrior:
    """The same probabilities after every history.

    Attributes:
        shares: [V], their sum 1.
    """

    shares: Tensor

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Return probabilities [B, V]."""
        return self.shares.to(histories.device).expand(len(histories), -1)


def popularity_shares(histories: Histories, items: int, caps: InfluenceCaps = CAPS) -> Tensor:
    """Return the items' shares of events, float64 [V], after one is added to each count.

    Args:
        histories: the organisation's users.
        items: V, the size of the catalogue.
        caps: on what one user adds.
    """
    counts = torch.from_numpy(capped_item_counts(histories, items, caps)) + 1
    return counts / counts.sum()
