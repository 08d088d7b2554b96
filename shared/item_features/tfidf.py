"""Public item features from catalogue text: what is known of an item before anybody chose it.

Latent semantic analysis (Deerwester et al. 1990): tf-idf of the words in the title, the genres
and the decade, reduced by a truncated SVD. Features depend on the catalogue alone, so they cost
no privacy.
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
from shared.item_features.whitening import signs, unit_rows, whitened

__all__ = ["text_features", "text_vectors"]

_WORD = re.compile(r"[^\W_]+")
_STOP = frozenset(("a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "the", "to"))


def text_features(catalogue: Catalogue, size: int) -> Tensor:
    """One vector an item; items with alike words, genres and times have alike vectors.

    Args:
        catalogue: the public item list, V items.
        size: wanted directions F, >= 1; fewer are informative in a small catalogue, the rest
            are then zero.

    Returns:
        float32 [V, F]; columns have mean 0, are uncorrelated, and have variance 1 (or 0), the
        strongest direction first.
    """
    return torch.from_numpy(whitened(text_vectors(catalogue, size), size))


def text_vectors(catalogue: Catalogue, size: int) -> NDArray[np.float64]:
    """What `text_features` whitens: unit rows, or zeros for an item that shares no token.

    Returns:
        [V, R], R <= max(size, 1).
    """
    counts = _tfidf(catalogue)
    rank = min(size, min(counts.shape) - 1)
    if rank < 1 or not counts.data.any():
        return np.zeros((len(catalogue), 1))
    # A fixed start vector and fixed signs: the same catalogue gives the same features.
    left, strength, right = svds(counts, k=rank, v0=np.ones(min(counts.shape)))
    # Singular values are damped to their square root: unweighted, rare words would be as loud
    # as genres; in full, genres would be all there is.
    # Beyond the rank there is only rounding, which unit rows would blow up.
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
    """Unit rows of tf x idf over tokens that two items or more share, [V, tokens]."""
    documents = [
        _tokens(*item)
        for item in zip(catalogue.titles, catalogue.genres, catalogue.years, strict=True)
    ]
    seen_in = Counter(token for document in documents for token in document)
    column = {token: i for i, token in enumerate(sorted(t for t, n in seen_in.items() if n > 1))}
    entries = [
        (row, column[token], n * np.log(len(documents) / seen_in[token]))
        for row, document in enumerate(documents)
        for token, n in document.items()
        if token in column
    ]
    rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
    matrix = csr_matrix((values, (rows, columns)), shape=(len(documents), max(len(column), 1)))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    return csr_matrix(matrix.multiply(1 / np.maximum(norms, 1e-12)[:, None]))
