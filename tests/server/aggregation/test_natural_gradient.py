"""The curvature against autograd, the solution against the matrix, and steps against plain ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from server.aggregation.natural_gradient import (
    QUERY,
    NaturalQueries,
    clipping_factor,
    curvature_of,
    noise_in_change,
    windows_of,
)
from shared.config import (
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    StrategyName,
    Trained,
    TrainingConfig,
)
from shared.data.histories import Histories
from shared.messages import TrainRequest, Weights
from shared.models.attention import AttentionRecommender, build, trainable
from shared.models.losses import next_item_pairs
from shared.privacy.clipping.clipping import PerUserClipping
from tests.conftest import DESCRIBED, FEATURES, some_catalogue, some_histories

MODEL = replace(DESCRIBED, max_length=12, own_items=(2, 7))
RUN = RunConfig(
    privacy=PrivacyConfig(epsilon=8.0, delta=1e-5), model=MODEL, training=TrainingConfig(rounds=1)
)
NAMES = f"{QUERY}.weight", f"{QUERY}.bias"
PUBLIC = some_histories(40, seed=5)


def recommender(*, query: float = 0.05, seed: int = 0) -> AttentionRecommender:
    """A model in evaluation mode that scores by its states, and whose attention looks at events."""
    model, draw = build(MODEL, some_catalogue()), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.feature_out.weight.normal_(generator=draw).mul_(0.3)
        model.attention.query.weight.normal_(generator=draw).mul_(query)
        model.attention.query.bias.normal_(generator=draw).mul_(query)
    return model.eval()


def weights_of(model: AttentionRecommender) -> Weights:
    return {name: p.detach().numpy().copy() for name, p in trainable(model).items()}


def loss(weights: Weights, windows: Tensor) -> float:
    model = build(MODEL, some_catalogue()).eval()
    with torch.no_grad():
        for name, p in trainable(model).items():
            p.copy_(torch.from_numpy(weights[name]))
        return float(model.losses(windows, torch.zeros(len(windows), 0, dtype=torch.int64)).mean())


def request(weights: Weights, **changes: object) -> TrainRequest:
    training = {name: getattr(RUN.training, name) for name in ("sample_rate", "clip_norm")}
    fields = {
        "run": "r",
        "round": 1,
        "catalogue": "c",
        "model": MODEL,
        "weights": weights,
        "noise_multiplier": 1.0,
        "learning_rate": 0.5,
        "local_steps": 1,
    }
    return TrainRequest(**training | fields | changes)


def test_the_curvature_is_that_of_each_positions_gradient() -> None:
    model, windows = recommender(), windows_of(PUBLIC, 12)
    curvature = curvature_of(model, windows, seed=3)
    inputs, targets = next_item_pairs(windows)
    logits, real = model(inputs).flatten(0, 1), targets != 0
    random = torch.Generator().manual_seed(3)
    drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=random)[:, 0]
    losses = F.cross_entropy(logits, drawn, reduction="none")
    counts = (real.sum(1, keepdim=True) * len(windows)).expand_as(real).flatten()
    expected = torch.zeros(FEATURES * (FEATURES + 1), FEATURES * (FEATURES + 1))
    for place in real.flatten().nonzero()[:, 0]:
        query = model.attention.query
        parts = torch.autograd.grad(losses[place], [query.weight, query.bias], retain_graph=True)
        gradient = torch.cat([parts[0], parts[1][:, None]], 1).flatten()
        expected += torch.outer(gradient, gradient) / counts[place]
    whole = torch.stack(
        [
            (curvature @ basis.view(FEATURES, FEATURES + 1)).flatten()
            for basis in torch.eye(len(expected), dtype=torch.float64)
        ]
    )
    torch.testing.assert_close(whole.float(), expected, rtol=1e-3, atol=1e-4)
    assert curvature.mean == pytest.approx(float(expected.diagonal().mean()), rel=1e-3)
    gradient = torch.randn(FEATURES, FEATURES + 1, dtype=torch.float64)
    solved = curvature.solve(gradient, 0.7)
    torch.testing.assert_close(curvature @ solved + 0.7 * solved, gradient, rtol=1e-2, atol=1e-2)


def test_clipping_is_undone_by_what_it_does_to_such_histories() -> None:
    model, windows = recommender(), windows_of(PUBLIC, 12)
    lengths = []
    for window in windows:
        value = model.losses(window[None], torch.zeros(1, 0, dtype=torch.int64))[0]
        parts = torch.autograd.grad(value, list(trainable(model).values()))
        lengths.append(float(torch.cat([p.flatten() for p in parts]).norm()))
    expected = np.mean(1 / np.maximum(lengths, 1))
    assert clipping_factor(model, windows, 1.0) == pytest.approx(expected, rel=1e-4)


def test_steps_learn_what_users_attend_to_where_plain_ones_overshoot() -> None:
    """Users follow a model whose attention looks for something; the run's model does not yet."""
    truth, start = recommender(query=0.02), recommender(query=0.0)
    random, users = torch.Generator().manual_seed(2), torch.randint(1, 21, (400, 1))
    for _ in range(12):
        chances = truth.next_item_scores(users).softmax(1)
        users = torch.cat([users, 1 + torch.multinomial(chances, 1, generator=random)], 1)
    natural = NaturalQueries(
        RUN, some_catalogue(), lambda *_: Histories.from_lists(users[:100].tolist())
    )
    weights = first = weights_of(start)
    losses = [loss(first, users)]
    for _ in range(4):
        plain = moved_by_a_plain_step(weights, users)
        weights = natural(request(weights), plain, noise=0.0)
        assert all(weights[name] is plain[name] for name in weights if name not in NAMES)
        losses.append(loss(weights, users))
    assert losses == sorted(losses, reverse=True)
    assert loss(moved_by_a_plain_step(first, users), users) > losses[0]
    assert losses[0] - losses[-1] > 0.7 * (losses[0] - loss(weights_of(truth), users))


def test_where_nothing_is_known_of_the_curvature_a_step_stays_short() -> None:
    """Scores that hardly depend on the state are hardly curved: a whole step would be very long."""
    weights = weights_of(recommender(query=0.0))
    weights["feature_out.weight"] *= 1e-4
    moved = weights | {name: weights[name] + np.float32(0.1) for name in NAMES}
    after = NaturalQueries(RUN, some_catalogue(), lambda *_: PUBLIC)(request(weights), moved, 0.0)
    model, changed = recommender(query=0.0), torch.from_numpy(after[NAMES[0]])
    with torch.no_grad():
        model.attention.query.weight.copy_(changed)
        model.attention.query.bias.copy_(torch.from_numpy(after[NAMES[1]]))
        asked = model.attention.query(torch.randn(500, FEATURES)) * model.attention.sharpness
    assert 0.05 < float((asked @ torch.randn(FEATURES, 500)).std()) < 2
    weights["feature_out.weight"] *= 0
    flat = NaturalQueries(RUN, some_catalogue(), lambda *_: PUBLIC)(request(weights), moved, 0.0)
    assert all(np.array_equal(flat[name], weights[name]) for name in NAMES)
    single = NaturalQueries(RUN, some_catalogue(), lambda *_: Histories.from_lists([[3], [5]]))
    kept = single(request(weights), moved, 0.0)
    assert all(np.array_equal(kept[name], weights[name]) for name in NAMES)


def moved_by_a_plain_step(weights: Weights, users: Tensor) -> Weights:
    """The queries after a step along the mean clipped gradient at the request's rate."""
    model = build(MODEL, some_catalogue()).eval()
    with torch.no_grad():
        for name, p in trainable(model).items():
            p.copy_(torch.from_numpy(weights[name]))
    with PerUserClipping(model, 1.0) as clipping:
        clipping.backward(model.losses(users, torch.zeros(len(users), 0, dtype=torch.int64)))
        sums = {name: clipping.sum_of(p).numpy() for name, p in trainable(model).items()}
    return {
        name: (value - 0.5 * sums[name] / len(users)).astype(np.float32) if name in NAMES else value
        for name, value in weights.items()
    }


def test_what_is_noise_moves_nothing() -> None:
    weights = weights_of(recommender())
    random, noise = np.random.default_rng(0), 0.02
    moved = {
        name: (value + noise * random.standard_normal(value.shape)).astype(np.float32)
        for name, value in weights.items()
    }
    asked: list[int] = []
    natural = NaturalQueries(RUN, some_catalogue(), lambda *_: asked.append(1) or PUBLIC)  # type: ignore[func-returns-value]
    after = natural(request(weights), moved, noise=1.5 * noise)
    assert not asked
    for name in weights:
        expected = weights if name in NAMES else moved
        np.testing.assert_array_equal(after[name], expected[name])
    stays = natural(request(weights), weights, noise=0.0)
    np.testing.assert_array_equal(stays[NAMES[0]], weights[NAMES[0]])


@pytest.mark.parametrize("shares", [[300.0, 100.0, 50.0], [1.0, 1.0, 1.0]])
def test_the_noise_of_a_mean_change_is_what_the_organisations_add(shares: list[float]) -> None:
    users, random = [300.0, 100.0, 50.0], np.random.default_rng(1)
    asked = request({}, noise_multiplier=2.0, clip_norm=0.5, sample_rate=0.25, local_steps=3)
    drawn = np.zeros(200_000)
    for share, population in zip(shares, users, strict=True):
        for _ in range(3):
            summed = 2.0 * 0.5 * random.standard_normal(len(drawn))
            drawn += share / sum(shares) * -0.5 * summed / (0.25 * population)
    assert noise_in_change(asked, users, shares) == pytest.approx(drawn.std(), rel=0.01)


def test_where_it_applies() -> None:
    assert NaturalQueries.applies(RUN)
    exact = replace(RUN, privacy=replace(RUN.privacy, epsilon=None))
    adam = replace(RUN, server=replace(RUN.server, strategy=StrategyName.FEDADAM))
    scores = replace(RUN, model=ModelConfig(trained=Trained.SCORES))
    assert not any(NaturalQueries.applies(run) for run in (exact, adam, scores))
