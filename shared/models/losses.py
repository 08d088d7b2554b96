"""What training minimises: one loss a user, which no other user's data enters.

Letters: B users, T positions, V items, K candidates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["among_candidates", "loss_per_user", "next_item_pairs", "sampled_loss_per_user"]


def next_item_pairs(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets for next-item training.

    Args:
        sequences: right-padded histories, int64 [B, T + 1].

    Returns:
        Inputs [B, T] and targets [B, T]; target 0 means that there is none.

    >>> next_item_pairs(torch.tensor([[5, 3, 8, 0]]))
    (tensor([[5, 3, 8]]), tensor([[3, 8, 0]]))
    """
    return sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()


def loss_per_user(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, averaged within each user: no user's loss depends on another's length.

    Args:
        logits: [B, T, V].
        targets: item ids, 0 where there is none, int64 [B, T].

    Returns:
        [B]; 0 for a user without any target. At most 87 a target: below that, float32 has no
        probability. Its gradient is exact all the same, and can be taken once.

    >>> loss_per_user(torch.zeros(2, 3, 4), torch.tensor([[1, 2, 0], [0, 0, 0]]))
    tensor([1.3863, 0.0000])
    """
    losses: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses


class _CrossEntropy(torch.autograd.Function):
    """Softmax and cross-entropy in two passes over [B, T, V] and one buffer.

    torch's own takes six passes and three buffers, and at the size of a catalogue it is memory
    that a step waits for.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        real = targets != 0
        weights = real / real.sum(1, keepdim=True).clamp(min=1)  # (B, T)
        places = (targets - 1).clamp(min=0)[..., None]  # (B, T, 1)
        exact = torch.promote_types(logits.dtype, torch.float32)
        probabilities = torch.softmax(logits, dim=-1, dtype=exact)
        chosen = probabilities.gather(2, places)[..., 0].clamp(min=torch.finfo(exact).tiny)
        ctx.probabilities, ctx.kept, ctx.precision = probabilities, (places, weights), logits.dtype
        return (-chosen.log() * weights.to(exact)).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:
        if ctx.probabilities is None:
            raise RuntimeError("this loss's gradient was taken before: compute the loss anew")
        (places, weights), out = ctx.kept, ctx.probabilities
        ctx.probabilities = None
        out.scatter_add_(2, places, torch.full_like(places, -1, dtype=out.dtype))
        out.mul_((weights * gradients[:, None]).to(out.dtype)[..., None])
        return out.to(ctx.precision), None


def sampled_loss_per_user(scores: Tensor, targets: Tensor, candidates: Tensor) -> Tensor:
    """Cross-entropy of each target among candidates that were drawn uniformly from the catalogue.

    Args:
        scores: of each user's own targets, then of its candidates, [B, T, T + K].
        targets: item ids, 0 where there is none, int64 [B, T].
        candidates: item ids in 1..V, int64 [B, K]; one that is the target does not count.

    Returns:
        [B]; 0 for a user without any target.
    """
    among = among_candidates(scores, targets, candidates)
    return loss_per_user(among, (targets != 0).long())


def among_candidates(scores: Tensor, targets: Tensor, candidates: Tensor) -> Tensor:
    """Scores [B, T, T + K] as those of each place's target and its rivals, [B, T, 1 + K]."""
    length = targets.shape[1]
    own = scores[:, :, :length].diagonal(dim1=1, dim2=2)[..., None]  # (B, T, 1)
    hit = candidates[:, None, :] == targets[..., None]  # (B, T, K)
    others = scores[:, :, length:].masked_fill(hit, float("-inf"))
    return torch.cat([own, others], dim=2)
