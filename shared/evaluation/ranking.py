"""Ranking quality: how high a recommender ranks each user's next item in the whole catalogue.

There is one target per user. It competes with every catalogue item that the user has not seen.
Sampled negatives are not used: they change the order of models and inflate figures (Krichene &
Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020). The figures are exact and not
private: they are for public benchmarks and for use inside an organisation.

Every figure follows one order: items by score, equal scores in the order of their ids, and the
target behind all that tie with it. So a target whose rank is at most k is in the list of k, no
other target is, and a model that scores all items alike earns nothing.

`hit_rate`, `recall`, `precision`, `f1`, `ndcg` and `mrr` are means over N >= 1 users, in [0, 1].
They take 1-based ranks, int64 [N], and a cut-off k >= 1, and raise ValueError for values or sizes
below 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.data.histories import Histories
from shared.evaluation.reordering import Reordered, join_candidates, ranks_after

__all__ = [
    "Metrics",
    "Ranking",
    "Scorer",
    "coverage",
    "f1",
    "hit_rate",
    "mrr",
    "ndcg",
    "precision",
    "rank_users",
    "rank_users_by",
    "ranks",
    "recall",
    "top_items",
]


_BLOCKS = 256
"""Blocks of columns in a search for the highest scores."""
_ROWS = 32
"""Users who are ranked at once: their scores of 17,000 items fit a processor's cache."""


class Scorer(Protocol):
    """Anything that scores the catalogue for a batch of histories."""

    def __call__(self, histories: Tensor, /) -> Tensor:
        """Map int64 [B, T], right-padded with 0, to scores [B, V]; column j is item j + 1."""
        ...


def ranks(scores: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
    """Return the 1-based rank of each target among the items its user has not seen.

    ======================================  ===================================================
    case                                    outcome
    ======================================  ===================================================
    an unseen item ties with the target     it ranks above: equal scores earn nothing
    the target is itself among the seen     it is still ranked: users repeat choices
    a score is -inf or +inf                 compared like any other number
    a score is NaN                          ValueError: it would compare as "never higher"
    ======================================  ===================================================

    Args:
        scores: float [B, V]; column j belongs to item j + 1.
        targets: int64 [B], each in 1..V.
        seen: int64 [B, S], items in any order and number, padded with 0.

    Returns:
        int64 [B], each in 1..V.

    Raises:
        ValueError: a NaN score, an id out of range, or shapes that do not match.

    Example:
        >>> ranks(torch.tensor([[0.9, 0.5, 0.7]]), torch.tensor([2]), seen=torch.tensor([[1, 0]]))
        tensor([2])
    """
    _check(scores, targets, seen)
    parts = (part.split(_ROWS) for part in (scores, targets, seen))
    places = [_Competition(*part).ranks() for part in zip(*parts, strict=True)]
    return torch.cat([targets[:0], *places])


def top_items(scores: Tensor, seen: Tensor, k: int, targets: Tensor | None = None) -> Tensor:
    """Return each user's k highest-scored unseen items, best first.

    Equal scores are in the order of their ids; a target comes behind all that tie with it, as in
    `ranks`. An item with score -inf is never returned; 0 fills the places for which no item is
    left.

    Args:
        scores: float [B, V] without NaN.
        seen: int64 [B, S], padded with 0.
        k: length of the list, in 1..V.
        targets: int64 [B], each in 1..V; None where a list has no target.

    Returns:
        int64 [B, k] of item ids.

    Example:
        >>> top_items(torch.tensor([[0.9, 0.5, 0.7]]), seen=torch.tensor([[1, 0]]), k=3)
        tensor([[3, 2, 0]])
        >>> equal, unseen = torch.zeros(1, 4), torch.tensor([[0]])
        >>> top_items(equal, unseen, k=2), top_items(equal, unseen, k=2, targets=torch.tensor([1]))
        (tensor([[1, 2]]), tensor([[2, 3]]))
    """
    if targets is None:
        hidden = scores.new_zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool)  # [B, V + 1]
        scores = scores.masked_fill(hidden.scatter_(1, seen, value=True)[:, 1:], -torch.inf)
        ids = _first(scores, k)
        return (ids + 1).masked_fill(scores.gather(1, ids) == -torch.inf, 0)
    return _Competition(scores, targets, seen).lists(k)


class _Competition:
    """Targets, and the scores of what they compete with: unseen items that are not the target.

    Arguments are those of `ranks`.
    """

    def __init__(self, scores: Tensor, targets: Tensor, seen: Tensor) -> None:
        self._targets, self._seen = targets[:, None], seen
        self._own = scores.gather(1, self._targets - 1)  # [B, 1]
        self._hidden = torch.cat([self._targets, seen.where(seen > 0, self._targets)], 1) - 1
        self._rivals = scores.clone(memory_format=torch.contiguous_format)  # [B, V]
        # A maximum is NaN where a number is.
        hidden_scores = scores.gather(1, self._hidden)
        self._rivals.scatter_(1, self._hidden, -torch.inf)
        if self._rivals.amax(1).isnan().any() or hidden_scores.isnan().any():
            raise ValueError("scores hold NaN: the model has diverged or divides by zero")

    def ranks(self) -> Tensor:
        """Return `ranks`."""
        # A sum into int64 takes eight times as long.
        places = 1 + (self._rivals >= self._own).sum(1, dtype=torch.int32).long()
        # Hidden items are not above a target whose own score is -inf.
        for row in (self._own[:, 0] == -torch.inf).nonzero()[:, 0].tolist():
            places[row] -= len(self._hidden[row].unique())
        return places

    def lists(self, k: int) -> Tensor:
        """Return `top_items`."""
        was_seen = (self._seen == self._targets).any(1, keepdim=True)
        ids = _first(self._rivals, k)
        values = torch.cat(
            [self._rivals.gather(1, ids), self._own.masked_fill(was_seen, -torch.inf)], 1
        )
        ids = torch.cat([ids, self._targets - 1], 1)
        order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
        ids, values = ids.gather(1, order), values.gather(1, order)
        return (ids + 1).masked_fill(values == -torch.inf, 0)


def _first(scores: Tensor, k: int) -> Tensor:
    """Return the columns of the k highest scores of each row, equal ones from left to right.

    Columns that are _BLOCKS apart are one block. As many blocks as the k + 1 with the highest
    maxima have an item of at least the least of these maxima, so no better item is in another.
    """
    users, items = scores.shape
    if items < 8 * _BLOCKS or k >= _BLOCKS // 4:
        return _first_of_few(scores, k)
    full = items // _BLOCKS * _BLOCKS
    maxima = scores[:, :full].reshape(users, -1, _BLOCKS).amax(1)  # [B, blocks]
    rest = items - full
    maxima[:, :rest] = torch.maximum(maxima[:, :rest], scores[:, full:])
    least = maxima.topk(k + 1).values[:, -1:]  # [B, 1]
    inside = maxima >= least
    # Many equal maxima, as where few items have a score, are left to the other way.
    many = (least == -torch.inf)[:, 0] | (inside.sum(1, dtype=torch.int32) > 4 * (k + 1))
    ids = scores.new_empty(users, k, dtype=torch.int64)
    if many.any():
        ids[many] = _first_of_few(scores[many], k)
        inside[many] = False
    rows, blocks = inside.nonzero(as_tuple=True)
    columns = blocks[:, None] + torch.arange(0, items, _BLOCKS, device=scores.device)  # [n, V / nb]
    columns, beyond = columns.clamp(max=items - 1), columns >= items
    values = scores[rows[:, None], columns].masked_fill(beyond, -torch.inf)
    place, number = (values >= least[rows]).nonzero(as_tuple=True)
    rows, columns, values = rows[place], columns[place, number], values[place, number]
    order = columns.argsort()
    order = order[values[order].argsort(descending=True, stable=True)]
    order = order[rows[order].argsort(stable=True)]
    rows, columns = rows[order], columns[order]
    starts = torch.searchsorted(rows, torch.arange(users, device=scores.device))
    number = torch.arange(len(rows), device=scores.device) - starts[rows]
    shown = number < k
    ids[rows[shown], number[shown]] = columns[shown]
    return ids


def _first_of_few(scores: Tensor, k: int) -> Tensor:
    # `topk` chooses among equal scores as it pleases: look at one place more.
    best = scores.topk(min(k + 1, scores.shape[1]))
    ids, least = best.indices[:, :k], best.values[:, k - 1 : k]
    ambiguous = (best.values[:, k:] == least).any(1).nonzero()[:, 0]
    if len(ambiguous):
        some, end = scores[ambiguous], least[ambiguous]
        above, equal = some > end, some == end
        room = k - above.count_nonzero(dim=1)[:, None]
        shown = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
        ids[ambiguous] = shown.nonzero()[:, 1].view(-1, k)
    ids = ids.sort(dim=1).values
    order = scores.gather(1, ids).argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order)


def hit_rate(ranks: Tensor, k: int) -> float:
    """Return HR@k = mean of [rank <= k]; with one relevant item per user it equals recall@k.

    Example:
        >>> hit_rate(torch.tensor([1, 3, 40, 11]), k=10)
        0.5
    """
    return _mean_gain(torch.ones_like(ranks, dtype=torch.float64), ranks, k)


def ndcg(ranks: Tensor, k: int) -> float:
    """Return nDCG@k = mean of [rank <= k] / log2(1 + rank).

    Järvelin & Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", TOIS 2002, with
    the usual log2(1 + rank) discount; one relevant item makes the ideal gain 1.

    Example:
        >>> ndcg(torch.tensor([1, 3, 40, 11]), k=10)
        0.375
    """
    return _mean_gain(1 / torch.log2(1 + ranks.double()), ranks, k)


def recall(ranks: Tensor, k: int) -> float:
    """Return recall@k: of one relevant item a user, the share that is found, which is HR@k.

    van Rijsbergen, "Information Retrieval", 1979, chapter 7, as are `precision` and `f1`.

    Example:
        >>> recall(torch.tensor([1, 3, 40, 11]), k=10)
        0.5
    """
    return hit_rate(ranks, k)


def precision(ranks: Tensor, k: int) -> float:
    """Return precision@k = mean of [rank <= k] / k: the share of a list that is relevant.

    Example:
        >>> precision(torch.tensor([1, 3, 40, 11]), k=10)
        0.05
    """
    return hit_rate(ranks, k) / k


def f1(ranks: Tensor, k: int) -> float:
    """Return F1@k = mean of 2 [rank <= k] / (k + 1), of precision and recall.

    Of one user precision is 1 / k and recall 1 where the target is found. The mean of the users'
    own is the harmonic mean of the means, too.

    Example:
        >>> f1(torch.tensor([1, 3, 40, 40]), k=3)
        0.25
    """
    return 2 * hit_rate(ranks, k) / (k + 1)


def mrr(ranks: Tensor, k: int) -> float:
    """Return MRR@k = mean of [rank <= k] / rank.

    Voorhees, "The TREC-8 Question Answering Track Report", 1999, cut off at k.

    Example:
        >>> mrr(torch.tensor([1, 2, 40, 11]), k=10)
        0.375
    """
    return _mean_gain(1 / ranks.double(), ranks, k)


def coverage(top: Tensor, items: int) -> float:
    """Return coverage@k = |union of all top-k lists| / V, in [0, 1].

    Ge, Delgado-Battenfeld & Jannach, "Beyond Accuracy", RecSys 2010, "catalog coverage".

    Args:
        top: int64 [N, k] of item ids; 0 for an empty place.
        items: V, the size of the catalogue; >= 1.

    Raises:
        ValueError: an id outside 0..V, or V < 1.

    Example:
        >>> coverage(torch.tensor([[1, 2], [2, 3], [2, 0]]), items=6)
        0.5
    """
    if items < 1:
        raise ValueError(f"items={items}: a catalogue holds at least one item")
    _check_ids("top", top, low=0, high=items)
    shown = torch.bincount(top.flatten(), minlength=items + 1)[1:]  # [V]
    return shown.count_nonzero().item() / items


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The four figures of one model on one set of users.

    Attributes:
        hr: HR@k.
        ndcg: nDCG@k.
        mrr: MRR@k.
        coverage: coverage@k.
        users: number of users in the means.
        k: the cut-off.
    """

    hr: float
    ndcg: float
    mrr: float
    coverage: float
    users: int
    k: int

    @property
    def recall(self) -> float:
        """Recall@k: of one target a user, HR@k."""
        return self.hr

    @property
    def precision(self) -> float:
        """Precision@k."""
        return self.hr / self.k

    @property
    def f1(self) -> float:
        """F1@k."""
        return 2 * self.hr / (self.k + 1)

    def as_dict(self) -> dict[str, float]:
        """Return the figures under the names that `result.json` gives them.

        Example:
            >>> Metrics(hr=0.5, ndcg=0.25, mrr=0.125, coverage=1.0, users=4, k=10).as_dict()
            {'hr@10': 0.5, 'ndcg@10': 0.25, 'mrr@10': 0.125, 'coverage@10': 1.0}
        """
        figures = {"hr": self.hr, "ndcg": self.ndcg, "mrr": self.mrr, "coverage": self.coverage}
        return {f"{name}@{self.k}": value for name, value in figures.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """One model's results for each of N users, before averaging.

    Attributes:
        ranks: int64 [N], the rank of each user's target; on the CPU.
        top: int64 [N, min(k, V)], each user's recommendations (see `top_items`); on the CPU.
        items: V, the size of the catalogue.
        k: the cut-off.
    """

    ranks: Tensor
    top: Tensor
    items: int
    k: int

    @classmethod
    def pooled(cls, parts: Sequence[Ranking]) -> Ranking:
        """Concatenate the users of several organisations, so that each user counts once.

        Raises:
            ValueError: no parts, or they differ in catalogue size or cut-off.
        """
        kinds = {(part.items, part.k) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"(items, k) = {sorted(kinds)}: pool rankings of one kind")
        [(items, k)] = kinds
        return cls(
            ranks=torch.cat([part.ranks for part in parts]),
            top=torch.cat([part.top for part in parts]),
            items=items,
            k=k,
        )

    def select(self, rows: NDArray[np.int64]) -> Ranking:
        """Return the results of the users with these numbers, in this order."""
        index = torch.from_numpy(rows)
        return Ranking(ranks=self.ranks[index], top=self.top[index], items=self.items, k=self.k)

    def metrics(self) -> Metrics:
        """Average over the users."""
        return Metrics(
            hr=hit_rate(self.ranks, self.k),
            ndcg=ndcg(self.ranks, self.k),
            mrr=mrr(self.ranks, self.k),
            coverage=coverage(self.top, self.items),
            users=len(self.ranks),
            k=self.k,
        )


def rank_users(
    scorer: Scorer,
    inputs: Histories,
    targets: NDArray[np.int64],
    *,
    items: int,
    window: int,
    k: int = 10,
    batch_size: int = 64,
) -> Ranking:
    """Rank every user's target over the full catalogue.

    The scorer reads the last `window` events of a user. All of the user's events are excluded from
    the ranking. Ranks are computed on the device of the scores. Users of similar length are scored
    together, padded to the longest of them.

    Args:
        scorer: the model; it receives histories on the CPU and moves them itself.
        inputs: N histories, each without its target.
        targets: int64 [N], each in 1..V.
        items: V, the size of the catalogue.
        window: T, number of events that the scorer reads; >= 1.
        k: the cut-off, >= 1; a list has at most V items.
        batch_size: B, number of users scored together; >= 1.

    Raises:
        ValueError: no users, not one target per user, scores that are not [B, V] or hold a NaN,
            or an id or setting out of range.
    """
    [ranking] = rank_users_by(
        [scorer], inputs, targets, items=items, window=window, k=k, batch_size=batch_size
    )
    return ranking


@torch.no_grad()
def rank_users_by(
    scorers: Sequence[Scorer],
    inputs: Histories,
    targets: NDArray[np.int64],
    *,
    items: int,
    window: int,
    k: int = 10,
    batch_size: int = 64,
) -> list[Ranking]:
    """Rank with several models, which get the same tensor of each batch's histories in turn.

    A `Reordered` scorer has its lists chosen by its `reorder`; `shared.evaluation.reordering` says
    what that does to ranks.

    Arguments and exceptions are those of `rank_users`.
    """
    users = len(inputs)
    if users == 0 or targets.shape != (users,):
        raise ValueError(f"{users} users, targets of shape {targets.shape}: one target per user")
    if min(items, window, k, batch_size) < 1:
        raise ValueError(f"{items=}, {window=}, {k=}, {batch_size=}: each must be at least 1")
    target_items, lengths = torch.tensor(targets, dtype=torch.int64), inputs.lengths
    places = torch.empty(len(scorers), users, dtype=torch.int64)
    lists = torch.empty(len(scorers), users, min(k, items), dtype=torch.int64)
    by_length = np.argsort(lengths, kind="stable")
    for rows in np.array_split(by_length, range(batch_size, users, batch_size)):
        longest = max(1, int(lengths[rows].max()))
        histories, seen = inputs.padded(rows, min(window, longest)), inputs.padded(rows, longest)
        for number, scorer in enumerate(scorers):
            scores = scorer(histories)  # [B, V]
            if scores.shape != (len(rows), items):
                raise ValueError(f"scores {tuple(scores.shape)}: expected {(len(rows), items)}")
            for start in range(0, len(rows), _ROWS):
                some = slice(start, start + _ROWS)
                given = scores[some], target_items[rows[some]], seen[some]
                some_rows = torch.from_numpy(rows[some])
                if isinstance(scorer, Reordered):
                    own = inputs.select(rows[some])
                    ranked = _reordered(scorer, *given, own, min(k, items))
                else:
                    ranked = _ranked(*given, k)
                places[number, some_rows], lists[number, some_rows] = ranked
    return [
        Ranking(ranks=own, top=top, items=items, k=k)
        for own, top in zip(places, lists, strict=True)
    ]


def _ranked(scores: Tensor, targets: Tensor, seen: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return `ranks` and `top_items`, on the CPU."""
    targets, seen = targets.to(scores.device), seen.to(scores.device)
    _check(scores, targets, seen)
    competition = _Competition(scores, targets, seen)
    return competition.ranks().cpu(), competition.lists(min(k, scores.shape[1])).cpu()


def _reordered(
    scorer: Reordered, scores: Tensor, targets: Tensor, seen: Tensor, inputs: Histories, k: int
) -> tuple[Tensor, Tensor]:
    """Return ranks and lists where a `Reorder` chooses the lists, on the CPU."""
    targets, seen, reorder = targets.to(scores.device), seen.to(scores.device), scorer.reorder
    _check(scores, targets, seen)
    competition, protected = _Competition(scores, targets, seen), reorder.protected
    number = min(max(k, reorder.candidates), scores.shape[1])
    ids = competition.lists(number).cpu().numpy()
    if protected is not None:
        hidden = torch.from_numpy(~protected).to(scores.device)
        others = scores.masked_fill(hidden, -torch.inf)
        ids = join_candidates(ids, _Competition(others, targets, seen).lists(k).cpu().numpy())
    candidates = torch.from_numpy(ids).to(scores.device)
    values = scores.gather(1, (candidates - 1).clamp(min=0)).cpu().double().numpy()
    if not scorer.logits:
        values = np.log(values.clip(min=np.finfo(np.float64).tiny))
    chosen = reorder(ids, values, inputs, k)
    top = np.where(chosen >= 0, np.take_along_axis(ids, chosen.clip(min=0), 1), 0)
    lists = torch.from_numpy(top)
    places = ranks_after(competition.ranks(), targets, lists.to(scores.device), scores)
    return places.cpu(), lists


def _mean_gain(gains: Tensor, ranks: Tensor, k: int) -> float:
    if len(ranks) == 0 or k < 1:
        raise ValueError(f"{len(ranks)} ranks, k={k}: both must be at least 1")
    _check_ids("ranks", ranks, low=1)
    return float(gains.where(ranks <= k, 0).mean())


def _check(scores: Tensor, targets: Tensor, seen: Tensor) -> None:
    sizes = (scores.ndim, targets.ndim, seen.ndim)
    if sizes != (2, 1, 2) or not len(scores) == len(targets) == len(seen):
        shapes = [tuple(t.shape) for t in (scores, targets, seen)]
        raise ValueError(f"scores, targets, seen {shapes}: expected [B, V], [B], [B, S]")
    _check_ids("targets", targets, low=1, high=scores.shape[1])
    _check_ids("seen", seen, low=0, high=scores.shape[1])


def _check_ids(name: str, ids: Tensor, *, low: int, high: int | None = None) -> None:
    if ids.numel() and (ids.min() < low or (high is not None and ids.max() > high)):
        actual = f"{int(ids.min())}..{int(ids.max())}"
        raise ValueError(f"{name} in {actual}: allowed is {low}..{'' if high is None else high}")
