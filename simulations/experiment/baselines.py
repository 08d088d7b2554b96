"""Baselines of the federated model, evaluated on the same users.

The most popular items, first-order Markov counts, counts over the last three events, ItemKNN and
EASE use exact data of every organisation. `counts3_local` has each organisation count its own
events, without noise, and ranks its own users. The private popularity spends the run's ε once at
each organisation. All use the training events, as the trained models do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shared.config import PrivacyConfig
from shared.data.domains import ItemSet
from shared.data.histories import Histories
from shared.data.splits import HeldOut
from shared.evaluation.ranking import Ranking, Scorer, rank_users, rank_users_by
from shared.models.attention import AttentionRecommender
from shared.models.counts import Markov, Popularity, item_counts, noised_item_counts
from shared.models.ease import MAX_SIZE, Ease, ease_size
from shared.models.item_knn import MAX_PAIRS, ItemKNN, item_pairs
from shared.models.recent_counts import RecentCounts
from shared.privacy.accounting.accountant import noise_multiplier_for
from shared.privacy.noise import SeededRandom

__all__ = [
    "Cases",
    "markov",
    "popularity",
    "private_popularity",
    "rank_exact_counts",
    "recommender",
    "skipped_baselines",
    "validation_loss",
]

LOSS_USERS = 128
"""Users in the validation loss that is shown while training; a sample, for speed."""


class Cases:
    """The test cases of a split, and the organisation of each.

    Args:
        split: leave-one-out over all users.
        parts: user rows of each organisation, as `partition` gives them.
        items: catalogue size V.
        window: events T that a scorer gets.
        sets: the items of each organisation, among which those of its users are ranked; None where
            all have all.
    """

    def __init__(
        self,
        split: HeldOut,
        parts: Sequence[NDArray[np.int64]],
        *,
        items: int,
        window: int,
        sets: Sequence[ItemSet] | None = None,
    ) -> None:
        self.sets = sets
        self.split, self.items, self.window = split, items, window
        position = {user: number for number, user in enumerate(split.test_inputs.users)}
        self.parts = [
            np.array(
                [position[u] for u in split.train.select(rows).users if u in position], np.int64
            )
            for rows in parts
        ]

    def rank(self, scorer: Scorer, *, whole: bool = False) -> Ranking:
        """Rank every test user's item over the full catalogue, or its organisation's items.

        Args:
            scorer: the model.
            whole: whether the scorer gets whole histories instead of the window.
        """
        inputs, targets = self.split.test_inputs, self.split.test_targets
        window = max(1, int(inputs.lengths.max())) if whole else self.window
        if self.sets is not None:
            masked = [[own.mask(scorer)] for own in self.sets]
            [ranking] = self._rank_each(masked, window)
            return ranking
        return rank_users(scorer, inputs, targets, items=self.items, window=window)

    def rank_each(self, scorers: Sequence[Sequence[Scorer]]) -> list[Ranking]:
        """Rank each organisation's users with its own scorers; users in the order of the split.

        Args:
            scorers: of each organisation, as many and in the same order; they get the same tensor
                of each batch's histories in turn. Where organisations have items of their own,
                others score -inf.
        """
        return self._rank_each(scorers, self.window)

    def _rank_each(self, scorers: Sequence[Sequence[Scorer]], window: int) -> list[Ranking]:
        inputs, targets = self.split.test_inputs, self.split.test_targets
        parts = [
            rank_users_by(own, inputs.select(rows), targets[rows], items=self.items, window=window)
            for own, rows in zip(scorers, self.parts, strict=True)
            if len(rows)
        ]
        order = np.argsort(np.concatenate(self.parts))
        return [Ranking.pooled(of_model).select(order) for of_model in zip(*parts, strict=True)]


def popularity(train: Histories, items: int) -> Scorer:
    """Return a scorer by exact item counts."""
    return Popularity(item_counts(train, items))


def private_popularity(
    sites: Sequence[Histories], items: int, privacy: PrivacyConfig, seed: int
) -> Scorer:
    """Return a scorer by the sum of one noised count a site, each under the run's (ε, δ).

    Every user has the same weight: the clip norm 1 is at most the norm of any user's counts.
    """
    if privacy.epsilon is None:
        raise ValueError("a private baseline needs an epsilon")
    noise = noise_multiplier_for(privacy.epsilon, privacy.delta, sample_rate=1.0, steps=1)
    noise /= math.sqrt(privacy.honest_shares(len(sites)))
    total = torch.zeros(items, dtype=torch.float64)
    for stream, histories in enumerate(sites):
        random = SeededRandom(seed, stream, 0)  # round 0: training rounds count from 1
        total += noised_item_counts(
            histories, items, clip_norm=1.0, noise_multiplier=noise, normal=random.normal
        )
    return Popularity(total)


def markov(train: Histories, items: int) -> Scorer:
    """Return a scorer by first-order transition counts."""
    return Markov.from_histories(train, items)


def rank_exact_counts(
    cases: Cases, train: Histories, parts: Sequence[NDArray[np.int64]]
) -> dict[str, Ranking]:
    """Rank with the baselines that count or solve, without noise: all but popularity.

    Args:
        cases: whose test items are ranked.
        train: all training events.
        parts: user rows of each organisation.
    """
    items, skipped = cases.items, skipped_baselines(train)
    own: list[list[Scorer]] = [
        [RecentCounts.from_histories(train.select(rows), items)] for rows in parts
    ]
    if cases.sets is not None:
        own = [[of.mask(one) for one in each] for of, each in zip(cases.sets, own, strict=True)]
    [of_own] = cases.rank_each(own)
    rankings = {
        "markov": cases.rank(markov(train, items)),
        "counts3": cases.rank(RecentCounts.from_histories(train, items)),
        "counts3_local": of_own,
    }
    if "item_knn" not in skipped:
        rankings["item_knn"] = cases.rank(ItemKNN.from_histories(train, items), whole=True)
    if "ease" not in skipped:
        rankings["ease"] = cases.rank(Ease.from_histories(train, items), whole=True)
    return rankings


def skipped_baselines(train: Histories) -> dict[str, str]:
    """Return why a baseline is not computed, by its name: only those that would take too long."""
    skipped = {}
    if (pairs := item_pairs(train)) > MAX_PAIRS:
        skipped["item_knn"] = f"{pairs:,} pairs of items to count, more than {MAX_PAIRS:,}"
    if (size := ease_size(train)) > MAX_SIZE:
        skipped["ease"] = f"a matrix of {size:,} rows to invert, more than {MAX_SIZE:,}"
    return skipped


def recommender(model: AttentionRecommender) -> Scorer:
    """Return a scorer that applies the model on its own device."""

    def score(histories: Tensor, /) -> Tensor:
        return model.next_item_scores(histories.to(model.device))

    return score


@torch.no_grad()
def validation_loss(scorer: Scorer, split: HeldOut, window: int) -> float:
    """Return the mean cross-entropy of some users' validation items, in nats."""
    rows = np.linspace(0, len(split.validation_inputs) - 1, num=LOSS_USERS, dtype=np.int64)
    rows = np.unique(rows)
    scores = scorer(split.validation_inputs.padded(rows, window))
    targets = torch.from_numpy(split.validation_targets[rows] - 1).to(scores.device)
    return float(F.cross_entropy(scores, targets))
