"""Curves against counting, and familiarity where it is known who is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from shared.config import ItemRepresentation, ModelConfig, Trained
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, build
from simulations.audit.membership import familiarity, roc_of
from tests.conftest import some_catalogue


def test_the_curve_is_what_counting_over_thresholds_gives() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 40) / 1.0, rng.integers(-2, 7, 30) / 1.0
    found = roc_of(members, others, 0.95)
    points = set(zip(found.false_positives.tolist(), found.true_positives.tolist(), strict=True))
    for threshold in range(-3, 11):
        point = float((others > threshold).mean()), float((members > threshold).mean())
        assert point in points
    pairs = members[:, None] - others
    assert found.area == pytest.approx(float(((pairs > 0) + 0.5 * (pairs == 0)).mean()))
    assert found.area_interval[0] < found.area < found.area_interval[1]
    assert (found.members, found.others) == (40, 30)


def test_the_rate_at_a_false_positive_rate_stays_below_it() -> None:
    members, others = np.arange(100) / 100 + 0.305, np.arange(100) / 100
    found = roc_of(members, others, 0.9)
    rate, low, high = found.at(0.05, 0.9)
    # A threshold of .945 leaves 5 of 100 others above it, and every member from .95 on.
    assert rate == float((members > 0.945).mean())
    assert low < rate < high
    strict = found.at(0.001, 0.9)[0]
    assert strict == float((members > 0.99).mean())


def test_the_area_s_interval_holds_as_often_as_promised() -> None:
    rng, outside = np.random.default_rng(1), 0
    truth = float(norm.cdf(0.5 / np.sqrt(2)))
    for _ in range(200):
        low, high = roc_of(rng.normal(size=60) + 0.5, rng.normal(size=80), 0.9).area_interval
        outside += not low <= truth <= high
    assert outside <= 36  # 10% of 200, and 3.8 deviations


@pytest.fixture
def follower() -> AttentionRecommender:
    """Expects after an item the next one in the catalogue."""
    catalogue: Catalogue = some_catalogue(12)
    model = build(
        ModelConfig(
            items=ItemRepresentation.IDS,
            hidden_size=12,
            heads=1,
            layers=1,
            tied=False,
            trained=Trained.ALL,
        ),
        catalogue,
    )
    with torch.no_grad():
        model.position.weight.zero_()
        model.item.weight.copy_(torch.eye(12))
        model.item_out.weight.copy_(5 * torch.eye(12).roll(1, dims=0))
        for name, weight in model.named_parameters():
            if name.endswith(("attention.out.weight", "feed.2.weight")):
                weight.zero_()
    return model


def test_who_does_what_the_model_expects_is_familiar(follower: AttentionRecommender) -> None:
    known = [[start, start % 12 + 1, (start + 1) % 12 + 1] for start in range(1, 13)]
    strange = [[start, (start + 4) % 12 + 1, (start + 9) % 12 + 1] for start in range(1, 13)]
    scores = familiarity(follower, Histories.from_lists(known + strange), seed=0)
    assert scores[:12].min() > 1
    assert scores[12:].max() < scores[:12].min() - 1


def test_what_everybody_chooses_is_no_sign(follower: AttentionRecommender) -> None:
    """The same history for all: every past is like one's own, and nobody stands out."""
    scores = familiarity(follower, Histories.from_lists([[3, 4]] * 30), seed=0)
    assert scores == pytest.approx(np.zeros(30), abs=1e-5)


def test_users_with_one_event_are_not_scored(follower: AttentionRecommender) -> None:
    scores = familiarity(follower, Histories.from_lists([[3], [1, 2], []]), seed=0)
    assert scores[0] == scores[2] == 0


def test_scores_do_not_depend_on_the_batches_of_others_beyond_noise(
    follower: AttentionRecommender,
) -> None:
    lists = [[i % 12 + 1, (i + 1) % 12 + 1] for i in range(150)]
    one = familiarity(follower, Histories.from_lists(lists), seed=0)
    again = familiarity(follower, Histories.from_lists(lists), seed=0)
    other = familiarity(follower, Histories.from_lists(lists), seed=5)
    assert (one == again).all()
    assert one.mean() == pytest.approx(other.mean(), rel=0.2)
