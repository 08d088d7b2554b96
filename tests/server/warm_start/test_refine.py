"""Weights that reproduce a moment, against planted weights, loops and torch's own gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.warm_start import refine
from server.warm_start.denoise import Posterior, set_first_weights
from server.warm_start.refine import (
    RIDGE,
    PublicStates,
    match_moment,
    model_moment,
    sample_public_states,
)
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, build
from shared.models.item_scores import ItemScores
from shared.models.moments import layer_norm, states
from tests.conftest import DESCRIBED, ITEMS, some_catalogue, some_histories

LONG = replace(DESCRIBED, max_length=12)
PUBLIC = some_histories(60, seed=5)


def recommender() -> AttentionRecommender:
    model = build(LONG, some_catalogue())
    model.train(mode=False)
    return model


def states_of(model: AttentionRecommender) -> PublicStates:
    return sample_public_states(PUBLIC, model.features.table.numpy(), LONG.recency)


def planted(model: AttentionRecommender, seed: int = 0, size: float = 0.3) -> torch.Tensor:
    """Weights and offsets, and the weights' own moment."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.feature_out.weight.copy_(size * torch.randn(4, 4, generator=generator))
        assert model.item_scores.offset is not None
        model.item_scores.offset.copy_(torch.randn(ITEMS, 1, generator=generator) / 32)
    return model_moment(model, states_of(model))


def posterior(moment: torch.Tensor, gain: float = 1.0) -> Posterior:
    return Posterior(moment.double().numpy().T, 1.0, gain)


def test_public_states_are_about_the_recommenders_own() -> None:
    """Up to what its queries and keys begin with, which is small and not zero."""
    model = recommender()
    found = sample_public_states(
        Histories.from_lists([[3, 1, 4], [5]]), model.features.table.numpy(), 0.75
    )
    with torch.no_grad():
        expected = model.states(torch.tensor([[3, 1]]))[0]
    torch.testing.assert_close(found.states, expected, atol=0.1, rtol=0.0)
    torch.testing.assert_close(found.shares, torch.tensor([0.5, 0.5]))


def test_an_event_counts_as_in_its_users_moment() -> None:
    table, lists = recommender().features.table.numpy(), [[1, 2], [3, 4, 5, 6]]
    found = sample_public_states(Histories.from_lists(lists), table, 0.75)
    lengths = []
    for history in lists:
        past = states(layer_norm(table), np.array(history[:-1]), 0.75)
        lengths += [np.linalg.norm(past.T @ table[np.array(history[1:]) - 1])] * len(past)
    shares = 1 / np.array(lengths)
    np.testing.assert_allclose(found.shares.numpy(), shares / shares.sum(), rtol=1e-4)


def test_no_more_states_than_wanted_and_from_all_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "MAX_STATES", 40)
    model = recommender()
    found = states_of(model)
    assert found.states.shape == (40, 4)
    assert float(found.shares.sum()) == pytest.approx(1)
    monkeypatch.undo()
    all_of_them = states_of(model).states
    assert len(all_of_them) == sum(len(history) - 1 for history in PUBLIC)
    places = [int((all_of_them == row).all(1).nonzero()[0, 0]) for row in found.states]
    assert places[0] == 0
    assert max(places) > 0.9 * len(all_of_them)


def test_the_model_moment_is_that_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    model = recommender()
    moment = planted(model)
    table = model.features.table.double().numpy()
    weight = model.feature_out.weight.detach().double().numpy()
    assert model.item_scores.offset is not None
    offsets = ItemScores.OFFSET_SCALE * model.item_scores.offset.detach().double().numpy()[:, 0]
    expected, public = np.zeros((4, 4)), states_of(model)
    for state, share in zip(public.states.double().numpy(), public.shares.tolist(), strict=True):
        scores = table @ weight @ state + offsets
        chances = np.exp(scores - scores.max())
        chances /= chances.sum()
        expected += share * np.outer(chances @ table, state)
    np.testing.assert_allclose(moment.numpy(), expected, atol=1e-5)
    monkeypatch.setattr(refine, "MAX_SCORES", 7 * ITEMS)
    torch.testing.assert_close(model_moment(model, public), moment)


def log_partition(model: AttentionRecommender, public: PublicStates) -> torch.Tensor:
    return (public.shares * torch.logsumexp(model.score(public.states), dim=1)).sum()


def test_the_model_moment_is_the_log_partitions_gradient() -> None:
    model = recommender()
    moment, public = planted(model), states_of(model)
    [gradient] = torch.autograd.grad(log_partition(model, public), [model.feature_out.weight])
    torch.testing.assert_close(moment, gradient, atol=1e-5, rtol=1e-4)


def test_without_noise_the_planted_weights_are_found() -> None:
    """From weights that a warm start sets; up to their size, which is not the moment's to say."""
    model = recommender()
    target = planted(model)
    truth, public = model.feature_out.weight.detach().clone(), states_of(model)
    assert model.item_scores.offset is not None
    with torch.no_grad():
        chances = torch.softmax(32 * model.item_scores.offset[:, 0], 0).double().numpy()
    deviation = target - torch.outer(
        torch.from_numpy(chances).float() @ model.features.table, public.shares @ public.states
    )  # what popularity alone does not explain
    set_first_weights(model, posterior(deviation), chances)

    def likeness() -> float:
        found = model.feature_out.weight.detach().flatten()
        return float(torch.cosine_similarity(found, truth.flatten(), 0))

    before = likeness()
    first = model.feature_out.weight.detach().clone()
    scale = float((model_moment(model, public) * first).sum() / (target * first).sum())
    match_moment(model, posterior(target), public, 3000)
    left = (model_moment(model, public) - scale * target).norm() / target.norm()
    assert float(left) < 0.02
    assert likeness() > before


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.floats(1e-6, 1e6))
def test_how_many_users_a_moment_counts_changes_nothing(seed: int, users: float) -> None:
    model = recommender()
    target, public = planted(model, seed + 1), states_of(model)
    planted(model, seed)
    with torch.no_grad():
        model.feature_out.weight.copy_(target / target.norm())
    first = model.feature_out.weight.detach().clone()
    match_moment(model, posterior(target), public, 3)
    once = model.feature_out.weight.detach().clone()
    with torch.no_grad():
        model.feature_out.weight.copy_(first)
    match_moment(model, posterior(users * target), public, 3)
    torch.testing.assert_close(model.feature_out.weight.detach(), once, atol=1e-4, rtol=1e-3)


def test_weights_that_have_the_moment_stay() -> None:
    model = recommender()
    target = planted(model)
    first = model.feature_out.weight.detach().clone()
    match_moment(model, posterior(target, gain=0.5), states_of(model), 5)
    torch.testing.assert_close(model.feature_out.weight.detach(), first, atol=1e-5, rtol=1e-4)


def moved(gain: float, steps: int) -> torch.Tensor:
    """Return how far weights move with a moment of this Wiener gain."""
    model = recommender()
    target = planted(model, 1) + 0.1
    planted(model, 0)
    with torch.no_grad():
        model.feature_out.weight.copy_(0.1 * target)
    first = model.feature_out.weight.detach().clone()
    match_moment(model, posterior(target, gain), states_of(model), steps)
    return model.feature_out.weight.detach() - first


@pytest.mark.parametrize("gain", [0.01, 0.1, 0.5, 0.9])
def test_a_step_is_shortened_by_the_noise_as_the_formula_says(gain: float) -> None:
    ridge = RIDGE / 4 * (1 - gain) / gain
    torch.testing.assert_close(moved(gain, 1), moved(1.0, 1) / (1 + ridge))


def test_the_noisier_the_nearer_to_the_first_weights() -> None:
    lengths = [float(moved(gain, 60).norm()) for gain in (0.0, 0.001, 0.01, 0.1, 1.0)]
    assert lengths[0] == 0
    assert lengths == sorted(lengths)
    assert lengths[1] < 0.1 * lengths[-1]


@pytest.mark.parametrize("gain", [0.05, 0.3, 1.0])
def test_every_step_makes_the_posterior_likelier(gain: float) -> None:
    """Log-likelihood of the scaled moment less the ridge, by torch's own log-partition."""
    model = recommender()
    target = planted(model, 1) + 0.1
    planted(model, 0)
    with torch.no_grad():
        model.feature_out.weight.copy_(0.1 * target)
    first, public = model.feature_out.weight.detach().clone(), states_of(model)
    scale = float((model_moment(model, public) * first).sum() / (target * first).sum())
    ridge = RIDGE / 4 * (1 - gain) / gain / refine.step_size(model, public)

    def objective(steps: int) -> float:
        with torch.no_grad():
            model.feature_out.weight.copy_(first)
            match_moment(model, posterior(target, gain), public, steps)
            weight = model.feature_out.weight
            kept = scale * (target * weight).sum() - ridge / 2 * (weight - first).square().sum()
            return float(kept - log_partition(model, public))

    found = [objective(steps) for steps in range(6)]
    assert found == sorted(found)
    assert found[-1] > found[0]


@pytest.mark.parametrize("moment", [np.zeros((4, 4)), -np.eye(4)])
def test_a_moment_without_a_part_along_the_first_weights_moves_nothing(moment: np.ndarray) -> None:
    model = recommender()
    with torch.no_grad():
        model.feature_out.weight.copy_(torch.eye(4))
    match_moment(model, Posterior(moment), states_of(model), 3)
    torch.testing.assert_close(model.feature_out.weight.detach(), torch.eye(4))


def test_public_users_of_one_event_move_nothing() -> None:
    model = recommender()
    target = planted(model)
    first = model.feature_out.weight.detach().clone()
    none = sample_public_states(
        Histories.from_lists([[1], [2]]), model.features.table.numpy(), 0.75
    )
    match_moment(model, posterior(target), none, 3)
    torch.testing.assert_close(model.feature_out.weight.detach(), first)


def test_a_model_without_popularity_is_matched_too() -> None:
    model = build(replace(LONG, item_bias=False), some_catalogue())
    with torch.no_grad():
        model.feature_out.weight.copy_(0.1 * torch.eye(4))
    match_moment(model, Posterior(np.eye(4) + 0.2), states_of(model), 3)
    assert torch.isfinite(model.feature_out.weight).all()
    assert not model.feature_out.weight.detach().equal(0.1 * torch.eye(4))


def test_a_state_is_followed_by_items_of_its_own_domain() -> None:
    model, domains = recommender(), np.arange(ITEMS) % 2
    planted(model)
    table = model.features.table.numpy()
    histories = Histories.from_lists([[1, 3, 5], [2, 8, 4, 6]])
    public = sample_public_states(histories, table, LONG.recency, domains)
    assert public.domains is not None
    assert public.domains.tolist() == [0, 0, 1, 1, 1]
    scores, expected = model.score(public.states).detach(), torch.zeros(4, 4)
    for row, domain in enumerate(public.domains.tolist()):
        own = torch.from_numpy(domains == domain)
        chances = scores[row, own].softmax(0)
        mean = chances @ torch.from_numpy(table)[own]
        expected += public.shares[row] * torch.outer(mean, public.states[row])
    torch.testing.assert_close(model_moment(model, public), expected)
