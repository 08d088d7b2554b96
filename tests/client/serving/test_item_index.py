"""What the index finds, beside an exact search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from client.home.home_model import HomeModel, Memory, SoftmaxPrior, TransitionCounts
from client.serving.item_index import MOST_ERROR, RECALL, ItemIndex
from client.serving.item_vectors import ItemVectors
from client.serving.named_items import Filters
from client.serving.quick_scores import ModelSearch
from client.serving.recommender import Recommender
from shared.config import ModelConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, build

pytest.importorskip("faiss")
ITEMS, SIZE, LENGTH, OWN = 12_000, 16, 8, (3, 50, 9000)


def some_features(clusters: int) -> torch.Tensor:
    """Items around some centres; as many as there are items are noise alone."""
    draw = torch.Generator().manual_seed(4)
    centres = torch.randn(clusters, SIZE, generator=draw)
    own = torch.randint(0, clusters, (ITEMS,), generator=draw)
    return centres[own] + 0.4 * torch.randn(ITEMS, SIZE, generator=draw)


def some_model(features: torch.Tensor) -> tuple[AttentionRecommender, Catalogue]:
    names = tuple(f"i{number}" for number in range(1, ITEMS + 1))
    genres = tuple(("rare",) if number % 40 == 0 else ("odd",) for number in range(ITEMS))
    catalogue = Catalogue(names, names, genres, (None,) * ITEMS, features)
    model = build(ModelConfig(feature_size=SIZE, max_length=LENGTH, own_items=OWN), catalogue)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.feature_out.weight.normal_(std=0.15, generator=draw)
        assert model.item_scores.offset is not None
        model.item_scores.offset.normal_(std=0.03, generator=draw)
    model.train(False)
    return model, catalogue


@pytest.fixture(scope="module")
def both() -> tuple[Recommender, Recommender]:
    """A recommender with an index, and one without."""
    model, catalogue = some_model(some_features(300))
    made = []
    for _ in range(2):
        search = ModelSearch(model)
        made.append(Recommender(catalogue, model.next_item_scores, LENGTH, search=search))
    assert made[0].build_index()
    return made[0], made[1]


def some_histories(users: int, events: int = 12) -> Histories:
    draw = np.random.default_rng(6)
    drawn = draw.integers(1, ITEMS + 1, (users, events))
    return Histories.from_lists(drawn.tolist())


@pytest.mark.parametrize("events", [1, 3, 12])
def test_nearly_all_of_the_ten_best_are_found(
    both: tuple[Recommender, Recommender], events: int
) -> None:
    indexed, exact = both
    index = indexed._search.index  # type: ignore[attr-defined]
    assert index.recall >= RECALL
    assert index.searched < index.lists / 3
    histories = some_histories(200, events)
    found, best = indexed.rank_many(histories, 10), exact.rank_many(histories, 10)
    hits = [np.isin(own, other).mean() for own, other in zip(found.ids, best.ids, strict=True)]
    assert np.mean(hits) >= RECALL
    same = found.ids == best.ids
    ratios = found.scores[same] / best.scores[same]
    assert np.sqrt(np.mean((ratios - 1) ** 2)) < 2 * MOST_ERROR


def test_filters_hold_exactly(both: tuple[Recommender, Recommender]) -> None:
    indexed, exact = both
    history = [f"i{number}" for number in some_histories(1)[0].tolist()]
    free = [one.item for one in exact.recommend(history, 30)]
    for filters in (
        Filters(deny=frozenset(free[:5])),
        Filters(categories=frozenset({"rare"})),
        Filters(allow=frozenset(free[3:6]) | {"i77"}),
        Filters(exclude_seen=False),
    ):
        for k in (10, 200):  # the latter is longer than the index answers
            got = [one.item for one in indexed.recommend(history, k, filters=filters)]
            assert got == [one.item for one in exact.recommend(history, k, filters=filters)]
    assert not {*free[:5]} & {
        one.item
        for one in indexed.recommend(history, 10, filters=Filters(deny=frozenset(free[:5])))
    }


def test_items_with_own_counts_are_candidates_wherever_they_are(
    both: tuple[Recommender, Recommender],
) -> None:
    indexed, exact = both
    counted = Histories.from_lists([[7, 4000], [7, 4000], [7, 11_000, 42]] * 5)
    transitions = TransitionCounts.of(counted, ITEMS, Memory(3, 0.5))
    lists = []
    for recommender in (indexed, exact):
        home = HomeModel(transitions, SoftmaxPrior(recommender._federated), 8.0)
        blended = Recommender(
            recommender.catalogue, recommender._federated, LENGTH, home, search=recommender._search
        )
        lists.append([one.item for one in blended.recommend(["i9", "i7"], 10)])
    assert {"i4000", "i11000", "i42"} <= set(lists[0])
    # The prior's share rests on the normaliser, which is estimated.
    assert len(set(lists[0]) & set(lists[1])) >= 9


def test_an_index_that_does_not_find_enough_is_not_used() -> None:
    model, catalogue = some_model(2 * some_features(ITEMS))
    search = ModelSearch(model)
    index = ItemIndex(ItemVectors(model))
    assert index.sound == (index.recall >= RECALL and index.error <= MOST_ERROR)
    assert not index.sound
    recommender = Recommender(catalogue, model.next_item_scores, LENGTH, search=search)
    assert not recommender.build_index()
    assert search._index is None
    assert len(recommender.recommend(["i1"], 10)) == 10
    assert math.isfinite(index.error)
