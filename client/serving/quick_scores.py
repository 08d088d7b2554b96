"""The highest scores of histories over a large catalogue, with an item table of bytes.

One history is scored at the speed of memory: float32 item vectors of V = 100,000 items are 26 to
102 MB. Here each vector is kept as whole numbers of 8 bits and one scale as well. They give
approximate scores of all items, and the highest of these are computed again in float32. With w an
item's vector, ŵ its kept form, q the query and q̂ its form of 16 bits, an approximate score differs
from the exact one by at most

    |w·q - ŵ·q̂| <= ||w - ŵ|| ||q|| + ||ŵ|| ||q - q̂||                     (Cauchy-Schwarz)

and the rounding of float32. So no item that was not computed again can exceed the lowest
approximate score of those that were by more than this (`client.serving.candidates`). Products of
bytes are summed in 32-bit whole numbers, which neither round nor overflow.

Histories that come together share one pass over the float32 table instead.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.serving.candidates import (
    CANDIDATES,
    Candidates,
    Columns,
    ExactScores,
    Floats,
    Scores,
    hide_in,
    highest,
    log_sum_exp,
)
from client.serving.item_index import IndexScores, ItemIndex
from client.serving.item_vectors import ItemVectors, Query
from shared.models.attention import AttentionRecommender

__all__ = ["FEWEST_NUMBERS", "ByteTable", "ModelSearch"]

FEWEST_NUMBERS = 2**22
"""Numbers in the item table, V F, from which bytes are read faster: 16 MB of float32."""
_LARGEST = 127
_STEP = 254
"""Steps of the second byte of a query in one of the first."""
_ROUNDING = 2.0**-18
"""Share of the largest score that the float32 sums of an approximate score may be off by."""
_ROWS = 65_536
_TOGETHER = 3
"""Histories from which on one pass over the float32 table is less than one a history over bytes."""
_NUMBERS = 2**23
"""Scores that are held at once: 32 MB a thread."""


class ByteTable:
    """Item vectors in 8 bits, [V, F].

    Args:
        vectors: the exact ones.
    """

    def __init__(self, vectors: ItemVectors) -> None:
        self._vectors, self._local = vectors, threading.local()
        self._offset = float(vectors.offsets.abs().max())
        self._numbers, self._scales, self._error, self._norm = _quantised(vectors.table)

    @staticmethod
    def fits(model: AttentionRecommender) -> bool:
        """Return whether this is faster than the model's own table, and possible."""
        if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return False
        widest = 2**31 // (_LARGEST * (_LARGEST + 1) * _STEP)  # so that sums fit 32 bits
        numbers = ItemVectors.numbers(model)
        return numbers >= FEWEST_NUMBERS and numbers // model.config.items < widest

    @torch.inference_mode()
    def scores(self, query: Query) -> tuple[Tensor, float]:
        """Return approximate scores, float32 [V], and by how much one may be off.

        The thread's next call overwrites them.
        """
        vector = query.vector
        step = max(float(np.abs(vector).max()) / _LARGEST, 2.0**-60)
        steps = vector.astype(np.float64) / step
        first = np.round(steps)
        second = np.round((steps - first) * _STEP)
        error = vector - step * (first + second / _STEP)
        both = torch.from_numpy(np.stack([first, second], 1).astype(np.int8))  # [F, 2]
        sums, whole, scores = self._memory()
        torch._int_mm(self._numbers, both, out=sums)
        torch.add(sums[:, 1], sums[:, 0], alpha=_STEP, out=whole)
        vectors = self._vectors
        torch.addcmul(vectors.offsets, whole, self._scales, value=step / _STEP, out=scores)
        if len(vectors.own_columns):
            scores[vectors.own_columns] += torch.from_numpy(query.own)
        norm = math.sqrt(float(vector @ vector))
        off = self._error * norm + self._norm * math.sqrt(float(error @ error))
        largest = self._norm * norm + self._offset
        return scores, off + _ROUNDING * largest

    def _memory(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return this thread's own: fresh memory takes as long as the products."""
        if not hasattr(self._local, "memory"):
            items = len(self._scales)
            whole = torch.empty(items, dtype=torch.int32)
            self._local.memory = torch.empty(items, 2, dtype=torch.int32), whole, torch.empty(items)
        memory: tuple[Tensor, Tensor, Tensor] = self._local.memory
        return memory


class ModelSearch:
    """Searches the catalogue with a model on the CPU; several threads may use one.

    Args:
        model: of which `fits` holds.
    """

    @staticmethod
    def fits(model: AttentionRecommender) -> bool:
        """Return whether the model's scores are products of vectors, on the CPU."""
        return model.ranks_by_products and model.device.type == "cpu"

    def __init__(self, model: AttentionRecommender) -> None:
        self._vectors, self._local = ItemVectors(model), threading.local()
        self._bytes = ByteTable(self._vectors) if ByteTable.fits(model) else None
        self._index: ItemIndex | None = None

    @property
    def index(self) -> ItemIndex | None:
        """The approximate index that is searched; None where the search is exact."""
        return self._index

    def build_index(self) -> bool:
        """Search an approximate index from now on; return False if exact search has to stay.

        Raises:
            ConfigError: what it needs is not installed.
        """
        index = ItemIndex(self._vectors)
        self._index = index if index.sound else None
        return index.sound

    def __call__(self, rows: Tensor) -> Iterator[Scores]:
        """Yield the scores of each of the histories int64 [B, T]; each until the next."""
        queries = self._vectors.queries(rows)
        if self._index is not None:
            for query in queries:
                yield IndexScores(self._index, query, partial(self._exact, query))
            return
        if self._bytes is not None and len(queries) < _TOGETHER:
            for query in queries:
                yield self._exact(query)
            return
        size = max(1, _NUMBERS // len(self._vectors.table))
        for start in range(0, len(queries), size):
            for row in self._vectors.scores(queries[start : start + size], self._memory):
                yield ExactScores(row.numpy())

    def _memory(self, rows: int) -> Tensor:
        """Return this thread's own [rows, V]: fresh memory takes as long as the product."""
        kept: Tensor | None = getattr(self._local, "memory", None)
        if kept is None or len(kept) < rows:
            kept = self._local.memory = torch.empty(rows, len(self._vectors.table))
        return kept[:rows]

    def _exact(self, query: Query) -> Scores:
        if self._bytes is not None:
            return _QuickScores(self._vectors, self._bytes, query)
        [row] = self._vectors.scores([query])
        return ExactScores(row.numpy())


class _QuickScores:
    """Approximate scores, of which the highest are computed again."""

    def __init__(self, vectors: ItemVectors, table: ByteTable, query: Query) -> None:
        self._vectors, self._query = vectors, query
        scores, self._off = table.scores(query)
        self._row = scores.numpy()

    def log_total(self) -> float:
        # Where one item has most of the probability, its error would be that of all of them.
        self._first, self._least = highest(self._row, CANDIDATES)
        self._row[self._first] = self._vectors.at(self._query, self._first)
        return log_sum_exp(self._row)

    def hide(self, mask: npt.NDArray[np.bool_] | None, columns: Columns) -> None:
        hide_in(self._row, mask, columns)

    def best(self, most: int) -> Candidates:
        if most <= CANDIDATES:
            columns, least = self._first[self._row[self._first] > -math.inf], self._least
            scores = self._row[columns]
        else:
            columns, least = highest(self._row, most)
            scores = self._vectors.at(self._query, columns)
        return Candidates(columns, scores, least + self._off, complete=least == -math.inf)

    def at(self, columns: Columns) -> Floats:
        scores = self._vectors.at(self._query, columns)
        scores[self._row[columns] == -math.inf] = -math.inf
        return scores


def _quantised(table: Tensor) -> tuple[Tensor, Tensor, float, float]:
    """Return item vectors in 8 bits [V, F], scales [V], the largest error and the largest norm."""
    items = len(table)
    numbers = torch.empty(table.shape, dtype=torch.int8)
    scales, error, norm = torch.empty(items), 0.0, 0.0
    for start in range(0, items, _ROWS):
        part = slice(start, start + _ROWS)
        rows = table[part]
        scale = (rows.abs().amax(1) / _LARGEST).clamp(min=2.0**-60)
        whole = (rows / scale[:, None]).round().clamp(-_LARGEST, _LARGEST)
        kept = whole * scale[:, None]
        numbers[part], scales[part] = whole.to(torch.int8), scale
        error = max(error, float((rows - kept).norm(dim=1).max()))
        norm = max(norm, float(kept.norm(dim=1).max()))
    return numbers, scales, error, norm
