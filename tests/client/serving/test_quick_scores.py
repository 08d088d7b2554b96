"""Quick scores are the exact ones where they say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import client.serving.quick_scores as module
from client.home.home_model import Memory, TransitionCounts
from client.home.store import save_home
from client.serving.quick_scores import QuickScores
from client.serving.recommender import Filters, Recommender
from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, build

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
def test_certified_scores_are_the_highest_in_their_exact_order(items: ItemRepresentation) -> None:
    model = random_model(items)
    quick = QuickScores(model)
    draw = np.random.default_rng(3)
    certified = []
    for length in (0, 1, 5, LENGTH, LENGTH + 3):
        rows = torch.from_numpy(draw.integers(1, ITEMS + 1, size=(1, max(1, length))))
        rows = rows if length else torch.zeros(1, 1, dtype=torch.int64)
        with torch.inference_mode():
            exact = model.next_item_scores(rows)
        scores = quick(rows)
        certified.append(quick.certified)
        best = exact.topk(quick.certified)
        torch.testing.assert_close(scores.topk(quick.certified).values, best.values)
        assert (scores - exact).abs().max() < 0.05 * exact.abs().max()
        totals = scores.logsumexp(1) - exact.logsumexp(1)
        assert abs(float(totals)) < 0.05
    assert min(certified) >= 50


def test_what_is_not_certified_is_scored_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, catalogue = random_model(ItemRepresentation.FEATURES), large_catalogue()
    model.save_pretrained(tmp_path / "model")
    catalogue.save(tmp_path / "catalogue")
    counts = Histories.from_lists([[1, 2, 3, 4], [4, 9, 2]] * 20)
    memory = Memory(3, 0.5)
    home = tmp_path / "home.safetensors"
    transitions = TransitionCounts.of(counts, ITEMS, memory)
    save_home(home, transitions, 8.0, None, catalogue.fingerprint)
    for file in (None, home):
        whole = Recommender.load(tmp_path, file)
        with monkeypatch.context() as patch:
            patch.setattr(module, "FEWEST_NUMBERS", 0)
            quick = Recommender.load(tmp_path, file)
        assert (whole._quick, quick._quick is None) == (None, False)
        asked: list[tuple[list[str], int, Filters]] = [
            (["i1", "i2"], 10, Filters()),
            (["i4"], 30, Filters(exclude_seen=False)),
            ([], 10, Filters(deny=frozenset({"i3", "i9"}))),
            (["i2"], 700, Filters()),  # more than can be certified
            (["i2", "i7"], 5, Filters(allow=frozenset(f"i{n}" for n in range(1, 99)))),
        ]
        for history, k, filters in asked:
            got = quick.recommend(history, k, filters=filters)
            expected = whole.recommend(history, k, filters=filters)
            assert [item.item for item in got] == [item.item for item in expected]
            np.testing.assert_allclose(
                [item.score for item in got], [item.score for item in expected], rtol=0.05
            )
