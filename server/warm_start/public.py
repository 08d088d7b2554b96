"""What public interactions teach before anybody private is asked.

They give item features beyond text, directions in which items are chosen together, and the prior
of a warm start. Both travel with the catalogue: features to everybody, the interactions themselves
with the coordinator's copy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import read_histories, write_interactions
from shared.errors import ConfigError
from shared.item_features.whitening import signs, whitened
from shared.models.moments import POPULARITY_FADE, popularity_sum

__all__ = ["PUBLIC", "chosen_together", "pretrained", "read_public", "save_public", "text_size"]

PUBLIC = "public.parquet"
"""File of public interactions, in the coordinator's catalogue folder."""
TEXT_SHARE = 0.4
"""Of the features."""
_DAMPING = 20.0
"""Events that an item is taken to have more: one that few chose says little of the others."""
_UNSEEN = 0.3
"""What an item that no public user chose weighs, in users."""

Floats = NDArray[np.float64]


def pretrained(catalogue: Catalogue, public: Histories, size: int) -> Catalogue:
    """The catalogue with features that also know which items are chosen together.

    Its own features and as many directions of co-occurrence as `size` leaves room for, in principal
    components under the public popularity: noise then costs the same in every direction that
    matters.

    Args:
        catalogue: with features of text; the strongest `text_size(size)` are taken.
        public: interactions with its items that everybody may know.
        size: wanted directions F.

    Returns:
        Features float32 [V, F]; columns beyond the directions that there are hold zeros.

    Raises:
        ConfigError: the catalogue has no features, or size is 1.
    """
    if catalogue.features is None or size < 2:
        raise ConfigError(
            f"a catalogue with {catalogue.feature_size} features cannot be given {size}: make some "
            "of its text first (sotto-lab items encode), and ask for 2 or more."
        )
    text = catalogue.features.numpy().astype(np.float64)[:, : text_size(size)]
    together = whitened(chosen_together(public, len(catalogue), size - text.shape[1]), size)
    vectors = np.concatenate([text, together[:, : size - text.shape[1]]], axis=1)
    weights = popularity_sum(public, len(catalogue), POPULARITY_FADE) + _UNSEEN
    return catalogue.with_features(torch.from_numpy(whitened(vectors, size, weights)))


def text_size(size: int) -> int:
    """How many of so many features tell of text; co-occurrence gets the others."""
    return min(max(1, round(TEXT_SHARE * size)), size - 1)


def chosen_together(public: Histories, items: int, size: int) -> Floats:
    """Directions in which items are chosen by the same users, [V, at most `size`].

    Right singular vectors of users by items, rows scaled by 1 / √events, columns by
    1 / √(events + 20), times the root of their strength.
    """
    lengths = np.maximum(public.lengths, 1)
    users = np.repeat(np.arange(len(public)), public.lengths)
    counts = np.bincount(public.items, minlength=items + 1)[1:]
    values = 1 / np.sqrt(lengths[users] * (counts[public.items - 1] + _DAMPING))
    matrix = csr_matrix((values, (users, public.items - 1)), shape=(len(public), items))
    rank = min(size, min(matrix.shape) - 1)
    if rank < 1:
        return np.zeros((items, 1))
    # A fixed start vector and fixed signs: the same interactions give the same features.
    _, strength, right = svds(matrix, k=rank, v0=np.ones(min(matrix.shape)))
    order = np.argsort(-strength)
    strength, right = strength[order], right[order]
    kept = np.where(strength > 1e-6 * strength.max(), strength, 0)
    return np.asarray((right * signs(right)[:, None]).T * np.sqrt(kept))


def save_public(public: Histories, catalogue: Catalogue, folder: Path) -> None:
    """Puts public interactions beside the coordinator's catalogue."""
    write_interactions(public, catalogue, folder / PUBLIC)


def read_public(folder: Path, catalogue: Catalogue) -> Histories | None:
    """The public interactions beside a catalogue; None where there are none.

    Raises:
        DataError: the file is damaged.
    """
    file = folder / PUBLIC
    return read_histories(file, catalogue) if file.is_file() else None
