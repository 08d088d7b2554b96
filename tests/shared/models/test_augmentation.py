"""Histories cropped, masked and reordered: what is left of them, and what a user adds to a sum."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from client.compute.steps import LocalPlan
from client.compute.trainer import check_model
from shared.config import ModelConfig, ModelKind
from shared.models.attention import trainable
from shared.models.augmentation import Augmentation
from shared.models.dropout import Dropout
from shared.models.registry import build_recommender
from shared.privacy.clipping.clipping import PerUserClipping
from simulations.benchmarks.hostile_search import PLAN, excess
from tests.conftest import DESCRIBED, some_catalogue
from tests.tiny_encoder import WIDTH, text_catalogue

HISTORY = [4, 9, 2, 7, 5, 1, 8, 3, 6, 10]
TEXT = replace(DESCRIBED, kind=ModelKind.TEXT, text_width=WIDTH, text_blocks=2, lora_rank=2)


def augmented(events: Tensor, share: float, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return Augmentation(share).train()(events)


def test_each_operation_does_what_it_says_with_the_same_chance() -> None:
    events = torch.tensor([[*HISTORY, 0, 0]]).repeat(3000, 1)
    seen: Counter[str] = Counter()
    parts = {tuple(HISTORY[start : start + 7]) for start in range(4)}
    found: set[tuple[int, ...]] = set()
    for row in augmented(events, 0.3).tolist():
        left = [item for item in row if item]
        assert row[10:] == [0, 0]
        if len(left) == 10:
            assert sorted(left) == sorted(HISTORY)
            changed = [place for place in range(10) if left[place] != HISTORY[place]]
            assert not changed or changed[-1] - changed[0] < 3
            seen["reorder"] += 1
        elif row[7:] == [0] * 5 and tuple(left) in parts:
            found.add(tuple(left))
            seen["crop"] += 1
        else:
            assert len(left) == 7
            assert all(item in (0, own) for item, own in zip(row, HISTORY, strict=False))
            seen["mask"] += 1
    assert found == parts
    assert all(900 < count < 1100 for count in seen.values())


def test_it_is_off_by_default_in_evaluation_and_for_who_has_no_events() -> None:
    assert ModelConfig().augment == 0
    events = torch.tensor([HISTORY])
    assert torch.equal(Augmentation(0.5).eval()(events), events)
    assert torch.equal(augmented(events, 0.0), events)
    none = torch.zeros(50, 4, dtype=torch.int64)
    assert torch.equal(augmented(none, 0.9), none)
    assert augmented(torch.tensor([[3, 0, 0]]).repeat(50, 1), 0.4).sum() == 150


def test_it_follows_a_users_own_numbers_whatever_its_row() -> None:
    module, numbers = Augmentation(0.5).train(), torch.randint(0, 2**16, (3, 20)).int()
    events = torch.tensor([HISTORY, HISTORY, [*HISTORY[:4], *[0] * 6]])
    Dropout.give(module, numbers)
    together = module(events)
    for row in range(3):
        Dropout.give(module, numbers[row : row + 1])
        assert torch.equal(module(events[row : row + 1])[0], together[row])


def model_of(shape: ModelConfig) -> Any:  # noqa: ANN401 a recommender of either kind
    torch.manual_seed(1)
    catalogue = text_catalogue() if shape.kind is ModelKind.TEXT else some_catalogue()
    made = build_recommender(shape, catalogue)
    for weight in trainable(made).values():
        torch.nn.init.normal_(weight, std=0.3)
    return made.train()


@pytest.mark.parametrize("shape", [DESCRIBED, TEXT], ids=lambda shape: shape.kind)
def test_the_sensitivity_is_unchanged(shape: ModelConfig) -> None:
    """By brute force: clipped sums are those of single users, and nobody moves one beyond C."""
    model = model_of(replace(shape, augment=0.5)).double()
    events = torch.tensor([[3, 5, 1, 3, 2, 4], [7, 7, 2, 9, 0, 0], [1, 2, 8, 0, 0, 0]])
    masked = model.config.mask_numbers()
    assert masked >= Augmentation.numbers(6)
    numbers = torch.randint(0, 2**16, (3, masked)).int()
    weights = list(trainable(model).values())

    def losses(rows: slice) -> Tensor:
        Dropout.give(model, numbers[rows])
        found: Tensor = model.losses(events[rows], events[rows, :0])
        return found

    own = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(losses(slice(u, u + 1)).sum(), weights)]
        )
        for u in range(3)
    ]
    clip = float(torch.stack([part.norm() for part in own]).median())
    expected = torch.stack(
        [part * min(1.0, clip / max(float(part.norm()), 1e-9)) for part in own]
    ).sum(0)
    with PerUserClipping(model, clip) as clipping:
        clipping.zero_sums()
        clipping.backward(losses(slice(0, 3)))
        sums = torch.cat([clipping.sum_of(weight).flatten() for weight in weights])
    assert float((sums - expected).norm() / expected.norm()) < 1e-5

    fresh = model_of(replace(shape, augment=0.5))
    check_model(fresh, LocalPlan(population=9, noise_multiplier=1.0))
    found = excess(fresh, [[1, 2, 4, 5], [6, 6, 6], []], [3, 4, 5, 9, 8], PLAN)
    assert (found.others, found.finite) == (0, True)
    assert 0 < found.moved <= 1
    plain = model_of(shape)
    assert excess(plain, [[1, 2]], [3, 4, 5, 9, 8], PLAN).moved != found.moved  # it does augment
