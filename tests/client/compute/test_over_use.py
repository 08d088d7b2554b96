"""One site's steps: clipped exactly, of each user alone, with the noise they say."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.compute.over_use import check_model, gradient_points, train
from client.compute.steps import LocalPlan
from shared.config import Trust
from shared.errors import ClippingError
from shared.over_use.examples import Examples
from shared.over_use.model import OverUseConfig, OverUseModel, loss_per_user
from shared.over_use.sessions import FEATURES, SessionRule, Sessions
from shared.privacy.distributed_noise import GRID_BITS, share_deviation
from shared.privacy.noise import SeededRandom

USERS, PLACES, CLIP = 20, 3, 0.5
PLAN = LocalPlan(population=USERS, clip_norm=CLIP, noise_multiplier=1.0)
SHARE = replace(PLAN, trust=Trust.SECURE_AGGREGATION)


class NoNoise(SeededRandom):
    """Draws everybody, and the same noise whoever is drawn: none of a normal one."""

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
    return examples.of(np.array(users, np.int64))


def points(model: OverUseModel, examples: Examples, plan: LocalPlan = SHARE) -> NDArray[np.int64]:
    """The sum on the grid, less the noise, which is the same with and without anybody."""
    noise = gradient_points(model, some(examples, []), plan, NoNoise(0))
    return gradient_points(model, examples, plan, NoNoise(0)) - noise


def clipped_one_by_one(model: OverUseModel, examples: Examples) -> tuple[NDArray[np.float64], int]:
    """Brute force: a backward pass for each user by itself; and how many were clipped."""
    weights, clipped = dict(sorted(model.named_parameters())), 0
    total = np.zeros(sum(p.numel() for p in weights.values()))
    for user in range(len(examples)):
        own = some(examples, [user])
        logits = model(torch.from_numpy(own.sessions.features), torch.from_numpy(own.sessions.mask))
        loss = loss_per_user(logits, torch.from_numpy(own.labels), torch.ones(1)).sum()
        parts = torch.autograd.grad(loss, list(weights.values()))
        gradient = torch.cat([part.flatten() for part in parts]).double().numpy()
        norm = float(np.linalg.norm(gradient))
        clipped += norm > CLIP
        total += gradient * min(1.0, CLIP / norm)
    return total, clipped


def test_the_sum_is_that_of_gradients_clipped_one_by_one(
    model: OverUseModel, examples: Examples
) -> None:
    expected, clipped = clipped_one_by_one(model, examples)
    assert 0 < clipped < USERS
    found = points(model, examples) * (CLIP / 2**GRID_BITS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    plan = replace(PLAN, learning_rate=0.5)
    change = train(copy.deepcopy(model), examples, plan, NoNoise(0))
    step = np.concatenate([change[name].flatten().numpy() for name in sorted(change)])
    np.testing.assert_allclose(step, -0.5 * expected / USERS, atol=1e-6)


@pytest.mark.parametrize("others", [[], [0], list(range(9))])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_what_a_user_adds_is_the_same_bits_among_any_others(
    model: OverUseModel, examples: Examples, others: list[int], scale: float
) -> None:
    """Also with the largest weights that a coordinator may send."""
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    plan = replace(SHARE, population=8)  # so that some users are in a second batch
    with_user = points(model, some(examples, [*others, 15]), plan)
    alone = points(model, some(examples, [15]), plan)
    np.testing.assert_array_equal(with_user - points(model, some(examples, others), plan), alone)
    assert 0 < np.linalg.norm(alone * (CLIP / 2**GRID_BITS)) <= CLIP * (1 + 1e-7)


def test_an_empty_sample_is_noised_like_any_other(model: OverUseModel, examples: Examples) -> None:
    change = train(copy.deepcopy(model), examples, PLAN, Nobody(1))
    noise = torch.cat([value.flatten() for value in change.values()])
    assert float(noise.std()) == pytest.approx(CLIP / USERS, rel=0.3)
    share = gradient_points(model, examples, SHARE, Nobody(1))
    assert share.shape == (sum(p.numel() for p in model.parameters()),)
    assert share.std() == pytest.approx(share_deviation(1.0), rel=0.3)


def test_without_noise_a_step_is_the_plain_gradient(
    model: OverUseModel, examples: Examples
) -> None:
    plan, before = replace(PLAN, noise_multiplier=0.0), copy.deepcopy(model)
    logits = before(
        torch.from_numpy(examples.sessions.features), torch.from_numpy(examples.sessions.mask)
    )
    labels = torch.from_numpy(examples.labels)
    (loss_per_user(logits, labels, torch.ones(USERS)).sum() / USERS).backward()
    change = train(model, examples, plan, NoNoise(0))
    for name, p in before.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(change[name], -p.grad, rtol=1e-4, atol=1e-6)


def test_a_model_that_mixes_users_is_refused(model: OverUseModel) -> None:
    class Mixed(OverUseModel):
        def forward(self, features: Tensor, mask: Tensor) -> Tensor:
            logits: Tensor = super().forward(features, mask)
            return logits - logits.mean()

    mixed = Mixed(replace(model.config, hidden_size=3))
    with pytest.raises(ClippingError):
        check_model(mixed, PLAN)
