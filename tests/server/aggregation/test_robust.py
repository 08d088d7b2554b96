from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.aggregation.optimiser import ServerOptimiser
from server.aggregation.quorum import minimum_replies
from server.aggregation.robust import (
    check_aggregation,
    credible_populations,
    robust_change,
    robust_mean,
)
from shared.config import Aggregation, RunConfig, ServerConfig, StrategyName, Weighting
from shared.errors import ConfigError
from shared.messages import Weights

Matrix = NDArray[np.float64]
ROBUST = [rule for rule in Aggregation if rule is not Aggregation.MEAN]
SHAPES = {"z": (2, 3), "a": (4,)}
each_rule = pytest.mark.parametrize("rule", ROBUST)


def config(rule: Aggregation, malicious: int = 1, **changes: Any) -> ServerConfig:  # noqa: ANN401
    fields: dict[str, Any] = {"aggregation": rule, "malicious": malicious, "organisations": 99}
    return ServerConfig(**fields | changes)


def some_changes(count: int, seed: int, size: float = 1.0) -> list[Weights]:
    draw = np.random.default_rng(seed)
    return [
        {
            name: (size * draw.normal(size=shape)).astype(np.float32)
            for name, shape in SHAPES.items()
        }
        for _ in range(count)
    ]


def flat(change: Weights) -> Matrix:
    return np.concatenate([change[name].ravel() for name in SHAPES]).astype(np.float64)


# --- by hand, without a line of Flower's ---------------------------------------------------------


def krum_order(rows: Matrix, attackers: int) -> list[int]:
    """Best first: the sum of squared distances to the n - f - 2 nearest others."""
    scores = []
    for i, row in enumerate(rows):
        others = sorted(float(((row - other) ** 2).sum()) for j, other in enumerate(rows) if j != i)
        scores.append(sum(others[: len(rows) - attackers - 2]))
    return sorted(range(len(rows)), key=lambda i: scores[i])


def trimmed(rows: Matrix, attackers: int) -> Matrix:
    ordered = np.sort(rows, axis=0)
    return np.asarray(ordered[attackers : len(rows) - attackers].mean(axis=0))


BY_HAND: dict[Aggregation, Callable[[Matrix, int], Matrix]] = {
    Aggregation.MEDIAN: lambda rows, _: np.asarray(np.median(rows, axis=0)),
    Aggregation.TRIMMED_MEAN: trimmed,
    Aggregation.MULTI_KRUM: lambda rows, f: rows[krum_order(rows, f)[: len(rows) - f - 2]].mean(0),
}


@each_rule
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(0, 4), st.integers(0, 2**32), st.sampled_from([1e-4, 1, 1e3]))
def test_a_rule_is_what_the_papers_say(
    rule: Aggregation, malicious: int, more: int, seed: int, size: float
) -> None:
    server = config(rule, malicious)
    changes = some_changes(minimum_replies(server) + more, seed, size)
    result = robust_change(changes, server)
    assert {name: value.shape for name, value in result.items()} == SHAPES
    assert {value.dtype for value in result.values()} == {np.dtype(np.float32)}
    expected = BY_HAND[rule](np.stack([flat(change) for change in changes]), malicious)
    np.testing.assert_allclose(flat(result), expected, rtol=1e-5, atol=1e-6 * size)


@each_rule
@pytest.mark.parametrize("place", range(7))
def test_one_attacker_of_seven_moves_a_rule_little_and_the_mean_far(
    rule: Aggregation, place: int
) -> None:
    """At the longest change that the norm bound lets through."""
    honest = some_changes(7, seed=place)
    attack = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    attack["a"][0] = 1e4
    attacked = [*honest]
    attacked[place] = attack
    farthest = max(np.linalg.norm(flat(change)) for change in honest)
    start = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}

    def moved(server: ServerConfig, changes: list[Weights]) -> Matrix:
        return flat(ServerOptimiser(server, list(SHAPES)).step(1, start, changes, [1.0] * 7))

    fedavg: dict[str, Any] = {"strategy": StrategyName.FEDAVG}
    robust, mean = config(rule, **fedavg), config(Aggregation.MEAN, 0, **fedavg)
    assert np.linalg.norm(moved(robust, attacked)) <= farthest
    assert np.linalg.norm(moved(robust, attacked) - moved(robust, honest)) <= 2 * farthest
    assert np.linalg.norm(moved(mean, attacked) - moved(mean, honest)) > 1000


@each_rule
def test_what_all_have_in_common_does_not_drown_the_difference(rule: Aggregation) -> None:
    """Seven changes that differ by 1e-3 around one of length 300; float32 distances are noise."""
    common = {name: np.full(shape, 100, np.float32) for name, shape in SHAPES.items()}
    changes = [
        {name: common[name] + value for name, value in change.items()}
        for change in some_changes(7, seed=1, size=1e-3)
    ]
    rows = np.stack([flat(change) for change in changes])
    result = flat(robust_change(changes, config(rule)))
    np.testing.assert_allclose(result, BY_HAND[rule](rows, 1), rtol=0, atol=1e-5)


@each_rule
@pytest.mark.parametrize("strategy", StrategyName)
def test_the_optimiser_steps_along_the_one_change(
    rule: Aggregation, strategy: StrategyName
) -> None:
    """As it would for a single organisation that sent that change."""
    settings_of: dict[str, Any] = {"strategy": strategy, "learning_rate": 0.3, "momentum": 0.5}
    robust = ServerOptimiser(config(rule, **settings_of), list(SHAPES))
    single = ServerOptimiser(config(Aggregation.MEAN, 0, **settings_of), list(SHAPES))
    (weights,) = some_changes(1, seed=99)
    ours = theirs = weights
    for number in (1, 2, 3):
        changes = some_changes(8, seed=number)
        change = robust_change(changes, config(rule))
        ours = robust.step(number, ours, changes, [1.0] * 8)
        theirs = single.step(number, theirs, [change], [1.0])
        assert flat(ours).tobytes() == flat(theirs).tobytes()
    assert {n: v.tobytes() for n, v in robust.state.items()} == {
        n: v.tobytes() for n, v in single.state.items()
    }


@each_rule
@pytest.mark.parametrize("malicious", [1, 2, 3, 7])
@pytest.mark.parametrize("more", [0, 1, 5])
def test_as_many_attackers_as_it_says_get_nowhere(
    rule: Aggregation, malicious: int, more: int
) -> None:
    """Together, at one place, far away: the strongest simple attack on an average."""
    server = config(rule, malicious)
    count = minimum_replies(server) + more
    honest = some_changes(count - malicious, seed=malicious)
    attack = {name: np.full(shape, 1e3, np.float32) for name, shape in SHAPES.items()}
    result = flat(robust_change([*honest, *[attack] * malicious], server))
    rows = np.stack([flat(change) for change in honest])
    assert np.all(result <= rows.max(axis=0) + 1e-6)
    assert np.all(result >= rows.min(axis=0) - 1e-6)


# --- a warm start's sums -------------------------------------------------------------------------

USERS = [60, 80, 100, 100, 120, 150, 400]


def noised_sums(noise: float, apart: float, seed: int) -> list[Matrix]:
    """Seven organisations' sums of 400 numbers; their means differ by `apart`, and by noise."""
    means = apart * np.random.default_rng(1).normal(size=(7, 400))
    draw = np.random.default_rng(seed)
    return [n * mean + noise * draw.normal(size=400) for n, mean in zip(USERS, means, strict=True)]


@each_rule
@pytest.mark.parametrize("apart", [0.0, 0.03])
def test_the_noise_that_a_rule_leaves_is_known(rule: Aggregation, apart: float) -> None:
    """Against what a hundred noises make of the same sums."""
    server = config(rule)
    sums = [noised_sums(10.0, apart, seed) for seed in range(99)]
    true = float(np.std([robust_mean(own, USERS, 0.0, server)[0] for own in sums], axis=0).mean())
    assert robust_mean(sums[0], USERS, 10.0, server)[1] == pytest.approx(true, rel=0.1)


@each_rule
def test_without_noise_a_rule_leaves_none(rule: Aggregation) -> None:
    sums = noised_sums(0.0, 1.0, 0)
    result, spread = robust_mean(sums, USERS, 0.0, config(rule))
    rows = np.stack([total / users for total, users in zip(sums, USERS, strict=True)])
    assert spread == 0
    np.testing.assert_allclose(result, BY_HAND[rule](rows, 1), rtol=1e-5, atol=1e-6)


def attacked(honest: list[Matrix], declared: int) -> tuple[list[Matrix], list[int]]:
    """The longest sum that so many users may add up to, all of it for one item, without noise."""
    attack = np.zeros(400)
    attack[7] = declared
    return [*honest, attack], [*USERS, declared]


@each_rule
@pytest.mark.parametrize("declared", [1, 100, 10**6])
def test_who_declares_more_users_gets_no_further(rule: Aggregation, declared: int) -> None:
    honest = noised_sums(0.5, 0.001, 0)
    totals, users = attacked(honest, declared)
    rows = np.stack([total / n for total, n in zip(honest, USERS, strict=True)])
    result, _ = robust_mean(totals, users, 0.5, config(rule))
    assert np.all(result <= rows.max(axis=0) + 1e-6)
    assert np.all(result >= rows.min(axis=0) - 1e-6)
    assert credible_populations(users, config(rule)) == [100] * 8
    assert credible_populations(users, ServerConfig()) == users


# --- what is refused -----------------------------------------------------------------------------


@each_rule
def test_too_few_organisations_are_refused(rule: Aggregation) -> None:
    for malicious, short in itertools.product((1, 2), (0, 1)):
        server = config(rule, malicious)
        needed = minimum_replies(server)
        few = config(rule, malicious, organisations=needed - short)
        if short:
            with pytest.raises(ConfigError, match=rf"organisations = {needed - 1}: .* {needed} or"):
                check_aggregation(few)
        else:
            check_aggregation(few)


@each_rule
def test_a_rule_against_nobody_is_refused(rule: Aggregation) -> None:
    with pytest.raises(ConfigError, match=rf"malicious = 0 with .*'{rule}': say how many"):
        check_aggregation(config(rule, 0))


@each_rule
def test_declared_populations_are_refused(rule: Aggregation) -> None:
    with pytest.raises(ConfigError, match="an attacker may declare any population"):
        check_aggregation(config(rule, weighting=Weighting.POPULATION))


def test_attackers_in_a_mean_are_refused() -> None:
    with pytest.raises(ConfigError, match="one attacker can move a mean anywhere"):
        check_aggregation(config(Aggregation.MEAN, 1))
    check_aggregation(ServerConfig())


@pytest.mark.parametrize("rule", ["krum", "bulyan"])
def test_a_rule_that_was_removed_is_an_error_that_names_what_there_is(rule: str) -> None:
    flat: dict[str, float | str] = {"privacy.epsilon": 8.0, "privacy.delta": 1e-5}
    with pytest.raises(
        ConfigError,
        match=rf"server\.aggregation = '{rule}' does not fit: it takes 'mean' or 'median' or "
        "'trimmed-mean' or 'multi-krum'",
    ):
        RunConfig.from_flat({**flat, "server.aggregation": rule})
