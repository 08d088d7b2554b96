"""The figures against an independent, sort-based implementation, and every edge case."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.data.histories import Histories
from shared.evaluation import ranking as metrics
from shared.evaluation.ranking import Ranking, rank_users, ranks, top_items

LEVELS = [-math.inf, -1.0, 0.0, 0.5, 2.0, math.inf]  # few, so that ties are common
Case = tuple[list[list[float]], list[int], list[list[int]]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Scores, targets and seen items (repeats and the target itself included)."""
    users, items = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    ids = st.integers(1, items)
    score = st.sampled_from(LEVELS)
    return (
        draw(st.lists(st.lists(score, min_size=items, max_size=items), min_size=users,
                      max_size=users)),
        draw(st.lists(ids, min_size=users, max_size=users)),
        draw(st.lists(st.lists(ids, max_size=10), min_size=users, max_size=users)),
    )  # fmt: skip


def rank_by_sorting(scores: list[float], target: int, seen: list[int]) -> int:
    """Sort the candidates by score, the target last among equals, and look where it stands."""
    candidates = [i for i in range(1, len(scores) + 1) if i == target or i not in seen]
    order = sorted(candidates, key=lambda i: (-scores[i - 1], i == target))
    return 1 + order.index(target)


def pad(rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows), default=0)
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64)


@given(cases())
def test_ranks_agree_with_sorting(case: Case) -> None:
    scores, targets, seen = case
    expected = [rank_by_sorting(*user) for user in zip(scores, targets, seen, strict=True)]
    assert ranks(torch.tensor(scores), torch.tensor(targets), pad(seen)).tolist() == expected


@given(cases(), st.data())
def test_top_items_are_unseen_and_none_better_is_left_out(case: Case, data: st.DataObject) -> None:
    scores, _, seen = case
    k = data.draw(st.integers(1, len(scores[0])))
    for row, met, top in zip(
        scores, seen, top_items(torch.tensor(scores), pad(seen), k).tolist(), strict=True
    ):
        allowed = [s for i, s in enumerate(row, 1) if i not in met and s > -math.inf]
        shown = [i for i in top if i]
        assert not set(shown) & set(met)
        assert len(set(shown)) == len(shown)
        assert [row[i - 1] for i in shown] == sorted(allowed, reverse=True)[:k]
        assert top == shown + [0] * (k - len(shown))


@given(cases(), st.data())
def test_lists_and_ranks_follow_one_order(case: Case, data: st.DataObject) -> None:
    scores, targets, seen = case
    k = data.draw(st.integers(1, len(scores[0])))
    tensors = torch.tensor(scores), pad(seen)
    where = ranks(tensors[0], torch.tensor(targets), tensors[1]).tolist()
    with_target = top_items(*tensors, k, torch.tensor(targets)).tolist()
    without = top_items(*tensors, k).tolist()
    for row, target, met, rank, top, plain in zip(
        scores, targets, seen, where, with_target, without, strict=True
    ):
        unseen = [i for i, s in enumerate(row, 1) if i not in met and s > -math.inf]
        padding = [0] * k
        assert plain == (sorted(unseen, key=lambda i: (-row[i - 1], i)) + padding)[:k]
        order = sorted(unseen, key=lambda i: (-row[i - 1], i == target, i))
        assert top == (order + padding)[:k]
        if target in unseen:
            assert (target in top) == (rank <= k)


def test_equal_scores_are_shown_in_the_order_of_ids_whatever_the_catalogue_is() -> None:
    # With so many ties, `torch.topk` alone returns other items, and others for other sizes.
    for items in (50, 1000, 20_000):
        top = top_items(torch.zeros(2, items), pad([[1, 3], []]), 5, torch.tensor([4, 50]))
        assert top.tolist() == [[2, 5, 6, 7, 8], [1, 2, 3, 4, 5]]


@given(st.lists(st.integers(1, 30), min_size=1), st.integers(1, 12))
def test_figures_agree_with_their_formulas(where: list[int], k: int) -> None:
    found, n = [r for r in where if r <= k], len(where)
    assert metrics.hit_rate(torch.tensor(where), k) == pytest.approx(len(found) / n)
    assert metrics.mrr(torch.tensor(where), k) == pytest.approx(sum(1 / r for r in found) / n)
    assert metrics.ndcg(torch.tensor(where), k) == pytest.approx(
        sum(1 / math.log2(1 + r) for r in found) / n
    )


@given(cases())
def test_order_of_the_figures(case: Case) -> None:
    scores, targets, seen = case
    where = ranks(torch.tensor(scores), torch.tensor(targets), pad(seen))
    mrr, ndcg, hr = (f(where, 3) for f in (metrics.mrr, metrics.ndcg, metrics.hit_rate))
    assert 0 <= mrr <= ndcg <= hr <= 1


def test_equal_scores_earn_nothing() -> None:
    where = ranks(torch.zeros(3, 20), torch.tensor([1, 10, 20]), torch.zeros(3, 1).long())
    assert where.tolist() == [20, 20, 20]


def test_a_seen_target_is_still_ranked() -> None:
    assert ranks(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([1]), pad([[1, 2]])).tolist() == [1]


def test_a_target_scored_minus_infinity_comes_last_among_the_unseen() -> None:
    scores = torch.tensor([[-math.inf, 1.0, -math.inf, 0.0]])
    assert ranks(scores, torch.tensor([1]), pad([[2]])).tolist() == [3]


@pytest.mark.parametrize(
    ("scores", "targets", "seen", "says"),
    [
        ([[0.0, math.nan]], [1], [[0]], "NaN"),
        ([[math.nan, 0.0]], [1], [[1]], "NaN"),
        ([[0.0, 1.0]], [0], [[0]], "targets in 0..0"),
        ([[0.0, 1.0]], [3], [[0]], r"targets in 3..3: allowed is 1..2"),
        ([[0.0, 1.0]], [1], [[3]], "seen in 3..3"),
        ([[0.0, 1.0]], [1], [[-1]], "seen in -1..-1"),
        ([[0.0, 1.0]], [1, 2], [[0]], "expected"),
        ([[0.0, 1.0]], [1], [[0], [0]], "expected"),
        ([0.0, 1.0], [1], [[0]], "expected"),
        ([[0.0, 1.0]], [[1]], [[0]], "expected"),
    ],
)
def test_ranks_refuses(
    scores: list[list[float]], targets: list[int], seen: list[list[int]], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        ranks(torch.tensor(scores), torch.tensor(targets), torch.tensor(seen))


@pytest.mark.parametrize("items", [2_048, 2_100, 5_003])
@pytest.mark.parametrize("kind", ["distinct", "few values", "mostly zero", "mostly -inf"])
def test_large_catalogues_agree_with_sorting(items: int, kind: str) -> None:
    torch.manual_seed(items)
    scores = torch.randn(12, items)
    if kind == "few values":
        scores = scores.round(decimals=1).abs()
    elif kind.startswith("mostly"):
        rare = torch.rand(12, items) < torch.logspace(-4, -1, 12)[:, None]
        scores = scores.where(rare, 0.0 if kind == "mostly zero" else -math.inf)
    targets, seen = torch.randint(1, items + 1, (12,)), torch.randint(0, items + 1, (12, 30))
    seen[:4, 0], seen[4] = targets[:4], 0
    lists, places = top_items(scores, seen, 10, targets), ranks(scores, targets, seen)
    rows = zip(scores.tolist(), targets.tolist(), seen.tolist(), strict=True)
    for row, (own, target, met) in enumerate(rows):
        assert places[row] == rank_by_sorting(own, target, met)
        left = [i for i in range(1, items + 1) if i not in met and own[i - 1] > -math.inf]
        best = sorted(left, key=lambda i: (-own[i - 1], i == target))[:10]
        assert lists[row].tolist() == best + [0] * (10 - len(best))


@pytest.mark.parametrize("figure", [metrics.hit_rate, metrics.ndcg, metrics.mrr])
@pytest.mark.parametrize(("where", "k"), [([], 10), ([1], 0), ([0], 10)])
def test_figures_refuse(figure: object, where: list[int], k: int) -> None:
    assert callable(figure)
    with pytest.raises(ValueError, match="ranks"):
        figure(torch.tensor(where, dtype=torch.int64), k)


@pytest.mark.parametrize(("top", "items"), [([[1]], 0), ([[3]], 2), ([[-1]], 2)])
def test_coverage_refuses(top: list[list[int]], items: int) -> None:
    with pytest.raises(ValueError, match=r"items=0|top in"):
        metrics.coverage(torch.tensor(top), items)


class Watched:
    """Scores at random but remembers what it was shown."""

    def __init__(self, items: int) -> None:
        self.items, self.shown = items, []  # type: tuple[int, list[list[int]]]
        self.table = torch.randn(items + 1, items, requires_grad=True)

    def __call__(self, histories: Tensor) -> Tensor:
        self.shown += histories.tolist()
        return self.table[histories[:, 0]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 12), min_size=0, max_size=9), min_size=1, max_size=7),
    st.integers(1, 5),
    st.integers(1, 15),
    st.data(),
)
def test_rank_users_agrees_with_brute_force(
    lists: list[list[int]], window: int, k: int, data: st.DataObject
) -> None:
    targets = data.draw(st.lists(st.integers(1, 12), min_size=len(lists), max_size=len(lists)))
    model, batch = Watched(12), data.draw(st.integers(1, 8))
    got = rank_users(
        model, Histories.from_lists(lists), np.array(targets),
        items=12, window=window, k=k, batch_size=batch,
    )  # fmt: skip
    windows = [(h[-window:] + [0] * window)[:window] for h in lists]
    scores = [model.table[w[0]].tolist() for w in windows]
    where = [rank_by_sorting(*user) for user in zip(scores, targets, lists, strict=True)]
    # By length, padded to the longest of a batch.
    assert sorted([i for i in h if i] for h in model.shown) == sorted(h[-window:] for h in lists)
    assert got.ranks.tolist() == where
    shown = {
        i
        for row, met in zip(scores, lists, strict=True)
        for i in sorted(set(range(1, 13)) - set(met), key=lambda i: -row[i - 1])[:k]
    }
    assert got.metrics().as_dict() == pytest.approx(
        {
            f"hr@{k}": sum(r <= k for r in where) / len(where),
            f"ndcg@{k}": sum(1 / math.log2(1 + r) for r in where if r <= k) / len(where),
            f"mrr@{k}": sum(1 / r for r in where if r <= k) / len(where),
            f"coverage@{k}": len(shown) / 12,
        }
    )
    assert (got.metrics().users, got.metrics().k) == (len(lists), k)


def rank_two(targets: list[int], **changed: int) -> Ranking:
    setting = {"items": 4, "window": 2, "k": 2, "batch_size": 1} | changed
    inputs = Histories.from_lists([[1, 2], [3]])
    return rank_users(Watched(4), inputs, np.array(targets), **setting)


def test_no_gradient_is_kept() -> None:
    tracked: list[bool] = []

    def scorer(histories: Tensor) -> Tensor:
        scores = torch.zeros(len(histories), 4, requires_grad=True) + 1
        tracked.append(scores.requires_grad)
        return scores

    rank_users(scorer, Histories.from_lists([[1]]), np.array([2]), items=4, window=1)
    assert tracked == [False]


@pytest.mark.parametrize("name", ["items", "window", "k", "batch_size"])
def test_rank_users_refuses_settings_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        rank_two([3, 4], **{name: 0})


def test_rank_users_refuses_missing_users_targets_and_columns() -> None:
    with pytest.raises(ValueError, match="one target per user"):
        rank_two([3])
    with pytest.raises(ValueError, match="0 users"):
        rank_users(Watched(4), Histories.from_lists([]), np.array([]), items=4, window=2)
    with pytest.raises(ValueError, match=r"expected \(1, 5\)"):
        rank_two([3, 4], items=5)


def test_pooling_counts_each_user_once() -> None:
    a = Ranking(ranks=torch.tensor([1]), top=torch.tensor([[1, 2]]), items=8, k=2)
    b = Ranking(ranks=torch.tensor([9, 9, 9]), top=torch.tensor([[2, 3]] * 3), items=8, k=2)
    pooled = Ranking.pooled([a, b]).metrics()
    assert (pooled.hr, pooled.coverage, pooled.users) == (0.25, 0.375, 4)


def test_some_users_can_be_selected_in_another_order() -> None:
    ranking = Ranking(
        ranks=torch.tensor([1, 2, 3]), top=torch.tensor([[1], [2], [3]]), items=8, k=1
    )
    some = ranking.select(np.array([2, 0]))
    assert (some.ranks.tolist(), some.top.tolist()) == ([3, 1], [[3], [1]])
    assert (some.items, some.k) == (8, 1)


def test_pooling_refuses_none_or_different_kinds() -> None:
    a = Ranking(ranks=torch.tensor([1]), top=torch.tensor([[1]]), items=8, k=1)
    b = Ranking(ranks=torch.tensor([1]), top=torch.tensor([[1]]), items=9, k=1)
    for parts in ([], [a, b]):
        with pytest.raises(ValueError, match="pool rankings of one kind"):
            Ranking.pooled(parts)
