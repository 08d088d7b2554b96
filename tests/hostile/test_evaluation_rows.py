"""A user's scores in an evaluation do not depend on its row among other users."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.compute.evaluation import _checked_rows, _scores
from shared.models.attention import AttentionRecommender, trainable
from shared.models.attention_config import AttentionConfig
from shared.privacy.clipping.layers import linear_maps_by_user

SHAPES = [
    (5, 14, 2, 15),
    (100, 6, 3, 16),
    (5, 4, 2, 8),
    (2, 21, 3, 16),
    (5, 9, 3, 31),
    (3, 14, 2, 1),
]
"""Items, width, heads and length where a check of one invented user passed with 64 rows, and random
weights gave other bits by row."""


@pytest.mark.parametrize(("items", "width", "heads", "length"), SHAPES)
def test_scores_are_the_same_bits_in_any_row(
    items: int, width: int, heads: int, length: int
) -> None:
    config = AttentionConfig(
        items=items, hidden_size=width, heads=heads, max_length=length, dropout=0.0
    )
    model, random = AttentionRecommender(config), np.random.default_rng(1)
    model.train(mode=False)
    rows = _checked_rows(model)
    users = torch.from_numpy(random.integers(1, items + 1, (2 * rows, length)))
    with torch.no_grad(), linear_maps_by_user(model):
        for _ in range(10):
            for weight in trainable(model).values():
                weight.copy_(torch.from_numpy(random.standard_normal(tuple(weight.shape))))
            scores = torch.cat([_scores(model, part) for part in users.split(rows)])
            shifted = torch.cat([_scores(model, part) for part in users.roll(1, 0).split(rows)])
            assert torch.equal(scores.roll(1, 0), shifted)
