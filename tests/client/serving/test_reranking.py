"""Recommended lists in another order: filters hold, and each item says where it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import client.serving.recommender as module
from client.serving import probabilities
from client.serving.named_items import Filters
from client.serving.recommender import Recommender
from shared.errors import ConfigError
from shared.rerank.minimum_exposure import rare_items
from shared.rerank.reranker import ItemTraits
from shared.rerank.settings import By, Method, RerankConfig
from tests.client.serving.test_recommender import (
    ITEMS,
    KINDS,
    WINDOW,
    federated,
    ids,
    made,
    titled_catalogue,
)

STRONG = [
    RerankConfig(method=Method.CALIBRATED, strength=0.9),
    RerankConfig(method=Method.DIVERSE, strength=0.8),
    RerankConfig(method=Method.EXPOSURE, strength=0.5, candidates=3),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rerank", STRONG, ids=str)
def test_filters_hold_and_each_item_says_where_it_was(kind: str, rerank: RerankConfig) -> None:
    recommender, history = made(kind), ids(3, 7, 7)
    filters = Filters(deny=frozenset(ids(2, 5)), categories=frozenset({"odd"}))
    plain = recommender.recommend(history, ITEMS, filters=filters)
    listed = recommender.recommend(history, 4, filters=filters, rerank=rerank)
    places = {one.item: one for one in plain}
    assert len({one.item for one in listed}) == 4
    for rank, one in enumerate(listed, start=1):
        assert one.rank == rank
        assert one.score == pytest.approx(places[one.item].score)
        assert one.before in (places[one.item].rank, 0)
        assert one.before != 0 or places[one.item].rank > max(4, rerank.candidates)
    again = recommender.recommend(history, 4, filters=filters, rerank=rerank)
    assert [one.item for one in again] == [one.item for one in listed]
    allowed = Filters(allow=frozenset(ids(1, 9, 12)), exclude_seen=False)
    few = recommender.recommend(history, 10, filters=allowed, rerank=rerank)
    assert {one.item for one in few} == set(ids(1, 9, 12))  # all that there are, once each


def test_without_a_method_or_strength_nothing_changes() -> None:
    recommender, history = made("counts"), ids(3, 7)
    plain = recommender.recommend(history, 5)
    assert plain[0].before is None
    for same in ("none", RerankConfig(method=Method.DIVERSE, strength=0.0), None):
        assert recommender.recommend(history, 5, rerank=same) == plain


def test_rare_items_have_their_places_wherever_their_scores_are() -> None:
    recommender = made()
    rare = rare_items(ItemTraits.of(titled_catalogue(), federated).popularity, 5)
    everything = replace(STRONG[2], strength=1.0)
    for one in recommender.recommend(ids(4), 5, rerank=everything):
        assert rare[int(one.item[1:]) - 1]


def test_lists_of_many_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (module, probabilities):
        monkeypatch.setattr(place, "MOST_ROWS", 3)
    recommender = made("counts")
    histories = [ids(*np.random.default_rng(n).integers(1, 21, n % 6)) for n in range(8)]
    for rerank in STRONG:
        together = list(recommender.recommend_each(histories, 4, rerank=rerank))
        alone = [recommender.recommend(one, 4, rerank=rerank) for one in histories]
        assert [[x.item for x in one] for one in together] == [
            [x.item for x in one] for one in alone
        ]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rerank\.method = 'best'"):
        made().recommend(ids(1), 3, rerank="best")
    bare = replace(titled_catalogue(), genres=((),) * ITEMS)
    with pytest.raises(ConfigError, match="no item of the catalogue has a genre"):
        Recommender(bare, federated, WINDOW).recommend([], 3, rerank="calibrated")
    by_popularity = RerankConfig(method=Method.CALIBRATED, by=By.POPULARITY)
    assert len(Recommender(bare, federated, WINDOW).recommend(ids(1), 3, rerank=by_popularity)) == 3
