"""Item-based nearest neighbours: items whose users are the users of the history's items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, vstack
from torch import Tensor

from shared.data.histories import Histories

__all__ = ["MAX_PAIRS", "ItemKNN", "item_pairs", "multi_hot_product", "user_items"]

NEIGHBOURS = 50
"""Similar items that an item keeps."""
MAX_PAIRS = 2_000_000_000
"""Most pairs of items in one history, over all users, that are counted: about a minute."""
_NUMBERS_AT_ONCE = 2**23
"""Most similarities that are held dense while neighbours are chosen: 64 MiB."""


def item_pairs(histories: Histories) -> int:
    """Return how many pairs of items the similarities count, over all users."""
    return int((histories.lengths**2).sum())


def user_items(histories: Histories, items: int) -> csr_array:
    """Return which user has which item, repeats once, as scipy CSR [N, V] of 0.0 and 1.0."""
    user = histories.rows
    pairs = np.unique(user * np.int64(items) + histories.items - 1)
    row, column = np.divmod(pairs, items)
    return csr_array((np.ones(len(pairs)), (row, column)), shape=(len(histories), items))


@dataclass(frozen=True, slots=True, eq=False)
class ItemKNN:
    """Recommend items that are similar to the items of the user's history.

    similarity(i, j) = |users of i and j| / sqrt(|users of i| |users of j|), the cosine of
    Sarwar, Karypis, Konstan & Riedl, "Item-Based Collaborative Filtering Recommendation
    Algorithms", WWW 2001, over events without ratings. An item keeps its `neighbours` most
    similar items, and all that tie with the last of them. score(j) sums the similarities of j to
    the distinct items of the history among whose neighbours it is.

    Attributes:
        similarities: scipy CSR [V, V], float64; row i holds the neighbours of item i + 1.
    """

    similarities: Any

    @classmethod
    def from_histories(
        cls, histories: Histories, items: int, neighbours: int = NEIGHBOURS
    ) -> ItemKNN:
        """Compute the similarities of the training histories, some rows at a time.

        Args:
            histories: the users.
            items: V, the size of the catalogue.
            neighbours: that an item keeps, >= 1.
        """
        pairs = user_items(histories, items)
        norms = np.sqrt(np.maximum(pairs.sum(0), 1))  # (V,)
        unit = (pairs @ diags_array(1 / norms)).tocsc()
        step = max(1, _NUMBERS_AT_ONCE // items)
        blocks = []
        for start in range(0, items, step):
            block = (unit[:, start : start + step].T @ unit).toarray()  # (b, V)
            block[np.arange(len(block)), start + np.arange(len(block))] = 0
            # Rounding must not decide which of two equal similarities is larger.
            block = block.round(12)
            if neighbours < items:
                least = np.partition(block, items - neighbours, axis=1)[:, items - neighbours]
                block[block < least[:, None]] = 0
            blocks.append(csr_array(block))
        return cls(vstack(blocks).tocsr())

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Score int64 [B, T], right-padded with 0, as float64 [B, V].

        >>> model = ItemKNN.from_histories(Histories.from_lists([[1, 2], [1, 3], [3]]), 3)
        >>> model(torch.tensor([[2]])).round(decimals=2).tolist()
        [[0.71, 0.0, 0.0]]
        """
        return multi_hot_product(histories, self.similarities)


def multi_hot_product(histories: Tensor, weights: csr_array | NDArray[np.float64]) -> Tensor:
    """Return the sum of the rows of `weights` [V, K] of each history's distinct items: [B, K]."""
    rows = [row[row > 0] for row in histories.cpu().numpy()]
    lengths = np.array([len(row) for row in rows], np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    users = tuple(map(str, range(len(rows))))
    given = Histories(users, np.concatenate([np.empty(0, np.int64), *rows]), offsets)
    product = user_items(given, weights.shape[0]) @ weights
    dense = product if isinstance(product, np.ndarray) else product.toarray()
    return torch.from_numpy(dense).to(histories.device)
