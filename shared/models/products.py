"""Products of which every user's part is rounded alike, whatever its row in a batch.

A kernel that multiplies all rows of a batch at once cuts them into tiles and among threads, and
rounds differently at an edge; a kernel for one user's rows rounds differently at an address that is
not aligned. So each user has a product of its own, of one shape, and its numbers start at multiples
of 16 bytes. `client.compute.batches.independent_rows` checks that it is so on a given machine.

Letters: B users, T positions, K and N sizes of input and output.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LARGE", "NUMBERS", "align", "linear_by_user", "product_by_user"]

NUMBERS = 4
"""Float32 numbers in 16 bytes."""
COPIED = 2**15
"""Numbers of the largest weight that is copied for every user of a batch."""
LARGE = 512
"""Sizes from which kernels copy what they multiply, and align it themselves."""


def align(x: Tensor, dim: int = -1) -> Tensor:
    """Pad a dimension with zeros to a multiple of `NUMBERS`, unless it is large.

    >>> align(torch.ones(1, 3))
    tensor([[1., 1., 1., 0.]])
    """
    missing = -x.shape[dim] % NUMBERS
    if missing == 0 or x.shape[dim] >= LARGE:
        return x
    after = [0, 0] * (-dim - 1 if dim < 0 else x.dim() - 1 - dim)
    return F.pad(x, [*after, 0, missing])


def linear_by_user(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map every user's places by one weight: [B, ..., K] x [N, K] -> [B, ..., N].

    One place a user is left to the usual kernel, [B, K] -> [B, N]; so is a large weight, which a
    batched product would copy for every user. There, tiles are large and whole.
    """
    if x.dim() < 3 or weight.numel() >= COPIED:
        return F.linear(x, weight, bias)
    places = align(x.flatten(1, -2))  # (B, T, K)
    maps = align(align(weight), 0).T.expand(x.shape[0], -1, -1)  # `len` fixes it in a graph
    if bias is None:
        out = torch.bmm(places, maps)
    else:
        offsets = align(bias).expand(x.shape[0], places.shape[1], maps.shape[2])
        out = torch.baddbmm(offsets, places, maps)
    return out[..., : len(weight)].reshape(*x.shape[:-1], len(weight))


def product_by_user(left: Tensor, right: Tensor) -> Tensor:
    """Multiply every user's matrices: [B, M, K] x [B, K, N] -> [B, M, N]."""
    rows, columns = left.shape[1], right.shape[2]
    return torch.bmm(align(left, 1), align(right))[:, :rows, :columns]
