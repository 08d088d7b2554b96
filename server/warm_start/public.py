"""Public interactions: item features from co-occurrence, and the prior of a warm start.

The features are part of the catalogue and go to every partner. The interactions are stored in the
coordinator's copy of the catalogue's folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from shared.data.catalogue import Catalogue
from shared.data.columns import Columns
from shared.data.feature_blocks import FeatureBlock
from shared.data.histories import Histories
from shared.data.reading import read_histories, write_interactions
from shared.errors import ConfigError
from shared.item_features.whitening import signs, whitened, whitened_where_described
from shared.models.moments import POPULARITY_FADE, popularity_sum

__all__ = [
    "PUBLIC",
    "co_occurrence_directions",
    "pretrain_features",
    "read_public",
    "save_public",
    "text_feature_count",
]

PUBLIC = "public.parquet"
"""File of public interactions, in the coordinator's catalogue folder."""
PUBLIC_BLOCK = "public"
"""Name of the block of co-occurrence, in a catalogue of several blocks."""
TEXT_SHARE = 0.4
"""Share of the features that describe text."""
_DAMPING = 20.0
"""Pseudo-count of events per item: rare items say little about co-occurrence."""
_UNSEEN_WEIGHT = 0.3
"""Weight, in users, that every item gets beside its public popularity."""

Floats = NDArray[np.float64]


def pretrain_features(catalogue: Catalogue, public: Histories, size: int) -> Catalogue:
    """Return the catalogue with features of text and of co-occurrence.

    The features are whitened under the public popularity: noise then has the same effect in every
    direction.

    Args:
        catalogue: with text features; the strongest `text_feature_count(size)` are used. Where it
            has blocks, each is whitened by itself, and co-occurrence is a further block, "public".
        public: interactions with its items that everybody may know.
        size: number of features F.

    Returns:
        Features float32 [V, F]; columns beyond the available directions are 0.

    Raises:
        ConfigError: the catalogue has no features, or size is 1.
    """
    if catalogue.features is None or size < 2:
        raise ConfigError(
            f"a catalogue with {catalogue.feature_size} features cannot be given {size}: make some "
            "of its text first (sotto-lab items encode), and ask for 2 or more."
        )
    described = min(text_feature_count(size), catalogue.feature_size)
    if described < len(catalogue.blocks):
        raise ConfigError(
            f"{size} features leave {described} for {len(catalogue.blocks)} blocks: ask for more."
        )
    text = catalogue.with_strongest(catalogue, described)
    directions = co_occurrence_directions(public, len(catalogue), size - described)
    together = whitened(directions, size)[:, : size - described]
    weights = popularity_sum(public, len(catalogue), POPULARITY_FADE) + _UNSEEN_WEIGHT
    assert text.features is not None
    vectors = np.concatenate([text.features.numpy().astype(np.float64), together], axis=1)
    import torch  # noqa: PLC0415 takes seconds, and most of this module does without

    if not text.blocks:
        return catalogue.with_features(torch.from_numpy(whitened(vectors, size, weights)))
    blocks = [*text.blocks, FeatureBlock(name=PUBLIC_BLOCK, size=size - described)]
    ends = np.cumsum([block.size for block in blocks])[:-1]
    parts = [
        whitened_where_described(part, part.shape[1], weights)
        for part in np.split(vectors, ends, axis=1)
    ]
    features = torch.from_numpy(np.concatenate(parts, axis=1))
    return catalogue.with_features(features, blocks=blocks)


def text_feature_count(size: int) -> int:
    """Return how many of `size` features describe text; the others are of co-occurrence."""
    return min(max(1, round(TEXT_SHARE * size)), size - 1)


def co_occurrence_directions(public: Histories, items: int, size: int) -> Floats:
    """Return directions along which items are chosen by the same users, [V, at most `size`].

    Right singular vectors of the user-item matrix, with rows scaled by 1 / √events and columns by
    1 / √(events + 20), times the square root of the singular value.
    """
    lengths = np.maximum(public.lengths, 1)
    users = public.rows
    counts = np.bincount(public.items, minlength=items + 1)[1:]
    values = 1 / np.sqrt(lengths[users] * (counts[public.items - 1] + _DAMPING))
    matrix = csr_matrix((values, (users, public.items - 1)), shape=(len(public), items))
    rank = min(size, min(matrix.shape) - 1)
    if rank < 1:
        return np.zeros((items, 1))
    # A fixed start vector and fixed signs: the same interactions give the same features.
    _, strengths, right = svds(matrix, k=rank, v0=np.ones(min(matrix.shape)))
    order = np.argsort(-strengths)
    strengths, right = strengths[order], right[order]
    kept = np.where(strengths > 1e-6 * strengths.max(), strengths, 0)
    return np.asarray((right * signs(right)[:, None]).T * np.sqrt(kept))


def save_public(public: Histories, catalogue: Catalogue, folder: Path) -> None:
    """Write public interactions to the coordinator's catalogue folder."""
    write_interactions(public, catalogue, folder / PUBLIC)


def read_public(folder: Path, catalogue: Catalogue) -> Histories | None:
    """Return the public interactions in a catalogue folder; None if there are none.

    Raises:
        DataError: the file is damaged.
    """
    file = folder / PUBLIC
    return read_histories(file, catalogue, Columns(missing=())) if file.is_file() else None
