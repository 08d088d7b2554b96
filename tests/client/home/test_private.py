"""A private home model: no user adds more than its bound, and the noise is what its ε asks for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution
from torch import Tensor

import client.home.private
from client.home.home_model import HomeModel, Memory, TransitionCounts
from client.home.private import (
    MEMORY,
    POPULARITY_FADE,
    POPULARITY_SHARE,
    Guarantee,
    OwnSums,
    build_private_home,
    measure_own_sums,
    popularity_shift,
    release_for,
    shrink,
    transition_sum,
)
from shared.data.histories import Histories
from shared.models.moments import popularity_sum
from shared.privacy.noise import SeededRandom
from tests.client.home.test_home_model import ITEMS, logits

MEMORIES = (Memory(1, 1.0), Memory(3, 0.5), Memory(10, 0.8))


def some_users(seed: int) -> list[list[int]]:
    """Histories of all lengths: none, one event, one item over and over, and long ones."""
    draw = np.random.default_rng(seed)
    odd = [[], [1], [2] * 30, [1, 2] * 20, [5, 5]]
    return [*odd, *(draw.integers(1, ITEMS + 1, n).tolist() for n in draw.integers(1, 60, 20))]


@pytest.mark.parametrize("memory", MEMORIES)
def test_without_any_one_user_the_sums_change_by_at_most_one(memory: Memory) -> None:
    """By brute force; and what a user adds is the same whoever else is there, in every bit."""
    users = some_users(seed=3)
    chosen = np.array([1, 2, 4, 5])

    def sums(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        histories = Histories.from_lists(lists)
        popularity = popularity_sum(histories, ITEMS, POPULARITY_FADE)
        return popularity, transition_sum(histories, ITEMS, chosen, memory)

    everybody, lengths = sums(users), []
    for user in range(len(users)):
        others = sums(users[:user] + users[user + 1 :])
        own = sums([users[user]])
        changes = [one - other for one, other in zip(everybody, others, strict=True)]
        for change, alone in zip(changes, own, strict=True):
            assert np.array_equal(change, alone)
            assert np.linalg.norm(change) <= 1 + 1e-9
            lengths.append(float(np.linalg.norm(change)))
        share = POPULARITY_SHARE
        scaled = [math.sqrt(share) * changes[0].ravel(), math.sqrt(1 - share) * changes[1].ravel()]
        assert np.linalg.norm(np.concatenate(scaled)) <= 1 + 1e-9
    assert max(lengths) == pytest.approx(1)
    assert min(lengths) == 0


def test_transitions_are_counted_as_they_are() -> None:
    histories = Histories.from_lists([[1, 3, 2, 1], [2, 1]])
    chosen = np.array([1, 2])
    # The first user: 1 -> 2 two apart, 2 -> 1 next to each other, 1 -> 1 three apart.
    first = np.array([[0.25, 0.5], [1.0, 0.0]])
    expected = first / np.linalg.norm(first) + np.array([[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(
        transition_sum(histories, 3, chosen, Memory(3, 0.5)), expected, atol=1e-11
    )


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 8.0])
def test_the_noise_is_what_an_independent_accountant_asks_for(
    epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sums as they are noised, composed by Google's accountant."""
    monkeypatch.setattr(client.home.private, "MIN_SIGNAL_TO_NOISE", -math.inf)
    guarantee = Guarantee(epsilon, 1e-5)
    nobody = Histories.from_lists([[]])
    wide = measure_own_sums(nobody, 400, release_for(guarantee), SeededRandom(1))
    drawn = [float(wide.popularity.std()), float(wide.transitions.std())]
    assert drawn[0] == pytest.approx(wide.popularity_noise, rel=0.1)
    assert drawn[1] == pytest.approx(wide.transition_noise, rel=0.02)
    first, second = (
        privacy_loss_distribution.from_gaussian_mechanism(noise, value_discretization_interval=1e-4)
        for noise in (wide.popularity_noise, wide.transition_noise)
    )
    assert first.compose(second).get_epsilon_for_delta(1e-5) == pytest.approx(epsilon, rel=0.01)


def test_the_same_noise_gives_the_same_model_and_other_noise_another() -> None:
    histories = Histories.from_lists(some_users(seed=5))
    release = release_for(Guarantee(8.0, 1e-5))
    rows = torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0]])

    def scores(seed: int) -> torch.Tensor:
        sums = measure_own_sums(histories, ITEMS, release, SeededRandom(seed))
        return build_private_home(sums, logits)(rows)

    torch.testing.assert_close(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))


def regulars(users: int, seed: int = 6) -> Histories:
    """Users who go round the first five of seven items, from somewhere."""
    starts = np.random.default_rng(seed).integers(0, 5, users)
    return Histories.from_lists([[1 + (start + step) % 5 for step in range(6)] for start in starts])


def private_home(histories: Histories, epsilon: float = 4.0) -> tuple[OwnSums, HomeModel]:
    release = release_for(Guarantee(epsilon, 1e-5))
    sums = measure_own_sums(histories, ITEMS, release, SeededRandom(2))
    return sums, build_private_home(sums, flat)


def flat(rows: Tensor, /) -> Tensor:
    return torch.zeros(len(rows), ITEMS)


def test_what_many_do_is_recommended_and_no_number_is_exact() -> None:
    histories = regulars(600)
    _, home = private_home(histories)
    scores = home(torch.tensor([[2, 3], [5, 1]]))
    assert scores.argmax(1).tolist() == [3, 1]
    assert home.transitions.counts.nnz >= 5
    exact = TransitionCounts.of(histories, ITEMS, MEMORY)
    own = transition_sum(histories, ITEMS, np.arange(1, ITEMS + 1), MEMORY)
    known = {*exact.counts.data.tolist(), *own.astype(np.float32).ravel().tolist()}
    assert not known & set(home.transitions.counts.data.tolist())


def test_noise_alone_changes_nothing() -> None:
    """Of nobody, the model is the federated one, but for what noise lets through."""
    for seed in range(5):
        release = release_for(Guarantee(1.0, 1e-5))
        sums = measure_own_sums(Histories.from_lists([[]]), ITEMS, release, SeededRandom(seed))
        home = build_private_home(sums, flat)
        assert home.transitions.counts.nnz == 0
        assert home(torch.tensor([[1, 2]])).max() < 2 / ITEMS


def test_the_shift_follows_the_own_popularity() -> None:
    sums, _ = private_home(regulars(600))
    shift = popularity_shift(sums, flat)
    assert shift[:5].min() > 0
    assert shift[5:].max() < -1
    same = popularity_shift(sums, lambda rows: shift.expand(len(rows), -1) * 50)
    assert same[5:].max() > shift[5:].max()


def test_what_noise_makes_is_shrunk_away() -> None:
    """Of pure noise little is left, and a signal far above it stays."""
    draw = np.random.default_rng(7)
    noise = draw.normal(0.0, 2.0, (300, 300))
    assert np.count_nonzero(shrink(noise, 2.0)) < 0.01 * noise.size
    assert shrink(noise, 2.0).sum() < 0.002 * np.abs(noise).sum()
    signal = noise.copy()
    signal[:20, 0] += 20.0
    np.testing.assert_allclose(shrink(signal, 2.0)[:20, 0], signal[:20, 0], rtol=0.05)
