"""A model that reads few events is trained: its check of clipping asks for no more."""

from __future__ import annotations

import pytest

from client.compute.trainer import train
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender
from shared.models.attention_config import AttentionConfig
from shared.privacy.noise import SystemRandom
from simulations.benchmarks.hostile_search import PLAN


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_short_model_does_not_fail_after_the_charge(length: int) -> None:
    config = AttentionConfig(items=9, hidden_size=8, max_length=length, dropout=0.0)
    histories = Histories.from_lists([[1, 2, 3], [4, 5]])
    change = train(AttentionRecommender(config), histories, PLAN, SystemRandom())
    assert all(value.isfinite().all() for value in change.values())
