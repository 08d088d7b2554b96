"""One site's noised gradient: clipped exactly, of each user alone, with the noise it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.compute.over_use import (
    Examples,
    OverUsePlan,
    check_model,
    gradient_points,
    gradient_sum,
)
from shared.config import Trust
from shared.errors import ClippingError
from shared.over_use.model import OverUseConfig, OverUseModel, loss_per_user
from shared.over_use.sessions import FEATURES, SessionRule, Sessions
from shared.privacy.distributed_noise import share_deviation
from shared.privacy.noise import SeededRandom

USERS, PLACES, CLIP = 20, 3, 0.5
PLAN = OverUsePlan(population=USERS, sample_rate=1.0, clip_norm=CLIP, noise_multiplier=1.0)


class NoNoise(SeededRandom):
    """Draws everybody, and no noise."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return np.zeros(count)


class Nobody(SeededRandom):
    """Draws nobody."""

    def uniform(self, count: int) -> NDArray[np.float64]:
        return np.ones(count)


@pytest.fixture
def model() -> OverUseModel:
    torch.manual_seed(0)
    one = OverUseModel(OverUseConfig(rule=SessionRule(sessions=PLACES), hidden_size=4))
    for p in one.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return one


@pytest.fixture
def examples() -> Examples:
    random = np.random.default_rng(2)
    mask = np.arange(PLACES) < random.integers(0, PLACES + 1, (USERS, 1))
    features = random.uniform(-1, 1, (USERS, PLACES, len(FEATURES))).astype(np.float32)
    labels = random.random(USERS) < 0.3
    return Examples(Sessions(features * mask[..., None], mask), labels)


def some(examples: Examples, users: list[int]) -> Examples:
    rows = np.array(users, np.int64)
    return Examples(examples.sessions.of(rows), examples.labels[rows])


def test_the_sum_is_that_of_gradients_clipped_one_by_one(
    model: OverUseModel, examples: Examples
) -> None:
    """Brute force: a backward pass for each user by itself."""
    weights = dict(model.named_parameters())
    expected = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in weights.items()}
    clipped = 0
    for user in range(USERS):
        own = some(examples, [user])
        logits = model(torch.from_numpy(own.sessions.features), torch.from_numpy(own.sessions.mask))
        loss = loss_per_user(logits, torch.from_numpy(own.labels), torch.ones(1)).sum()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        norm = float(torch.cat([g.flatten() for g in gradients]).double().norm())
        clipped += norm > CLIP
        for name, gradient in zip(weights, gradients, strict=True):
            expected[name] += gradient.double() * min(1.0, CLIP / norm)
    assert 0 < clipped < USERS
    found = gradient_sum(model, examples, PLAN, NoNoise(0))
    for name, total in found.items():
        torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("others", [[], [0], list(range(9))])
def test_what_a_user_adds_is_the_same_bits_among_any_others(
    model: OverUseModel, examples: Examples, others: list[int]
) -> None:
    plan = replace(PLAN, population=8)  # so that some users are in a second batch
    with_user = gradient_sum(model, some(examples, [*others, 15]), plan, NoNoise(0))
    without = gradient_sum(model, some(examples, others), plan, NoNoise(0))
    alone = gradient_sum(model, some(examples, [15]), plan, NoNoise(0))
    added = {name: with_user[name] - without[name] for name in alone}
    for name, value in alone.items():
        assert torch.equal(added[name], value)
    length = torch.cat([value.flatten() for value in added.values()]).norm()
    assert 0 < length <= CLIP * (1 + 1e-9)


def test_an_empty_sample_is_noised_like_any_other(model: OverUseModel, examples: Examples) -> None:
    noise = torch.cat(
        [v.flatten() for v in gradient_sum(model, examples, PLAN, Nobody(1)).values()]
    )
    assert float(noise.std()) == pytest.approx(CLIP, rel=0.3)
    share = replace(PLAN, trust=Trust.SECURE_AGGREGATION)
    points = gradient_points(model, examples, share, Nobody(1))
    assert points.shape == (sum(p.numel() for p in model.parameters()),)
    assert points.std() == pytest.approx(share_deviation(1.0), rel=0.3)


def test_a_model_that_mixes_users_is_refused(model: OverUseModel) -> None:
    class Mixed(OverUseModel):
        def forward(self, features: Tensor, mask: Tensor) -> Tensor:
            logits: Tensor = super().forward(features, mask)
            return logits - logits.mean()

    mixed = Mixed(replace(model.config, hidden_size=3))
    with pytest.raises(ClippingError):
        check_model(mixed, PLAN)
