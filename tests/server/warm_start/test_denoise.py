"""Estimates from noised statistics, against statistics with a known answer."""

import numpy as np
import pytest
import torch

from server.warm_start.denoise import (
    LOGIT_RMS,
    Posterior,
    Prior,
    dependence,
    estimate_moment,
    estimate_popularity,
    set_first_weights,
)
from shared.config import ModelConfig
from shared.data.histories import Histories
from shared.models.attention import build
from shared.models.moments import layer_norm, moment_sum
from tests.conftest import DESCRIBED, ITEMS, some_catalogue, some_histories

DRAW = np.random.default_rng(7)


def test_without_noise_nothing_is_changed() -> None:
    sums = DRAW.standard_normal((9, 9))
    for prior in (np.zeros((9, 9)), DRAW.standard_normal((9, 9))):
        posterior = estimate_moment(sums, 0.0, prior)
        np.testing.assert_allclose(posterior.mean, sums)
        assert (posterior.signal_share, posterior.gain) == pytest.approx((1.0, 1.0))


def test_without_an_answer_the_prior_is_all() -> None:
    prior = DRAW.uniform(1, 2, 9)
    posterior = estimate_moment(None, 0.0, prior)
    np.testing.assert_array_equal(posterior.mean, prior)
    assert (posterior.signal_share, posterior.gain) == (1.0, 1.0)  # what is public holds no noise
    np.testing.assert_array_equal(estimate_popularity(None, 0.0, prior), prior)


@pytest.mark.parametrize("noise_std", [0.1, 1.0, 10.0])
def test_the_posterior_is_nearer_than_the_noised_sum_and_the_prior(noise_std: float) -> None:
    """The sum is 3 · prior + N(0, 1): the posterior mean's error is moment."""
    prior = DRAW.standard_normal((200, 200))
    truth = 3 * prior + DRAW.standard_normal((200, 200))
    noised = truth + noise_std * DRAW.standard_normal((200, 200))
    posterior = estimate_moment(noised, noise_std, prior)
    mean = posterior.mean
    assert posterior.gain == pytest.approx(1 / (1 + noise_std**2), rel=0.05, abs=0.005)
    assert posterior.signal_share == pytest.approx((mean**2).mean() / (truth**2).mean(), rel=0.05)
    error = ((mean - truth) ** 2).mean()
    assert error == pytest.approx(noise_std**2 / (1 + noise_std**2), rel=0.05)
    assert error < min(noise_std**2, ((prior - truth) ** 2).mean())


@pytest.mark.parametrize("seed", range(5))
def test_from_noise_alone_only_popularity_sets_the_scores(seed: int) -> None:
    """Otherwise noise, scaled up, would be all that a score is made of."""
    noise = 50 * np.random.default_rng(seed).standard_normal((200, 200))
    assert estimate_moment(noise, 50.0, np.zeros((200, 200))).signal_share < 0.05
    model = build(DESCRIBED, some_catalogue())
    noise_mean, zeros = DRAW.standard_normal((4, 4)), np.zeros((4, 4))
    set_first_weights(model, Posterior(noise_mean, signal_share=0.0), np.ones(ITEMS))
    np.testing.assert_array_equal(model.feature_out.weight.detach().numpy(), zeros)


def test_popularity_is_positive_whatever_the_noise() -> None:
    noised = 50 * DRAW.standard_normal(1000)
    assert (estimate_popularity(noised, 50.0, np.ones(1000)) > 0).all()


def test_the_recommender_then_scores_by_moment_and_popularity() -> None:
    catalogue = some_catalogue()
    shape = ModelConfig(feature_size=4, own_items=(2,), max_length=12)
    model = build(shape, catalogue)
    model.train(mode=False)
    table = model.features.table.numpy()
    moment = moment_sum(some_histories(50), table, shape.recency)
    popular = DRAW.uniform(0.1, 9, ITEMS)
    set_first_weights(model, Posterior(moment), popular)
    history = torch.tensor([[5, 2, 9]])
    with torch.no_grad():
        scores = model.next_item_scores(history)[0].numpy()
        state = model.states(history)[0, -1].numpy()
    shares = popular / popular.sum()
    form = dependence(moment, shares @ layer_norm(table), shares @ table)
    bilinear = state @ form @ table.T
    rest = scores - np.log(popular)
    rest, bilinear = rest - rest.mean(), bilinear - bilinear.mean()
    scale = (rest @ bilinear) / (bilinear @ bilinear)
    assert scale > 0
    np.testing.assert_allclose(rest, scale * bilinear, atol=1e-4)


def test_the_moments_part_of_a_score_has_the_stated_size() -> None:
    catalogue, model = some_catalogue(), build(DESCRIBED, some_catalogue())
    model.train(mode=False)
    moment = moment_sum(some_histories(50), model.features.table.numpy(), DESCRIBED.recency)
    set_first_weights(model, Posterior(moment), np.ones(ITEMS))
    with torch.no_grad():
        scores = torch.stack(
            [model.next_item_scores(torch.tensor([[i]]))[0] for i in range(1, len(catalogue) + 1)]
        )
    assert float(scores.square().mean().sqrt()) == pytest.approx(LOGIT_RMS, rel=0.1)


def test_the_prior_comes_from_public_users() -> None:
    public = Histories.from_lists([[1, 2], [1, 3]])
    assert Prior(public).popularity(5, 0.5)[0] == max(Prior(public).popularity(5, 0.5))
    table = np.eye(5, dtype=np.float32)
    assert Prior(public).moment(table, 0.75).any()
    assert not Prior(None).moment(table, 0.75).any()
    np.testing.assert_array_equal(Prior(None).popularity(5, 0.5), np.ones(5))


def test_events_that_do_not_depend_on_those_before_leave_popularity_alone() -> None:
    """Their moment is the product of two means: no score should depend on the history."""
    catalogue = some_catalogue()
    model = build(DESCRIBED, catalogue)
    model.train(mode=False)
    table = model.features.table.numpy().astype(np.float64)
    popular = DRAW.uniform(0.1, 9, ITEMS)
    shares = popular / popular.sum()
    moment = 7 * np.outer(shares @ layer_norm(table.astype(np.float32)), shares @ table)
    set_first_weights(model, Posterior(moment), popular)
    with torch.no_grad():
        one, other = model.next_item_scores(torch.tensor([[5, 2, 9], [3, 4, 1]])).numpy()
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_depends_is_orthogonal_to_what_does_not() -> None:
    moment, state, following = DRAW.standard_normal((4, 4)), *DRAW.standard_normal((2, 4))
    left = dependence(moment, state, following)
    assert (left * np.outer(state, following)).sum() == pytest.approx(0, abs=1e-12)
    removed = moment - left
    np.testing.assert_allclose(
        removed / np.outer(state, following), removed[0, 0] / (state[0] * following[0])
    )


def test_within_domains_popularity_alone_leaves_nothing_that_depends() -> None:
    """Two domains, each with independent events: one of several domains would see a structure."""
    catalogue, domains = some_catalogue(), np.arange(ITEMS) % 2
    model = build(DESCRIBED, catalogue)
    model.train(mode=False)
    table = model.features.table.numpy().astype(np.float64)
    popular = DRAW.uniform(0.1, 9, ITEMS)
    moment = np.zeros((4, 4))
    for domain, users in ((0, 3.0), (1, 5.0)):
        shares = popular * (domains == domain)
        shares /= shares.sum()
        moment += users * np.outer(shares @ layer_norm(table.astype(np.float32)), shares @ table)
    set_first_weights(model, Posterior(moment), popular, domains)
    assert not model.feature_out.weight.any()
    set_first_weights(model, Posterior(moment), popular)
    assert model.feature_out.weight.any()
