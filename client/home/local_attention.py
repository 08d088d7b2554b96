"""A small attention recommender of the organisation's own data: trained without noise, never sent.

It is of the same family as the federated model (`shared.models.attention`), with a learned vector
for each item and none of the federated model's weights. Each epoch takes a window of every user's
events, at a random place of a long history, and steps by AdamW along the likelihood of what comes
next among all items. After each epoch it is measured on the held-out events, the best one is kept,
and training ends when `PATIENCE` more have not been better or `MOST_SCORES` have been computed.

It serves as a prior of the home model, alone or together with the federated model
(`client.home.home_model`).
What it was measured by, it knows a little: `client.home.adapt` asks more of it for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from client.home.home_model import SoftmaxPrior
from shared.data.histories import Histories
from shared.evaluation.ranking import Scorer, rank_users
from shared.models.attention import AttentionRecommender
from shared.models.attention_config import AttentionConfig
from shared.models.losses import next_item_pairs

__all__ = ["WINDOW", "LocalAttention", "MeanLogits", "train_attention"]

WIDTH, LAYERS, HEADS, WINDOW, DROPOUT = 64, 1, 2, 50, 0.2
"""Shape: hidden size, blocks, heads, events that are read, and the rate of dropout."""
LEARNING_RATE = 4e-3
FEWEST_OF_STEP, MOST_OF_STEP, STEPS = 16, 64, 12
"""Users of a step, as many as make so many steps of an epoch."""
MOST_EPOCHS, PATIENCE = 60, 5
MOST_SCORES, SCORES_OF_STEP = 27 * 10**8, 2**24
"""Scores of items that are computed in all, which bounds the time to a minute or two of one core;
and in a step at most, as far as one user's allow it: memory."""
MOST_MEASURED = 500
"""Held-out events by which the best epoch is chosen."""
_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class LocalAttention:
    """A trained model, as a scorer.

    Attributes:
        model: in evaluation mode.
        epochs: after which it was best; 0 where none was better than before training.
    """

    model: AttentionRecommender
    epochs: int = 0

    @property
    def prior(self) -> SoftmaxPrior:
        """The model as the prior of a home model."""
        return SoftmaxPrior(self, window=self.model.config.max_length)

    def prior_with(self, federated: Scorer) -> SoftmaxPrior:
        """The geometric mean of this model's and the federated model's distribution, as a prior.

        Args:
            federated: the federated model's logits.
        """
        return SoftmaxPrior(MeanLogits(self, federated), window=self.model.config.max_length)

    @torch.no_grad()
    def __call__(self, histories: Tensor, /) -> Tensor:
        """Return logits, float32 [B, V]."""
        return self.model.next_item_scores(histories.to(self.model.device))


@dataclass(frozen=True, slots=True, eq=False)
class MeanLogits:
    """The mean of two models' logits.

    Attributes:
        own: of the own data.
        federated: logits of the federated model.
    """

    own: LocalAttention
    federated: Scorer

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Return logits, float32 [B, V]."""
        federated = self.federated(histories)
        return (self.own(histories).to(federated) + federated) / 2


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Events by which the best epoch is chosen: histories before them, [events], and the items."""

    inputs: Histories
    targets: NDArray[np.int64]

    def ndcg(self, scorer: LocalAttention, items: int) -> float:
        ranking = rank_users(scorer, self.inputs, self.targets, items=items, window=WINDOW)
        return ranking.metrics().ndcg


def train_attention(
    counted: Histories, inputs: Histories, targets: NDArray[np.int64], items: int
) -> LocalAttention:
    """Train on histories, and keep the epoch that ranks the held-out events best.

    The same histories give the same model.

    Args:
        counted: the organisation's, without what is held out.
        inputs: histories before each held-out event, [events].
        targets: the held-out items, int64 [events].
        items: V, the size of the catalogue.
    """
    rows = np.linspace(0, len(targets) - 1, min(MOST_MEASURED, len(targets))).astype(np.int64)
    held = _Held(inputs.select(rows), targets[rows])
    with torch.random.fork_rng([]):
        torch.manual_seed(_SEED)
        model = AttentionRecommender(
            AttentionConfig(
                items=items,
                hidden_size=WIDTH,
                layers=LAYERS,
                heads=HEADS,
                max_length=WINDOW,
                dropout=DROPOUT,
            )
        )
        return _train(model, counted, held)


def _train(model: AttentionRecommender, counted: Histories, held: _Held) -> LocalAttention:
    items, scorer, draw = model.config.items, LocalAttention(model), np.random.default_rng(_SEED)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    users = _users_of_step(int((counted.lengths >= 2).sum()), items)
    model.train(mode=False)
    best, epochs, kept, scored = held.ndcg(scorer, items), 0, _copy(model), 0
    for epoch in range(1, MOST_EPOCHS + 1):
        model.train()
        for batch in _batches(counted, users, draw):
            scored += _step(model, optimiser, batch) * items
            if scored > MOST_SCORES:
                break
        model.train(mode=False)
        reached = held.ndcg(scorer, items)
        if reached > best:
            best, epochs, kept = reached, epoch, _copy(model)
        if epoch - epochs >= PATIENCE or scored > MOST_SCORES:
            break
    model.load_state_dict(kept)
    model.requires_grad_(requires_grad=False)
    return LocalAttention(model, epochs)


def _users_of_step(users: int, items: int) -> int:
    """Return how many users' windows a step takes: fewer where there are few, or many items."""
    wanted = min(max(users // STEPS, FEWEST_OF_STEP), MOST_OF_STEP)
    return max(1, min(wanted, SCORES_OF_STEP // (WINDOW * items)))


def _step(model: AttentionRecommender, optimiser: torch.optim.Optimizer, batch: Tensor) -> int:
    """Take one step on histories [B, T + 1]; return how many next items there were."""
    inputs, targets = next_item_pairs(batch)
    real = targets > 0
    loss = F.cross_entropy(model.score(model.states(inputs)[real]), targets[real] - 1)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return int(real.sum())


def _batches(histories: Histories, size: int, draw: np.random.Generator) -> Iterator[Tensor]:
    """Yield a window of each user of two or more events, in random order, [B, T + 1]."""
    users = draw.permutation(np.flatnonzero(histories.lengths >= 2))
    for start in range(0, len(users), size):
        rows = users[start : start + size]
        windows = [_window(histories, user, draw) for user in rows]
        padded = np.zeros((len(rows), max(map(len, windows))), np.int64)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window)] = window
        yield torch.from_numpy(padded)


def _window(histories: Histories, user: int, draw: np.random.Generator) -> NDArray[np.int64]:
    start, end = histories.offsets[user : user + 2]
    start += draw.integers(0, max(0, end - start - WINDOW - 1) + 1)
    return histories.items[start : min(end, start + WINDOW + 1)]


def _copy(model: AttentionRecommender) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
