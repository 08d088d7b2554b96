"""How well the given weights rank each user's last event: noised sums, and nothing exact.

For each sampled user the model sees all events but the last and ranks the whole catalogue, without
what the user has met before (`shared.evaluation.ranking`). A user's part of the sum is (HR@k,
nDCG@k, 1), each in [0, 1], so its length is at most √3, whatever the data; the third sum counts
users, so that means can be formed. The sum gets N(0, (σ√3)²) on each figure: one Poisson-subsampled
Gaussian release, with the same unit and neighbours as a training step.

What is measured: a site whose policy answers "evaluate" keeps each user's last event out of its
own training, so its figures are of events that it did not train on. They are optimistic where the
same event was trained on elsewhere, or here before "evaluate" was allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.data.histories import Histories
from shared.evaluation.ranking import rank_users
from shared.messages import SUMS
from shared.models.attention import AttentionRecommender
from shared.privacy.noise import RandomSource, noised
from shared.privacy.sampling import poisson_samples

__all__ = ["EvaluationPlan", "evaluate", "noised_sums"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What one request asks of a site: public constants only.

    Attributes:
        sample_rate: chance of each user to be in the sum, in (0, 1].
        clip_norm: bound C on the length of one user's part, > 0.
        noise_multiplier: noise over clip norm, > 0.
        k: the cut-off, >= 1.
    """

    sample_rate: float
    clip_norm: float
    noise_multiplier: float
    k: int


def evaluate(
    model: AttentionRecommender, histories: Histories, plan: EvaluationPlan, random: RandomSource
) -> Tensor:
    """The noised sums of HR@k, nDCG@k and users over one Poisson sample.

    Args:
        model: with the weights to be measured, on the device to rank on.
        histories: the site's private histories, whole; each has at least two events.
        plan: public constants.
        random: source of sample and noise.

    Returns:
        float32 [3], in the order of `shared.messages.SUMS`, on the CPU.
    """
    (rows,) = poisson_samples(len(histories), sample_rate=plan.sample_rate, steps=1, random=random)
    model.train(mode=False)
    return noised_sums(_per_user(model, histories.select(rows), plan.k), plan, random)


def noised_sums(figures: NDArray[np.float64], plan: EvaluationPlan, random: RandomSource) -> Tensor:
    """Sums the rows of `figures`, [B, M], each clipped to the plan's norm, with noise: float32 [M].

    What is not finite counts as 0: it would show through any noise.
    """
    finite = np.nan_to_num(figures, nan=0.0, posinf=0.0, neginf=0.0)
    norms = np.linalg.norm(finite, axis=1, keepdims=True)  # [B, 1]
    clipped = finite * np.minimum(1.0, plan.clip_norm / np.maximum(norms, 1e-12))
    total = torch.from_numpy(clipped.sum(0))
    return noised(total, plan.noise_multiplier * plan.clip_norm, random).float()


def _per_user(model: AttentionRecommender, users: Histories, k: int) -> NDArray[np.float64]:
    """HR@k, nDCG@k and 1 of each user, [B, 3]."""
    if len(users) == 0:
        return np.zeros((0, len(SUMS)))

    def scores(histories: Tensor) -> Tensor:
        # Weights can be chosen so that only users of one item get a NaN: none may stop the sum.
        return torch.nan_to_num(model.next_item_scores(histories.to(model.device)))

    ranking = rank_users(
        scores,
        users.without_last(1),
        np.array([history[-1] for history in users]),
        items=model.config.items,
        window=model.config.max_length,
        k=k,
    )
    ranks = ranking.ranks.numpy().astype(np.float64)
    hits = ranks <= k
    return np.stack([hits, hits / np.log2(1 + ranks), np.ones(len(users))], axis=1)
