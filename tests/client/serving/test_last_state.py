"""The state in numpy is the model's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.serving.last_state import LastState
from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.models.attention import build
from tests.conftest import DESCRIBED, some_catalogue

ITEMS, WINDOW = 20, 6


@pytest.mark.parametrize(
    ("items", "trained"),
    [
        *((items, Trained.ALL) for items in ItemRepresentation),
        (ItemRepresentation.FEATURES, Trained.ATTENTION),
    ],
)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("feeds", [True, False])
def test_the_state_is_the_models(
    items: ItemRepresentation, trained: Trained, heads: int, feeds: bool
) -> None:
    described = items is not ItemRepresentation.IDS
    config = ModelConfig(
        items=items,
        feature_size=DESCRIBED.feature_size,
        own_items=(2, 5) if described else (),
        hidden_size=8,
        heads=heads,
        max_length=WINDOW,
        trained=trained,
        attention_size=3,
    )
    torch.manual_seed(3)
    model = build(config, some_catalogue())
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)
    if not feeds:
        for name, weight in model.named_parameters():
            if ".feed.2." in name:
                weight.data.zero_()
    model.train(False)
    state, draw = LastState(model), np.random.default_rng(1)
    assert (state._feed is not None) == feeds
    for length in (0, 1, 3, WINDOW, WINDOW + 4):
        history = draw.integers(1, ITEMS + 1, size=length)
        row = torch.from_numpy(history)[None] if length else torch.zeros(1, 1, dtype=torch.int64)
        with torch.inference_mode():
            expected = model.last_states(row)[0].numpy()
        np.testing.assert_allclose(state(history), expected, rtol=2e-4, atol=2e-5)
