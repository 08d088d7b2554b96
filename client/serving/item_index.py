"""An approximate index of a large catalogue: inverted lists, in which a few are searched.

Items are gathered around 4 √V centres, and a query looks into the lists of the nearest centres
alone (inverted file; Jégou, Douze & Schmid, IEEE TPAMI 33(1), 2011, doi:10.1109/TPAMI.2010.57), by
faiss.
The offset b_j is one more dimension of an item's vector, w_j · q + b_j = [w_j, b_j] · [q, 1], and
items with a direction of their own are candidates always. What is found is scored again exactly;
items with counts of the organisation's own are scored besides (`client.serving.candidates`).

How many lists are searched is measured when the index is built: the fewest with which `RECALL` of
the exact ten best are found, over histories that are drawn from the catalogue. There are four kinds
of them, short ones and ones as long as the model reads, of random items and of items that are
alike, and it must hold for each kind. No user's data has a part in it. If more than a quarter of
the lists would have to be searched, the index is not `sound`, and nobody uses it.

A score's normaliser, the sum of exp(score) over all items, is estimated from the candidates and a
sample of each list, every sampled item weighted by the inverse of its chance (Horvitz & Thompson,
JASA 47, 1952); candidates are left out of the sample (Mussmann & Ermon, ICML 2016). Its error is
measured on the same histories, and must not exceed `MOST_ERROR`.

| request                                                       | how it is answered         |
|---------------------------------------------------------------|----------------------------|
| filters and seen items leave out at most half the candidates  | by the index               |
| they leave out more, or the list is longer than 32 items      | by an exact search         |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.serving.candidates import CANDIDATES, Candidates, Columns, Floats, Scores
from client.serving.item_vectors import ItemVectors, Query
from shared.errors import ConfigError

__all__ = ["MOST_ERROR", "RECALL", "IndexScores", "ItemIndex"]

RECALL = 0.99
"""Share of the exact ten best that is found, at least."""
MOST_ERROR = 0.05
"""Largest error of the normaliser, as a share: the root of the mean square."""
_BEST = 10
_PROBES = 64
"""Histories of each kind that the index is measured on."""
_FEW = 5
"""Events of a short one."""
_EACH = 32
"""Items of a list that its centre is the mean of."""
_FEWEST = 8
"""Lists that are searched at least."""
_SAMPLED = 4
"""Items of a list in the sample."""
_LEAST_SHARE = 4
"""Lists that are searched are at most this part of all."""
_ROWS = 65_536
_NUMBERS = 2**23
"""Scores that are held at once."""
_SEED = 20_11


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Some items of every list.

    Attributes:
        columns: int64 [S], ascending.
        vectors: float32 [S, F].
        constants: float32 [S], offset plus the logarithm of the weight.
    """

    columns: Columns
    vectors: Tensor
    constants: Floats


class ItemIndex:
    """Lists of items around centres; several threads may search one.

    Args:
        vectors: the items'.

    Raises:
        ConfigError: faiss is not installed.
    """

    def __init__(self, vectors: ItemVectors) -> None:
        try:
            import faiss  # noqa: PLC0415 an extra, and a tenth of a second
        except ImportError as error:
            raise ConfigError(
                "an index of the items needs faiss: pip install 'sotto[ann]', or set "
                "serve.index_above = 0."
            ) from error
        self._vectors, items = vectors, len(vectors.table)
        lists, size = max(1, int(4 * items**0.5)), vectors.table.shape[1] + 1
        self._centres: Any = faiss.IndexFlatIP(size)
        self._index: Any = faiss.IndexIVFScalarQuantizer(
            self._centres,
            size,
            lists,
            faiss.ScalarQuantizer.QT_8bit,
            faiss.METRIC_INNER_PRODUCT,
        )
        self._index.cp.niter, self._index.cp.seed = 8, _SEED
        self._index.cp.min_points_per_centroid = 1
        self._index.cp.max_points_per_centroid = _EACH
        draw = np.random.default_rng(_SEED)
        some = np.sort(draw.choice(items, min(items, _EACH * lists), replace=False))
        self._index.train(self._described(some))
        for start in range(0, items, _ROWS):
            self._index.add(self._described(np.arange(start, min(start + _ROWS, items))))
        home = np.empty(items, np.int64)  # each item's list
        kept: Any = self._index.invlists
        for place in range(lists):
            home[faiss.rev_swig_ptr(kept.get_ids(place), kept.list_size(place))] = place
        self.own = vectors.own_columns.numpy()
        self._sample = self._draw_sample(home, draw)
        kinds = _histories(home, vectors.window, draw)
        self.recall, self.error = self._measure(kinds)

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return int(self._index.nlist)

    @property
    def searched(self) -> int:
        """How many lists a query looks into."""
        return int(self._index.nprobe)

    @property
    def sound(self) -> bool:
        """Whether the lists that are searched suffice for `RECALL` and `MOST_ERROR`."""
        return self.recall >= RECALL and self.error <= MOST_ERROR

    def search(self, query: Query, most: int) -> tuple[Columns, Floats]:
        """Return about `most` of the best items, ascending, with their exact scores."""
        vector = np.append(query.vector, np.float32(1))[None]
        found = self._index.search(vector, most)[1][0]
        columns = np.unique(np.concatenate([found[found >= 0], self.own]))
        return columns, self._vectors.at(query, columns)

    def score(self, query: Query, columns: Columns) -> Floats:
        """Return the exact scores of some items."""
        return self._vectors.at(query, columns)

    def log_total(self, query: Query, columns: Columns, scores: Floats) -> float:
        """Return an estimate of log Σ exp(score) over all items.

        Args:
            query: of a history.
            columns: ascending, some of the best items.
            scores: theirs.
        """
        sample = self._sample
        logs = torch.mv(sample.vectors, torch.from_numpy(query.vector)).numpy() + sample.constants
        place = np.searchsorted(sample.columns, columns).clip(max=max(0, len(logs) - 1))
        logs[place[sample.columns[place] == columns]] = -math.inf
        largest = max(float(logs.max(initial=-math.inf)), float(scores.max()))
        total = np.exp(logs - largest).sum() + np.exp(scores - largest).sum()
        return largest + math.log(float(total))

    def _draw_sample(self, home: Columns, draw: np.random.Generator) -> _Sample:
        others = np.setdiff1d(np.arange(len(home)), self.own)  # own items are candidates always
        others = others[np.lexsort((draw.random(len(others)), home[others]))]
        _, starts, sizes = np.unique(home[others], return_index=True, return_counts=True)
        shares = np.minimum(sizes, _SAMPLED)
        columns = np.concatenate(
            [others[start : start + share] for start, share in zip(starts, shares, strict=True)]
        )
        weights = np.repeat(sizes / shares, shares)
        order = np.argsort(columns)
        columns, weights = columns[order], weights[order]
        constants = self._vectors.offsets.numpy()[columns] + np.log(weights)
        rows = self._vectors.table[torch.from_numpy(columns)]
        return _Sample(columns, rows, constants.astype(np.float32))

    def _described(self, columns: Columns) -> Floats:
        """Return items' vectors with their offsets, [C, F + 1]."""
        rows = torch.from_numpy(columns)
        parts = [self._vectors.table[rows], self._vectors.offsets[rows, None]]
        described: Floats = torch.cat(parts, 1).numpy()
        return described

    def _measure(self, kinds: Sequence[Sequence[Columns]]) -> tuple[float, float]:
        """Choose how many lists are searched; return the recall and the normaliser's error."""
        queries, best, totals = [], [], []
        for history in chain.from_iterable(kinds):
            queries += self._vectors.queries(torch.from_numpy(history[None]))
        size = max(1, _NUMBERS // len(self._vectors.table))
        for start in range(0, len(queries), size):
            for exact in self._vectors.scores(queries[start : start + size]):
                best.append(exact.topk(min(_BEST, len(exact))).indices.numpy())
                totals.append(float(exact.double().logsumexp(0)))
        searched = _FEWEST
        while True:
            self._index.nprobe = searched
            found = [self.search(query, CANDIDATES) for query in queries]
            shares = [
                np.isin(own, columns[np.argsort(-scores)[:_BEST]]).mean()
                for (columns, scores), own in zip(found, best, strict=True)
            ]
            recall = float(np.reshape(shares, (len(kinds), -1)).mean(1).min())
            more = searched + searched // 2
            if recall >= RECALL or more * _LEAST_SHARE > self.lists:
                break
            searched = more
        estimates = [self.log_total(query, *own) for query, own in zip(queries, found, strict=True)]
        ratios = np.expm1(np.array(estimates) - np.array(totals))
        error = float(np.sqrt((ratios**2).mean()))
        return recall, error


class IndexScores:
    """Scores of one history by an index, or exactly where the index does not suffice.

    Args:
        index: of the items.
        query: of the history.
        exactly: returns exact scores of all items.
    """

    def __init__(self, index: ItemIndex, query: Query, exactly: Callable[[], Scores]) -> None:
        self._index, self._query, self._exactly = index, query, exactly
        self._columns, self._scores = index.search(query, CANDIDATES)
        self._mask: npt.NDArray[np.bool_] | None = None
        self._seen: Columns = np.zeros(0, np.int64)

    def log_total(self) -> float:
        """Return an estimate of log Σ exp(score)."""
        return self._index.log_total(self._query, self._columns, self._scores)

    def hide(self, mask: npt.NDArray[np.bool_] | None, columns: Columns) -> None:
        """Leave items out."""
        self._mask, self._seen = mask, columns

    def best(self, most: int) -> Candidates:
        """Return candidates of the index, or exact ones."""
        shown = ~self._left_out(self._columns)
        if most > CANDIDATES or 2 * int(shown.sum()) < len(shown):
            exact = self._exactly()
            exact.log_total()
            exact.hide(self._mask, self._seen)
            return exact.best(most)
        return Candidates(self._columns[shown], self._scores[shown], -math.inf)

    def at(self, columns: Columns) -> Floats:
        """Return the exact scores of some items."""
        scores = self._index.score(self._query, columns)
        scores[self._left_out(columns)] = -math.inf
        return scores

    def _left_out(self, columns: Columns) -> npt.NDArray[np.bool_]:
        hidden = np.isin(columns, self._seen)
        return hidden if self._mask is None else hidden | self._mask[columns]


def _histories(home: Columns, window: int, draw: np.random.Generator) -> list[list[Columns]]:
    """Return internal ids of histories by kind; each kind has as many.

    Args:
        home: each item's list, [V].
        window: events that the model reads.
        draw: what is drawn with.
    """
    kinds = []
    for events, alike in product((min(_FEW, window), window), (False, True)):
        histories = []
        for _ in range(_PROBES):
            among = np.arange(len(home))
            if alike:
                among = np.flatnonzero(home == home[draw.integers(len(home))])
            histories.append(draw.choice(among, events) + 1)
        kinds.append(histories)
    return kinds
