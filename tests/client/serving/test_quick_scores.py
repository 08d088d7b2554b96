"""Lists from a table of bytes are those of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import client.serving.quick_scores as module
from client.home.home_model import Memory, TransitionCounts
from client.serving.candidates import best_items
from client.serving.item_vectors import ItemVectors, Query
from client.serving.named_items import Filters
from client.serving.quick_scores import ByteTable, ModelSearch
from client.serving.recommender import Recommender
from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, build
from tests.client.home.stored import save_counts

ITEMS, LENGTH = 25_000, 8


def large_catalogue() -> Catalogue:
    names = tuple(f"i{number}" for number in range(1, ITEMS + 1))
    features = torch.randn(ITEMS, 16, generator=torch.Generator().manual_seed(2))
    return Catalogue(names, names, ((),) * ITEMS, (None,) * ITEMS, features)


def random_model(items: ItemRepresentation) -> AttentionRecommender:
    own = () if items is ItemRepresentation.IDS else tuple(range(1, 30))
    if items is ItemRepresentation.FEATURES:
        config = ModelConfig(items=items, feature_size=16, own_items=own, max_length=LENGTH)
    else:
        config = ModelConfig(
            items=items,
            feature_size=16,
            own_items=own,
            max_length=LENGTH,
            hidden_size=16,
            heads=2,
            trained=Trained.ALL,
        )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build(config, large_catalogue())
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
    model.train(False)
    return model


@pytest.mark.parametrize("items", list(ItemRepresentation))
@pytest.mark.parametrize("fewest", [0, 2**40])
def test_the_best_items_are_those_of_the_model(
    items: ItemRepresentation, fewest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEWEST_NUMBERS", fewest)
    model = random_model(items)
    search, draw = ModelSearch(model), np.random.default_rng(3)
    for length in (0, 1, 5, LENGTH, LENGTH + 3):
        for users in (1, 5):
            rows = torch.from_numpy(draw.integers(1, ITEMS + 1, size=(users, max(1, length))))
            rows = rows if length else torch.zeros(users, 1, dtype=torch.int64)
            with torch.inference_mode():
                exact = model.next_item_scores(rows)
            for scores, expected in zip(search(rows), exact, strict=True):
                seen = expected.topk(2).indices.numpy()
                chances = expected.double().softmax(0)
                order = expected.argsort(descending=True, stable=True).numpy()
                columns, values = best_items(scores, 40, mask=None, seen=seen)
                assert columns.tolist() == order[2:42].tolist()
                np.testing.assert_allclose(values, chances[columns], rtol=2e-3)


def test_approximate_scores_are_off_by_no_more_than_is_said() -> None:
    for items in ItemRepresentation:
        vectors = ItemVectors(random_model(items))
        table, draw = ByteTable(vectors), np.random.default_rng(5)
        for scale in (1e-3, 1.0, 50.0):
            rows = torch.from_numpy(draw.integers(1, ITEMS + 1, size=(1, LENGTH)))
            [query] = vectors.queries(rows)
            wide = np.float32(scale) * (1 + np.arange(len(query.vector), dtype=np.float32))
            query = Query(query.vector * wide, query.own)
            rough, off = table.scores(query)
            [exact] = vectors.scores([query])
            assert float((rough - exact).abs().max()) <= off
            assert off < 0.2 * float(exact.std()) * len(query.vector) ** 0.5


def test_lists_are_those_of_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, catalogue = random_model(ItemRepresentation.FEATURES), large_catalogue()
    model.save_pretrained(tmp_path / "model")
    catalogue.save(tmp_path / "catalogue")
    counts = Histories.from_lists([[1, 2, 3, 4], [4, 9, 2]] * 20)
    memory = Memory(3, 0.5)
    home = tmp_path / "home.safetensors"
    transitions = TransitionCounts.of(counts, ITEMS, memory)
    save_counts(home, transitions, 8.0, catalogue.fingerprint)
    for file in (None, home):
        whole = Recommender.load(tmp_path, file)
        with monkeypatch.context() as patch:
            patch.setattr(module, "FEWEST_NUMBERS", 0)
            quick = Recommender.load(tmp_path, file)
        for one, there in ((whole, False), (quick, True)):
            if file is None:
                assert isinstance(one._search, ModelSearch)
                assert (one._search._bytes is not None) == there
        asked: list[tuple[list[str], int, Filters]] = [
            (["i1", "i2"], 10, Filters()),
            (["i4"], 30, Filters(exclude_seen=False)),
            ([], 10, Filters(deny=frozenset({"i3", "i9"}))),
            (["i2"], 700, Filters()),  # more than are computed again at first
            (["i2", "i7"], 5, Filters(allow=frozenset(f"i{n}" for n in range(1, 99)))),
        ]
        for history, k, filters in asked:
            got = quick.recommend(history, k, filters=filters)
            expected = whole.recommend(history, k, filters=filters)
            assert [item.item for item in got] == [item.item for item in expected]
            np.testing.assert_allclose(
                [item.score for item in got], [item.score for item in expected], rtol=1e-3
            )
