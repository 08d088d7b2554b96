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

from shared.catalogue import Catalogue

__all__ = ["text_features"]

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
    counts = _tfidf(catalogue)
    rank = min(size, min(counts.shape) - 1)
    if rank < 1 or not counts.data.any():
        return torch.zeros(len(catalogue), size)
    # A fixed start vector and fixed signs: the same catalogue gives the same features.
    left, strength, right = svds(counts, k=rank, v0=np.ones(min(counts.shape)))
    # Singular values are damped to their square root: unweighted, rare words would be as loud
    # as genres; in full, genres would be all there is.
    # Beyond the rank there is only rounding, which the next line would blow up.
    damped = np.sqrt(np.where(strength > 1e-6 * strength.max(), strength, 0))
    vectors = left * damped * _signs(right)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9)
    features = np.zeros((len(catalogue), size), dtype=np.float32)
    # Rounded (and without -0), for the bits to be the same too: the fingerprint is made of them.
    features[:, :rank] = _whitened(unit).round(6) + 0.0
    return torch.from_numpy(features)


def _whitened(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred and turned so that directions are uncorrelated, each with variance 1 or 0.

    Noise on a weight then costs the same in every direction, and none tells what all items share.
    """
    centred = vectors - vectors.mean(0)
    left, strength, right = np.linalg.svd(centred, full_matrices=False)
    informative = strength > 1e-6 * max(strength.max(), 1e-12)
    return np.asarray(left * _signs(right) * informative * np.sqrt(len(vectors)))


def _signs(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Makes the first of each row's largest entries positive; rounding decides no tie."""
    size = np.abs(directions)
    first = (size > (1 - 1e-6) * size.max(1, keepdims=True)).argmax(1)
    return np.asarray(np.sign(directions[np.arange(len(directions)), first]))


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
