"""The adjusted loss is the plain one of other offsets; places of items by popularity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from shared.models.attention import AttentionRecommender, build
from shared.models.item_scores import ItemScores
from shared.models.popularity import adjust_logits, popularity_ranks
from tests.conftest import DESCRIBED, ITEMS, some_catalogue

POPULARITY = torch.arange(1, ITEMS + 1, dtype=torch.float32).flip(0)  # item 1 is the most popular


def made() -> AttentionRecommender:
    torch.manual_seed(0)
    model = build(DESCRIBED, some_catalogue())
    offset = model.item_scores.offset
    assert offset is not None
    with torch.no_grad():
        offset.copy_((POPULARITY.log() / ItemScores.OFFSET_SCALE)[:, None])
    return model


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_training_by_the_adjusted_loss_is_training_the_plain_scores(strength: float) -> None:
    """A step by f + τ log π, and then f; or a step by g, and then g less τ log π: the same f."""
    prior = strength * torch.log_softmax(POPULARITY.log(), 0)
    histories, targets = torch.tensor([[1, 5, 9, 0], [3, 3, 0, 0]]), torch.tensor([6, 2])

    def stepped(model: AttentionRecommender, added: torch.Tensor) -> list[torch.Tensor]:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        F.cross_entropy(model.next_item_scores(histories) + added, targets).backward()
        optimiser.step()
        return [p.detach().clone() for p in model.parameters()]

    plain = made()
    of_plain = stepped(plain, torch.zeros(ITEMS))
    adjusted = made()
    with torch.no_grad():
        adjusted.item_scores.offset.sub_((prior / ItemScores.OFFSET_SCALE)[:, None])  # type: ignore[union-attr]
    of_adjusted = stepped(adjusted, prior)
    for name, one, other in zip(dict(plain.named_parameters()), of_plain, of_adjusted, strict=True):
        taken = (prior / ItemScores.OFFSET_SCALE)[:, None] if "offset" in name else 0.0
        assert torch.allclose(one, other + taken, atol=1e-6), name


def test_the_adjusted_scores_lack_that_share_of_popularity() -> None:
    histories = torch.tensor([[1, 2, 3]])
    before, model = made().next_item_scores(histories), made()
    adjust_logits(model, 0.25)
    taken = before - model.next_item_scores(histories)
    assert torch.allclose(taken[0], 0.25 * POPULARITY.log(), atol=1e-5)
    unchanged = made()
    adjust_logits(unchanged, 0.0)
    assert torch.equal(unchanged.next_item_scores(histories), before)


def test_places_are_by_share_of_all_events() -> None:
    places = popularity_ranks(made())
    shares = (POPULARITY / POPULARITY.sum()).double().numpy()
    assert places == pytest.approx(np.cumsum(shares) - shares / 2, abs=1e-6)
    assert (np.diff(places) > 0).all()
    assert places[0] > 0
    assert places[-1] < 1
