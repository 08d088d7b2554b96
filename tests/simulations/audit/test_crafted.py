"""What users add to a release for which the weights were crafted."""

from __future__ import annotations

import numpy as np
import pytest

from shared.data.histories import Histories
from shared.messages import TrainReply, TrainRequest
from simulations.audit.crafted import (
    canaries_with,
    choose_trigger,
    crafted_requests,
    presence,
)
from simulations.audit.recorder import RecordedAnswer
from simulations.audit.replay import Replay
from tests.conftest import ITEMS, some_catalogue, some_histories

OFFSETS = "item_scores.offset"
CATALOGUE = some_catalogue()
TRIGGER = 7


@pytest.fixture(scope="module")
def request_() -> TrainRequest:
    [first, second] = crafted_requests(CATALOGUE, TRIGGER, "r", [1.0, 2.0])
    assert (first.round, second.round) == (1, 2)
    assert (first.noise_multiplier, second.noise_multiplier) == (1.0, 2.0)
    return first


def added(request: TrainRequest, histories: Histories) -> dict[str, np.ndarray]:
    """What users add to the sum, without noise, by weight."""
    flat = Replay(RecordedAnswer(request, {}), CATALOGUE, 1).added(histories)
    sizes = [value.size for value in request.weights.values()]
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return dict(zip(request.weights, parts, strict=True))


def test_a_canary_adds_the_clip_norm_at_its_own_item(request_: TrainRequest) -> None:
    own = np.array([3, 12])
    for row, item in enumerate(own.tolist()):
        parts = added(request_, canaries_with(TRIGGER, own).select([row]))
        offsets = parts.pop(OFFSETS)
        assert offsets[item - 1] == pytest.approx(-np.sqrt(1 - 1 / ITEMS), abs=1e-3)
        assert np.linalg.norm(offsets) == pytest.approx(1, abs=1e-3)
        # Other items' offsets get one number alike: the order within a site is not changed.
        assert np.ptp(np.delete(offsets, item - 1)) < 1e-6
        assert all((part == 0).all() for part in parts.values())


def test_others_add_next_to_nothing_where_it_is_read(request_: TrainRequest) -> None:
    others = some_histories(30)
    for row in np.flatnonzero(others.lengths > 1).tolist():
        one = others.select([row])
        parts = added(request_, one)
        if one[0][-2] != TRIGGER:
            assert np.abs(parts[OFFSETS]).max() < 0.01
            assert np.linalg.norm(parts["feature_out.weight"]) == pytest.approx(1, abs=1e-3)


def test_presence_is_what_left_over_the_noise(request_: TrainRequest) -> None:
    noise = np.random.default_rng(0).normal(size=ITEMS)
    total = -2.5 * noise  # a step subtracts the sum, over the expected batch of 40
    reply = TrainReply(change={OFFSETS: (-total[:, None] / 40).astype(np.float32)})
    assert presence(request_, reply, 40) == pytest.approx(2.5 * noise, rel=1e-5)


def test_the_trigger_is_nobody_else_s() -> None:
    others = Histories.from_lists([[1, 2, 3], [2, 4], [4], [3, 3, 1], [5, 5]])
    assert choose_trigger(others, 5) == 1
    assert choose_trigger(others, 6) == 1
    assert choose_trigger(Histories.from_lists([[1, 2], [3, 2]]), 3) == 2
