"""The kind "social": its formula, its start, and that friends move two numbers and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from client.compute.steps import LocalPlan
from client.compute.trainer import check_model
from shared.config import ModelConfig, ModelKind, PrivacyConfig, RunConfig, Trained, TrainingConfig
from shared.errors import ConfigError
from shared.models.attention import trainable
from shared.models.registry import build_recommender
from shared.models.social import UNITS, SocialRecommender
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.linked import LINKED_SHARE
from tests.conftest import DESCRIBED, ITEMS, some_catalogue

SOCIAL = replace(DESCRIBED, kind=ModelKind.SOCIAL, friends=3)
EVENTS = torch.tensor([[3, 5, 1, 9, 2], [7, 7, 2, 0, 0], [1, 2, 0, 0, 0], [6, 0, 0, 0, 0]])
NOBODY = torch.zeros(4, 0, dtype=torch.int64)
SHARES = "friend_shares.weight"


def made(model: ModelConfig = SOCIAL, *, drawn: bool = True) -> SocialRecommender:
    """A model whose trained weights are random, or as it starts."""
    torch.manual_seed(1)
    built = build_recommender(model, some_catalogue())
    assert isinstance(built, SocialRecommender)
    if drawn:
        for name, weight in trainable(built).items():
            torch.nn.init.normal_(weight, std=0.01 if name == SHARES else 0.3)
    return built


def some_friends(model: SocialRecommender) -> tuple[Tensor, ...]:
    """Friends of four users; the second one has one friend, the third one none."""
    histories, weights, chosen = model.invented_beside(4, 4, seed=3)
    weights[1, 1:] = 0
    weights[2] = 0
    return histories, weights, chosen * (weights > 0)[:, None]


def test_the_loss_is_that_of_the_formula() -> None:
    model = made().double().eval()
    histories, weights, chosen = some_friends(model)
    nobody = model.last_states(torch.zeros(1, 1, dtype=torch.int64))[0]
    found = model.friend_losses(EVENTS, histories, weights, chosen)
    logit, beta = (torch.tensor(UNITS) * model.friend_shares.weight[:, 0]).tolist()
    alpha = 1 / (1 + np.exp(-logit))
    assert (model.alpha, model.beta) == pytest.approx((alpha, beta))
    for user, events in ((0, [3, 5, 1, 9, 2]), (1, [7, 7, 2])):
        losses = []
        for place in range(1, len(events)):
            past = torch.tensor([events[:place]])
            own = model.last_states(past)[0] - nobody
            friends = [model.last_states(one[None])[0] - nobody for one in histories[user]]
            cosines = torch.stack([torch.cosine_similarity(own, one, 0) for one in friends])
            scaled = weights[user].double() * (beta * cosines).exp()
            attention = scaled / scaled.sum()
            chance = model.next_item_scores(past)[0].softmax(0)[events[place] - 1]
            of_friends = attention @ chosen[user, place - 1].double()
            losses.append(-(alpha * chance + (1 - alpha) * of_friends).log())
        assert_close(found[user], torch.stack(losses).mean())
    assert not found[2:].any()  # no friend; no next item


def test_it_begins_as_the_warm_start_and_without_friends_is_the_core() -> None:
    model, base = made(drawn=False), build_recommender(DESCRIBED, some_catalogue())
    with torch.no_grad():
        for name, weight in trainable(base).items():
            weight.normal_(std=0.2)
            trainable(model)[name].copy_(weight)
    assert set(trainable(model)) == set(trainable(base)) | model.linked_weights
    assert torch.equal(model.next_item_scores(EVENTS), base.next_item_scores(EVENTS))
    assert torch.equal(model.losses(EVENTS, NOBODY), base.losses(EVENTS, NOBODY))
    assert (model.alpha, model.beta) == pytest.approx((0.8808, 4.0), abs=1e-4)


@pytest.mark.parametrize("trained", [Trained.ATTENTION, Trained.ALL])
def test_friends_move_two_numbers_and_nothing_else(trained: Trained) -> None:
    model = made(replace(SOCIAL, trained=trained))
    weights = trainable(model)
    one, other = some_friends(model), model.invented_beside(4, 4, seed=9)
    found = [
        torch.autograd.grad(model.losses(EVENTS, NOBODY, *of).sum(), [*weights.values()])
        for of in (one, other)
    ]
    for name, first, second in zip(weights, *found, strict=True):
        assert torch.equal(first, second) is (name != SHARES), name


@pytest.mark.parametrize("candidates", [0, 3])
@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_clipped_sums_are_those_of_single_users(candidates: int, clip_norm: float) -> None:
    model = made()
    drawn = torch.randint(1, ITEMS + 1, (4, candidates))
    given = (EVENTS, drawn, *some_friends(model))
    names = {p: name for name, p in trainable(model).items()}
    expected = {name: torch.zeros_like(p).double() for p, name in names.items()}
    for user in range(4):
        loss = model.losses(*(x[user : user + 1] for x in given)).sum()
        gradients = torch.autograd.grad(loss, [*names], materialize_grads=True)
        norms = {name: g.norm() for name, g in zip(names.values(), gradients, strict=True)}
        of_friends = norms.pop(SHARES)
        core = torch.stack([*norms.values()]).norm()
        for name, gradient in zip(names.values(), gradients, strict=True):
            linked = name == SHARES
            bound = LINKED_SHARE / 7 if linked else (1 - LINKED_SHARE**2) ** 0.5
            norm = of_friends if linked else core
            expected[name] += gradient.double() * min(1.0, float(bound * clip_norm / norm))
    with PerUserClipping(model, clip_norm) as clipping:
        clipping.backward(model.losses(*given))
        for p, name in names.items():
            assert_close(clipping.sum_of(p), expected[name], rtol=1e-5, atol=1e-5 * clip_norm / 2)


def test_a_step_is_checked_and_its_sizes_are_covered() -> None:
    model = made(replace(SOCIAL, dropout=0.2, augment=0.2))
    check_model(model, LocalPlan(population=9, noise_multiplier=1.0))
    config = model.config
    assert config.pass_numbers(0) > 2 * config.max_length * config.items
    assert config.weight_numbers() >= sum(p.numel() for p in trainable(model).values())


def test_a_sample_of_linked_users_is_all_of_them() -> None:
    def config(rate: float, epsilon: float | None) -> RunConfig:
        training = TrainingConfig(rounds=1, sample_rate=rate)
        return RunConfig(
            privacy=PrivacyConfig(epsilon=epsilon, delta=1e-5),
            model=ModelConfig(kind=ModelKind.SOCIAL),
            training=training,
        )

    with pytest.raises(ConfigError, match=r"sample_rate = 0\.5 .* Choose 1"):
        config(0.5, 8.0)
    assert config(1.0, 8.0).training.sample_rate == 1
    assert config(0.5, None).training.sample_rate == 0.5
