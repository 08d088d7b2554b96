"""EASE: a linear item-to-item model with a closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array
from torch import Tensor

from shared.data.histories import Histories
from shared.models.item_knn import multi_hot_product, user_items

__all__ = ["MAX_SIZE", "RIDGE", "Ease", "ease_size"]

RIDGE = 500.0
"""λ, the weight of the penalty; the value that Steck chooses for MovieLens-20M."""
MAX_SIZE = 4_000
"""Largest matrix that is inverted: some seconds on two cores, and 128 MB a copy."""

Floats = NDArray[np.float64]


def ease_size(histories: Histories) -> int:
    """Return the size of the matrix that EASE inverts: users or items with events, the fewer."""
    return min(int((histories.lengths > 0).sum()), len(np.unique(histories.items)))


@dataclass(frozen=True, slots=True, eq=False)
class Ease:
    """Recommend by a linear model of item pairs.

    Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019 (arXiv:1905.03375),
    equation 8. With X in {0, 1} [N, V], the users' items, P = (XᵀX + λI)⁻¹ and
    B_ij = -P_ij / P_jj off the diagonal, 0 on it, the scores of a user with items x are xB. Where
    there are fewer users than items, P = (I - Xᵀ(XXᵀ + λI)⁻¹X) / λ gives the same scores from a
    matrix of users.

    Attributes:
        left: float64 [V, K], dense or scipy CSR; off the diagonal B = left @ right.
        right: float64 [K, V].
        diagonal: float64 [V], the diagonal of left @ right, which is to be taken off.
    """

    left: Any
    right: Floats
    diagonal: Floats

    @classmethod
    def from_histories(cls, histories: Histories, items: int, ridge: float = RIDGE) -> Ease:
        """Fit the model to the training histories.

        Args:
            histories: the users; `ease_size` of them is at most `MAX_SIZE`.
            items: V, the size of the catalogue.
            ridge: λ, > 0.

        Raises:
            ValueError: the matrix to invert is too large, or λ is not positive.
        """
        size = ease_size(histories)
        if size > MAX_SIZE or not ridge > 0:
            raise ValueError(f"size={size}, ridge={ridge}: at most {MAX_SIZE}, and above 0")
        pairs = user_items(histories, items)[np.flatnonzero(histories.lengths)]
        if pairs.shape[0] == size:
            return cls._from_users(pairs.toarray(), ridge)
        events = np.unique(histories.items) - 1  # items without events have weights of 0
        gram = (pairs.T @ pairs)[events][:, events].toarray()
        gram[np.diag_indices(len(gram))] += ridge
        factor = torch.linalg.cholesky(torch.from_numpy(gram))
        inverse = torch.cholesky_inverse(factor).numpy()
        right, diagonal = np.zeros((size, items)), np.zeros(items)
        right[:, events] = -inverse / np.diag(inverse)
        diagonal[events] = -1
        places = (np.ones(size), (events, np.arange(size)))
        return cls(csr_array(places, shape=(items, size)), right, diagonal)

    @classmethod
    def _from_users(cls, pairs: Floats, ridge: float) -> Ease:
        """Fit by the matrix of users: `pairs` is X [N, V], with N <= V."""
        gram = pairs @ pairs.T
        gram[np.diag_indices(len(gram))] += ridge
        factor = np.linalg.cholesky(gram)
        half = solve_triangular(factor, pairs, lower=True)  # (N, V): P = (I - halfᵀ half) / λ
        scaled = half / (1 - (half**2).sum(0))  # off the diagonal, B = halfᵀ scaled
        return cls(half.T, scaled, (half * scaled).sum(0))

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Score int64 [B, T], right-padded with 0, as float64 [B, V].

        >>> model = Ease.from_histories(Histories.from_lists([[1, 2], [1, 2], [3]]), 3, ridge=1.0)
        >>> model(torch.tensor([[1]])).round(decimals=2).tolist()
        [[0.0, 0.67, 0.0]]
        """
        scores = multi_hot_product(histories, self.left) @ torch.from_numpy(self.right)
        given = torch.zeros(len(histories), len(self.diagonal) + 1, dtype=torch.float64)
        given.scatter_(1, histories.cpu(), 1.0)
        return (scores.cpu() - given[:, 1:] * torch.from_numpy(self.diagonal)).to(histories.device)
