"""The k best items of one history, from a few candidates with exact scores.

A search gives the scores of one history as `Scores`: some items with their exact scores, and a
bound that no other item reaches. If the k-th best candidate is above this bound, the list is that
of an exact search over the whole catalogue. Otherwise more candidates are asked for, in the end all
items.

With an organisation's own counts, the candidates are joined by the items that have counts. The
score of any other item is its prior's alone, so the bound holds for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.home.home_model import CountShares
from shared.errors import DataError
from shared.evaluation.ranking import Scorer

__all__ = [
    "CANDIDATES",
    "Candidates",
    "Columns",
    "ExactScores",
    "Floats",
    "Scores",
    "Search",
    "best_items",
    "hide_in",
    "highest",
    "log_sum_exp",
    "search_with",
]

CANDIDATES = 256
"""Items that are scored exactly at first."""
_MORE = 8
"""By how much their number grows where they do not suffice."""
_HOLDS = 60.0
"""Exponents whose sums over a catalogue neither overflow nor underflow in float32."""
_GROUPS = 1024
"""Groups of columns, one maximum each, by which a threshold is found without sorting."""

Floats = npt.NDArray[np.float32]
Columns = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Some items with their exact scores.

    Attributes:
        columns: int64 [C], ascending; column j is item j + 1.
        scores: float32 [C].
        bound: the scores of all others are below it; -inf where nothing is known of them.
        complete: whether there are no others.
    """

    columns: Columns
    scores: Floats
    bound: float
    complete: bool = False


class Scores(Protocol):
    """Scores of V items after one history; used by one thread, once."""

    def log_total(self) -> float:
        """Return log Σ_j exp(score_j) over all items, hidden or not; asked for first."""
        ...

    def hide(self, mask: npt.NDArray[np.bool_] | None, columns: Columns) -> None:
        """Leave items out of what follows: where `mask` [V] is true, and those of `columns`."""
        ...

    def best(self, most: int) -> Candidates:
        """Return at least `most` of the highest items; all that are left if `most` is V or more."""
        ...

    def at(self, columns: Columns) -> Floats:
        """Return the exact scores of some items; -inf for one that is hidden."""
        ...


Search = Callable[[Tensor], Iterator[Scores]]
"""Maps int64 [B, T], right-padded with 0, to the scores of each history, each until the next."""


class ExactScores:
    """Exact scores of all items.

    Args:
        row: float32 [V]; it is changed.
        log_total: log Σ exp(score), where it is known.
    """

    def __init__(self, row: Floats, log_total: float | None = None) -> None:
        self._row, self._total = row, log_total

    def log_total(self) -> float:
        """Return log Σ exp(score)."""
        if self._total is None:
            self._total = log_sum_exp(self._row)
        return self._total

    def hide(self, mask: npt.NDArray[np.bool_] | None, columns: Columns) -> None:
        """Leave items out."""
        hide_in(self._row, mask, columns)

    def best(self, most: int) -> Candidates:
        """Return the highest items."""
        columns, least = highest(self._row, most)
        return Candidates(columns, self._row[columns], least, complete=least == -math.inf)

    def at(self, columns: Columns) -> Floats:
        """Return the scores of some items."""
        return self._row[columns]


def search_with(scorer: Scorer) -> Search:
    """Return the search that scores the whole catalogue with any scorer, on any device."""

    def search(rows: Tensor) -> Iterator[Scores]:
        with torch.inference_mode():
            scores = scorer(rows).float().cpu()
        for row in scores:
            # The scorer may return the same numbers for several users.
            yield ExactScores(row.numpy().copy())

    return search


def best_items(
    scores: Scores,
    k: int,
    *,
    mask: npt.NDArray[np.bool_] | None,
    seen: Columns,
    counts: CountShares | None = None,
) -> tuple[Columns, Floats]:
    """Return the k items that are most likely next, best first, equal ones in catalogue order.

    Args:
        scores: of one history.
        k: length of the list, in 1..V.
        mask: bool [V], true for items that are left out; None for none.
        seen: columns that are left out besides.
        counts: of the organisation's own, after this history; None without a home model.

    Returns:
        Columns and probabilities, at most k of each.

    Raises:
        DataError: the scores are not finite.
    """
    total = scores.log_total()
    if not math.isfinite(total):
        raise DataError(
            "its scores of a history are not finite",
            file="the model",
            remedy="Ask the coordinator for a sound model.",
        )
    scores.hide(mask, seen)
    most = max(CANDIDATES, _MORE * k)
    while True:
        found = scores.best(most)
        columns, values, bound = found.columns, found.scores, found.bound
        if counts is not None:
            columns, values = _blend(found, scores, total, counts)
            bound = float(_prior(np.float32(bound), total, counts))
        order = np.argsort(-values, kind="stable")[:k]
        last = values[order[-1]] if len(order) == k else -math.inf
        # Blended, what is below the bound may be rounded to it, and be first in the catalogue.
        if found.complete or last > bound or (counts is None and last == bound > -math.inf):
            break
        most *= _MORE
    columns, best = columns[order], values[order].astype(np.float64)
    chances = np.exp(best - total) if counts is None else best / counts.total
    return columns, chances.astype(np.float32)


def _blend(
    found: Candidates, scores: Scores, total: float, counts: CountShares
) -> tuple[Columns, Floats]:
    """Return the candidates and the items with counts, with their blended scores."""
    others = np.setdiff1d(counts.columns, found.columns, assume_unique=True)
    columns = np.concatenate([found.columns, others])
    logits = np.concatenate([found.scores, scores.at(others)])
    shown = logits > -math.inf
    order = np.argsort(columns[shown])
    columns, logits = columns[shown][order], logits[shown][order]
    values = _prior(logits, total, counts)
    place = np.searchsorted(counts.columns, columns).clip(max=max(0, len(counts.columns) - 1))
    if len(counts.columns):
        own = counts.columns[place] == columns
        values[own] += counts.values[place[own]]
    return columns, values


def _prior(logits: Floats | np.float32, total: float, counts: CountShares) -> Floats:
    """Return the prior's part of the blended scores."""
    chances = np.exp(np.asarray(logits, np.float64) - total)
    return np.asarray(counts.prior * chances, np.float32)


def log_sum_exp(row: Floats) -> float:
    """Return log Σ exp of float32 [V].

    >>> round(log_sum_exp(np.zeros(2, np.float32)), 4)
    0.6931
    """
    scores = torch.from_numpy(row)
    # The sum of what float32 holds takes a third of the time.
    held = abs(float(row.max())) < _HOLDS
    return float(scores.exp().sum().log() if held else scores.logsumexp(0))


def hide_in(row: Floats, mask: npt.NDArray[np.bool_] | None, columns: Columns) -> None:
    """Set hidden items to -inf, in place."""
    if mask is not None:
        np.copyto(row, -math.inf, where=mask)
    row[columns] = -math.inf


def highest(row: Floats, most: int) -> tuple[Columns, float]:
    """Return the columns of at least `most` of the highest numbers, and what the others are below.

    Fewer, and -inf, where fewer are above -inf. Columns that are `_GROUPS` apart are one group: as
    many items as there are maxima from the m-th on are at least the m-th highest maximum.

    >>> highest(np.array([3, 1, 2, 2], np.float32), 2)
    (array([0, 2, 3]), 2.0)
    """
    least = -math.inf
    full = len(row) // _GROUPS * _GROUPS
    if 2 * most <= _GROUPS and full >= 2 * _GROUPS:
        maxima = row[:full].reshape(-1, _GROUPS).max(0)
        least = float(np.partition(maxima, _GROUPS - most)[_GROUPS - most])
    if least == -math.inf and most < len(row):
        least = float(np.partition(row, len(row) - most)[len(row) - most])
    return np.flatnonzero(row >= least if least > -math.inf else row > least), least
