"""Count models: item popularity and the first-order Markov chain.

They need no training, and are the baselines that a learned recommender must beat.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from torch import Tensor

from shared.data.histories import Histories

__all__ = ["Markov", "Popularity", "add_sparse", "item_counts", "noised_item_counts"]


def item_counts(histories: Histories, items: int) -> Tensor:
    """Count the events of each item, exactly.

    Args:
        histories: any number of users.
        items: V, the size of the catalogue.

    Returns:
        float64 [V]; entry j belongs to item j + 1.

    Raises:
        ValueError: an event outside 1..V.
    """
    _check_items(histories, items)
    counts = np.bincount(histories.items, minlength=items + 1)[1:]
    return torch.from_numpy(counts.astype(np.float64))


def noised_item_counts(
    histories: Histories,
    items: int,
    *,
    clip_norm: float,
    noise_multiplier: float,
    normal: Callable[[tuple[int, ...]], Tensor],
) -> Tensor:
    """Count the users of each item under user-level differential privacy.

    User u adds x_u * min(1, C / ||x_u||_2), where x_u in {0, 1}^V marks the items in u's history:
    repeats count once, and a history of n items weighs C / sqrt(n) per item once n > C^2. Adding
    or removing one user thus moves the sum by at most C in L2, and N(0, (σC)^2) on every entry
    makes the release a Gaussian mechanism with noise multiplier σ (Dwork & Roth, "The Algorithmic
    Foundations of Differential Privacy", 2014, theorem 3.22), without subsampling.

    Args:
        histories: the users of one organisation.
        items: V, the size of the catalogue; public.
        clip_norm: C, the most that one user moves the sum in L2; > 0.
        noise_multiplier: σ, noise standard deviation over C; > 0.
        normal: draws independent standard normals of a given shape.

    Returns:
        float64 [V]; entries can be negative. Anything computed from it costs nothing more.

    Raises:
        ValueError: an event outside 1..V, C or σ not positive and finite, or a draw of the wrong
            shape, whose entries would share their noise.
    """
    for name, value in (("clip_norm", clip_norm), ("noise_multiplier", noise_multiplier)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value}: must be positive and finite")
    noise = normal((items,))
    if noise.shape != (items,):
        raise ValueError(f"noise of shape {tuple(noise.shape)}: expected {(items,)}")
    return _clipped_sum(histories, items, clip_norm) + noise_multiplier * clip_norm * noise.double()


@dataclass(frozen=True, slots=True, eq=False)
class Popularity:
    """Recommend the items with the highest counts to every user.

    Attributes:
        counts: float [V], exact or noised.
    """

    counts: Tensor

    @classmethod
    def from_counts(cls, counts: Tensor) -> Popularity:
        """Build from float [V] of `item_counts` or `noised_item_counts`.

        Raises:
            ValueError: not a vector, or not all finite.

        Example:
            >>> Popularity.from_counts(torch.tensor([3.0, 1.0]))(torch.tensor([[1, 2], [2, 0]]))
            tensor([[3., 1.],
                    [3., 1.]])
        """
        if counts.ndim != 1 or not counts.isfinite().all():
            raise ValueError(f"counts of shape {tuple(counts.shape)}: expected finite values [V]")
        return cls(counts)

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Score int64 [B, T] as [B, V], one view of the counts for each user."""
        return self.counts.to(histories.device).expand(len(histories), -1)


@dataclass(frozen=True, slots=True, eq=False)
class Markov:
    """Recommend the items that most often followed the user's last item.

    score(j | i) = #(i -> j) + s * share(j), over consecutive pairs of the training histories
    (the unpersonalised chain of Rendle, Freudenthaler & Schmidt-Thieme, "Factorizing Personalized
    Markov Chains for Next-Basket Recommendation", WWW 2010; the division by #(i) is left out,
    since it does not change the order for a given i). The shares sum to 1, so with 0 < s < 1
    popularity only breaks ties: one observed transition outweighs it, and transitions never
    observed, or a history without events, fall back to it.

    Attributes:
        transitions: scipy CSR [V + 1, V], float64; row i is after item i, and row 0, after
            nothing, is empty.
        backoff: float64 [V], s times the popularity share of each item.
    """

    transitions: Any
    backoff: Tensor

    @classmethod
    def from_histories(cls, histories: Histories, items: int, smoothing: float = 0.5) -> Markov:
        """Count the transitions of the training histories, in memory O(events + V).

        Args:
            histories: at least one event.
            items: V, the size of the catalogue.
            smoothing: s, the weight of popularity against one observed transition; > 0.

        Raises:
            ValueError: no events, an event outside 1..V, or s not positive and finite.
        """
        if not (math.isfinite(smoothing) and smoothing > 0):
            raise ValueError(f"smoothing={smoothing}: must be positive and finite")
        counts = item_counts(histories, items)
        if not counts.any():
            raise ValueError("no events: there is nothing to count")
        same_user = np.diff(histories.rows) == 0
        before, after = histories.items[:-1][same_user], histories.items[1:][same_user]
        pairs = coo_array((np.ones(len(after)), (before, after - 1)), shape=(items + 1, items))
        return cls(pairs.tocsr(), smoothing * counts / counts.sum())

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Score int64 [B, T], right-padded with 0, as float64 [B, V]."""
        last = (histories > 0).sum(1, keepdim=True).sub(1).clamp(min=0)  # [B, 1]
        items = histories.gather(1, last)[:, 0].cpu().numpy()  # [B]; 0 without events
        scores = self.backoff.repeat(len(items), 1)  # [B, V]
        return add_sparse(scores, self.transitions[items]).to(histories.device)


def add_sparse(scores: Tensor, added: Any) -> Tensor:  # noqa: ANN401 scipy has no types
    """Add a scipy CSR array without duplicates to a dense tensor [B, V], in place."""
    rows = np.repeat(np.arange(added.shape[0]), np.diff(added.indptr))
    places = (torch.from_numpy(rows).to(scores.device), _tensor(added.indices).to(scores.device))
    return scores.index_put_(places, _tensor(added.data).to(scores), accumulate=True)


def _tensor(values: Any) -> Tensor:  # noqa: ANN401
    found = torch.from_numpy(values)
    return found.long() if found.dtype == torch.int32 else found


def _clipped_sum(histories: Histories, items: int, clip_norm: float) -> Tensor:
    """Sum each user's 0/1 vector, scaled to L2 norm at most `clip_norm`, as float64 [V]."""
    _check_items(histories, items)
    pairs = np.unique(histories.rows * (items + 1) + histories.items)  # distinct (user, item)
    user, item = np.divmod(pairs, items + 1)
    distinct = np.bincount(user, minlength=len(histories))  # [users]; the squared norms
    weights = np.minimum(1.0, clip_norm / np.sqrt(distinct[user]))
    return torch.from_numpy(np.bincount(item, weights=weights, minlength=items + 1)[1:])


def _check_items(histories: Histories, items: int) -> None:
    events = histories.items
    if len(events) and not (events.min() >= 1 and events.max() <= items):
        raise ValueError(f"events in {events.min()}..{events.max()}: expected 1..{items}")
