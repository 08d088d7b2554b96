"""Public item features from catalogue text by latent semantic analysis (Deerwester et al. 1990).

Each item is described by tf-idf weights of its title's words, genres, pairs of genres, decade and
five-year period, reduced by a truncated SVD. The features depend on the public catalogue only, so
they cost no privacy.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from torch import Tensor

from shared.data.catalogue import Catalogue
from shared.item_features.whitening import fixed_rotation, signs, unit_rows, whitened

__all__ = ["text_features", "text_vectors"]

_WORD = re.compile(r"[^\W_]+")
_STOP = frozenset(("a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "the", "to"))


def text_features(catalogue: Catalogue, size: int) -> Tensor:
    """Return one vector per item; items with similar words, genres and years have similar vectors.

    Args:
        catalogue: the public item list, V items.
        size: number of features F, >= 1. A small catalogue has fewer informative directions; the
            remaining columns are zero.

    Returns:
        float32 [V, F]; columns are uncorrelated, with mean 0 and variance 1 (or 0), strongest
        first.
    """
    return torch.from_numpy(whitened(text_vectors(catalogue, size), size))


def text_vectors(catalogue: Catalogue, size: int) -> NDArray[np.float64]:
    """Return the vectors before whitening: unit rows, or zeros for an item that shares no token.

    Returns:
        float64 [V, R], R <= max(size, 1).
    """
    counts = _tfidf(catalogue)
    rank = min(size, min(counts.shape) - 1)
    if rank < 1 or not counts.data.any():
        return np.zeros((len(catalogue), 1))
    # A fixed start vector, basis and signs: the same catalogue gives the same features.
    left, strength, right = svds(counts, k=rank, v0=np.ones(min(counts.shape)))
    if (rotation := fixed_rotation(right, strength)) is not None:
        left, right = left @ rotation.T, rotation @ right
    # Directions are weighted by the square root of their singular values: with equal weights rare
    # words would matter as much as genres, with full weights genres would dominate everything.
    # Directions beyond the numerical rank are rounding error, and scaling to unit rows would
    # amplify them.
    damped = np.sqrt(np.where(strength > 1e-6 * strength.max(), strength, 0))
    return unit_rows(left * damped * signs(right))


def _tokens(title: str, genres: tuple[str, ...], year: int | None) -> Counter[str]:
    words = [w for w in _WORD.findall(title.lower()) if w not in _STOP and w != str(year)]
    tokens = Counter(f"title:{word}" for word in words)
    tokens.update(f"genre:{genre.lower()}" for genre in genres)
    tokens.update(f"pair:{a.lower()}+{b.lower()}" for a in genres for b in genres if a < b)
    if year is not None:
        tokens.update([f"decade:{year // 10}", f"lustrum:{year // 5}"])
    return tokens


def _tfidf(catalogue: Catalogue) -> csr_matrix:
    """Compute unit rows of tf x idf over the tokens that at least two items share: [V, tokens]."""
    documents = [
        _tokens(*item)
        for item in zip(catalogue.titles, catalogue.genres, catalogue.years, strict=True)
    ]
    frequency = Counter(token for document in documents for token in document)
    column = {token: i for i, token in enumerate(sorted(t for t, n in frequency.items() if n > 1))}
    entries = [
        (row, column[token], n * np.log(len(documents) / frequency[token]))
        for row, document in enumerate(documents)
        for token, n in document.items()
        if token in column
    ]
    rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
    matrix = csr_matrix((values, (rows, columns)), shape=(len(documents), max(len(column), 1)))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    return csr_matrix(matrix.multiply(1 / np.maximum(norms, 1e-12)[:, None]))
