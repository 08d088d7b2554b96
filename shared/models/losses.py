"""Training losses: one value per user, which depends on no other user's data.

Letters: B users, T positions, V items, K candidates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["gather_candidate_scores", "loss_per_user", "next_item_pairs", "sampled_loss_per_user"]


def next_item_pairs(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """Split sequences into inputs and targets for next-item training.

    Args:
        sequences: right-padded histories, int64 [B, T + 1].

    Returns:
        Inputs [B, T] and targets [B, T]; target 0 means that the position has none.

    >>> next_item_pairs(torch.tensor([[5, 3, 8, 0]]))
    (tensor([[5, 3, 8]]), tensor([[3, 8, 0]]))
    """
    return sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()


def loss_per_user(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy, averaged over each user's own targets.

    loss_u = -1/n_u Σ_t log softmax(logits_ut)[target_ut], over the n_u positions with a target.

    Args:
        logits: [B, T, V].
        targets: item ids, 0 where there is none, int64 [B, T].

    Returns:
        [B]; 0 for a user without targets. A target adds at most 87: float32 represents no smaller
        probability. The gradient is exact also there. It can be computed only once.

    >>> loss_per_user(torch.zeros(2, 3, 4), torch.tensor([[1, 2, 0], [0, 0, 0]]))
    tensor([1.3863, 0.0000])
    """
    losses: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses


class _CrossEntropy(torch.autograd.Function):
    """Softmax and cross-entropy in two passes over [B, T, V], with one buffer.

    torch's own needs six passes and three buffers, and at the size of a catalogue the speed of a
    step is limited by memory bandwidth.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        real = targets != 0
        weights = real / real.sum(1, keepdim=True).clamp(min=1)  # (B, T)
        columns = (targets - 1).clamp(min=0)[..., None]  # (B, T, 1); column j is item j + 1
        exact = torch.promote_types(logits.dtype, torch.float32)
        probabilities = torch.softmax(logits, dim=-1, dtype=exact)  # (B, T, V)
        likelihoods = probabilities.gather(2, columns)[..., 0].clamp(min=torch.finfo(exact).tiny)
        ctx.probabilities, ctx.saved, ctx.precision = (
            probabilities,
            (columns, weights),
            logits.dtype,
        )
        return (-likelihoods.log() * weights.to(exact)).sum(1)  # (B,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:
        if ctx.probabilities is None:
            raise RuntimeError("this loss's gradient was taken before: compute the loss anew")
        (columns, weights), out = ctx.saved, ctx.probabilities
        ctx.probabilities = None  # the buffer is overwritten below, so it serves one call only
        # d loss_u / d logits_ut = weight_ut (softmax(logits_ut) - one_hot(target_ut))
        out.scatter_add_(2, columns, torch.full_like(columns, -1, dtype=out.dtype))
        out.mul_((weights * gradients[:, None]).to(out.dtype)[..., None])
        return out.to(ctx.precision), None


def sampled_loss_per_user(scores: Tensor, targets: Tensor, candidates: Tensor) -> Tensor:
    """Return the cross-entropy of each target against uniformly drawn candidates.

    Args:
        scores: of each user's own T targets, then of its K candidates, [B, T, T + K].
        targets: item ids, 0 where there is none, int64 [B, T].
        candidates: item ids in 1..V, int64 [B, K]; a candidate that equals the target is ignored.

    Returns:
        [B]; 0 for a user without targets.
    """
    logits = gather_candidate_scores(scores, targets, candidates)  # (B, T, 1 + K)
    return loss_per_user(logits, (targets != 0).long())  # the target is always item 1 of 1 + K


def gather_candidate_scores(scores: Tensor, targets: Tensor, candidates: Tensor) -> Tensor:
    """Select each position's target score and its candidates' scores.

    Args:
        scores: of each user's own T targets, then of its K candidates, [B, T, T + K].
        targets: item ids, 0 where there is none, int64 [B, T].
        candidates: item ids in 1..V, int64 [B, K].

    Returns:
        [B, T, 1 + K]: the position's own target first; -inf for a candidate that equals it.
    """
    length = targets.shape[1]
    own = scores[:, :, :length].diagonal(dim1=1, dim2=2)[..., None]  # (B, T, 1)
    hit = candidates[:, None, :] == targets[..., None]  # (B, T, K)
    others = scores[:, :, length:].masked_fill(hit, float("-inf"))
    return torch.cat([own, others], dim=2)
