"""Queries in words: over both transports, with a home model and without, and where none is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from client.home.home_model import Memory, TransitionCounts
from client.serving.named_items import Filters
from client.serving.query_words import LONGEST_QUERY
from client.serving.recommender import Recommender
from client.serving.smoothed import load_recommender
from shared.config import ModelKind
from shared.data.histories import Histories
from shared.errors import RequestError
from shared.models.query import SHARES_SCALE, QueryRecommender
from shared.models.registry import build_recommender
from tests.client.serving.service.running import publish, running
from tests.conftest import DESCRIBED, ITEMS

if TYPE_CHECKING:
    from tests.conftest import Sites

SEEN = Filters(exclude_seen=False)


@pytest.fixture
def folder(sites: Sites, tmp_path: Path) -> Path:
    """A published model of the kind "query", drawn at random, with w = 0.5."""
    made = build_recommender(replace(DESCRIBED, kind=ModelKind.QUERY), sites.catalogue)
    assert isinstance(made, QueryRecommender)
    with torch.no_grad():
        for weight in (made.query_out.weight, made.feature_out.weight):
            weight.normal_(std=0.3)
        made.query_shares.weight.copy_(torch.tensor([[2.0], [0.5]]) / SHARES_SCALE)
    made.save_pretrained(tmp_path / "model")
    sites.catalogue.save(tmp_path / "catalogue")
    return tmp_path


def test_a_query_is_answered_over_both_transports_as_it_is_ranked(
    folder: Path, sites: Sites
) -> None:
    expected = Recommender.load(folder).for_query("I7 red").recommend(["i2", "i5"], 3)
    assert expected[0].item == "i7"
    plain = Recommender.load(folder).recommend(["i2", "i5"], 3)
    asked = {"history": {"items": ["i2", "i5"]}, "k": 3}
    with running(sites.make(users=5), folder) as served:
        for query, listed in (("I7 red", expected), (" ", plain)):
            over_grpc = served.ask(**asked, query=query).items
            over_http = served.post("/v1/recommend", asked | {"query": query}).json()["items"]
            assert [item.item for item in over_grpc] == [item.item for item in listed]
            assert [item["item"] for item in over_http] == [item.item for item in listed]
            assert [item.score for item in over_grpc] == pytest.approx([i.score for i in listed])
        declared = {"age": "25", "gender": "F"}
        own = Recommender.load(folder).for_query("I7 red", declared).recommend(["i2", "i5"], 3)
        assert [one.score for one in own] != [one.score for one in expected]
        for given in (declared, {"gender": " f", "age": "25", "city": ""}):
            over_grpc = served.ask(**asked, query="I7 red", attributes=given).items
            assert [one.score for one in over_grpc] == pytest.approx([one.score for one in own])
        body = asked | {"query": " ", "attributes": declared}
        over_http = served.post("/v1/recommend", body).json()["items"]
        assert [one["item"] for one in over_http] == [one.item for one in plain]
        both = [asked, asked | {"query": "i7 red"}]
        batch = served.post("/v1/recommend-batch", {"requests": both}).json()["responses"]
        assert [one["items"][0]["item"] for one in batch] == [plain[0].item, "i7"]
        for query, problem in (("?!", "no letter"), ("a" * (LONGEST_QUERY + 1), "1,001 char")):
            code, sentence = served.refused(**asked, query=query)
            assert code == "INVALID_ARGUMENT"
            assert problem in sentence


def test_the_users_part_is_whatever_is_shown_without_a_query(folder: Path, sites: Sites) -> None:
    """p^w times what the words say, also where p has own counts, or is smoothed."""
    plain = Recommender.load(folder)
    counts = TransitionCounts.of(Histories.from_lists([[2, 9]]), ITEMS, Memory(1, 1.0))
    counted = plain.with_counts(counts, 0.1)
    for recommender in (plain, counted, load_recommender(folder, samples=3)):
        shown = recommender.recommend(["i2"], ITEMS, filters=SEEN)
        asked = recommender.for_query("i7").recommend(["i2"], ITEMS, filters=SEEN, explain=True)
        p, s = ({one.item: one.score for one in listed} for listed in (shown, asked))
        words = Recommender.load(folder)._words
        assert words is not None
        evidence, weight = words("i7")
        assert weight == pytest.approx(0.5)
        names = [f"i{number}" for number in range(1, ITEMS + 1)]
        expected = np.array([p[name] ** 0.5 for name in names]) * np.exp(evidence.numpy())
        found = np.array([s[name] for name in names])
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-3)
        assert sum(s.values()) == pytest.approx(1, abs=1e-4)
        reason = asked[0].explanation
        assert reason is not None
        assert reason.sentence.startswith("because it fits 'i7'")
        assert reason.score == pytest.approx(asked[0].score, rel=1e-3)


def test_a_model_that_reads_no_queries_says_so(sites: Sites, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="reads no queries"):
        Recommender.load(publish(sites, tmp_path)).for_query("i7")
