"""Words of queries and items: hashed for the towers of `shared.models.query`, and matched by BM25.

Both follow from the text and from the public catalogue alone. A text's words are in small letters
and without accents. The bag of a text has each word, and the word's trigrams of letters, which hold
together what is spelled almost alike; what the user has declared counts as a word more each.
Buckets are public hashes (Weinberger et al. 2009, arXiv:0902.2206). Matching is BM25 (Robertson &
Zaragoza 2009, doi:10.1561/1500000019), which is an approximate log-odds of relevance, over the
words of title and genres:

    score = Σ over the query's words w of ln(1 + (V - n_w + 1/2) / (n_w + 1/2))
                · f (k₁ + 1) / (f + k₁ (1 - b + b length / mean length)),

f how often the item has w, n_w how many items have it.

Letters: V items, W buckets.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared.data.catalogue import Catalogue

__all__ = ["BUCKETS", "MOST_LETTERS", "WordIndex", "bag_of", "index_of", "words_of"]

BUCKETS = 4096
"""W."""
MOST_WORDS, MOST_LETTERS = 32, 2**10
"""Of a text that are read: one user's text decides neither how long a step takes nor its memory."""
K1, B = 1.5, 0.75
"""BM25's parameters."""
_WORD = re.compile(r"[^\W_]+")
Floats = NDArray[np.float32]


def words_of(text: str) -> list[str]:
    """Return the first words of a text's first letters, in small letters and without accents.

    >>> words_of("Amélie (2001), SCI-FI")
    ['amelie', '2001', 'sci', 'fi']
    """
    apart = unicodedata.normalize("NFKD", text[:MOST_LETTERS].casefold())
    plain = "".join(letter for letter in apart if not unicodedata.combining(letter))
    return [match[0] for _, match in zip(range(MOST_WORDS), _WORD.finditer(plain), strict=False)]


def bag_of(text: str, attributes: Sequence[str] = ()) -> Floats:
    """Return the hashed bag of a query, [W], of length 1; 0 without words and attributes.

    Args:
        text: whose words and trigrams are in it.
        attributes: what the user has declared (`shared.data.queries`).
    """
    bag = np.zeros(BUCKETS, np.float32)
    buckets, weights = _hashed(text[:MOST_LETTERS], tuple(attributes))
    bag[buckets] = weights
    return bag


@lru_cache(maxsize=2**16)
def _hashed(text: str, attributes: tuple[str, ...]) -> tuple[NDArray[np.int64], Floats]:
    parts: defaultdict[int, float] = defaultdict(float)
    for word in words_of(text):
        padded = f"<{word}>"
        trigrams = [padded[start : start + 3] for start in range(len(padded) - 2)]
        parts[_bucket(f"word {word}")] += 1
        for trigram in trigrams:
            parts[_bucket(f"part {trigram}")] += len(trigrams) ** -0.5
    for attribute in attributes:
        parts[_bucket(f"attribute {attribute}")] += 1
    numbers = np.fromiter(parts.values(), np.float64, len(parts))
    length = max(float(np.linalg.norm(numbers)), 1e-9)
    return np.fromiter(parts, np.int64, len(parts)), (numbers / length).astype(np.float32)


def _bucket(part: str) -> int:
    return int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "big") % BUCKETS


class WordIndex:
    """Which items have a word, and what that counts.

    Args:
        catalogue: the items.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._items = len(catalogue)
        texts = [
            words_of(f"{title} {' '.join(genres)}")
            for title, genres in zip(catalogue.titles, catalogue.genres, strict=True)
        ]
        mean = max(sum(map(len, texts)) / max(len(texts), 1), 1.0)
        found: dict[str, tuple[list[int], list[float]]] = {}
        for row, words in enumerate(texts):
            for word, times in Counter(words).items():
                rows, counts = found.setdefault(word, ([], []))
                rows.append(row)
                counts.append(times * (K1 + 1) / (times + K1 * (1 - B + B * len(words) / mean)))
        self._postings = {
            word: (np.array(rows), self._rarity(len(rows)) * np.array(counts))
            for word, (rows, counts) in found.items()
        }

    def _rarity(self, holding: int) -> float:
        return float(np.log1p((self._items - holding + 0.5) / (holding + 0.5)))

    def scores(self, text: str) -> Floats:
        """Return each item's BM25 score for a query, [V]; 0 where no word is the same."""
        scores = np.zeros(self._items)
        for word in words_of(text):
            if word in self._postings:
                rows, counts = self._postings[word]
                scores[rows] += counts
        return scores.astype(np.float32)


@lru_cache(maxsize=8)
def index_of(catalogue: Catalogue) -> WordIndex:
    """Return the index of a catalogue, made once."""
    return WordIndex(catalogue)
