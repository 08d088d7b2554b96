"""The private step against plain autograd, one user at a time; what one user can change; the noise.

`Silent` noise with SGD at learning rate 1 and a divisor of 1 makes the change of the weights the
negative sum of the clipped gradients.
"""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import Parameter
from torch.testing import assert_close

from client.compute import batches, trainer
from client.compute.batches import physical_batches, shape_of
from client.compute.steps import LocalPlan
from client.compute.trainer import train
from shared.config import Optimiser
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, trainable
from shared.models.attention_config import AttentionConfig
from shared.models.dropout import Dropout
from shared.privacy.noise import RandomSource, SeededRandom, SystemRandom

V, F, D, T = 13, 5, 8, 6
BELOW_THE_GRID = 1e-12
"""More than the grid of `clipped_sum`'s noise at any clip norm here."""
UNLIKELY = 1e-6
"""Chance that a sound generator fails a statistical test."""

Weights = dict[str, Tensor]
Lists = Sequence[Sequence[int]]
few = settings(max_examples=12, deadline=None)
history = st.lists(st.integers(1, V), max_size=T + 3)
some_users = st.lists(history, max_size=9)
kinds = pytest.mark.parametrize("items", ["ids", "features", "both"])

USERS: Lists = [
    [3, 1, 3, 3, 9, 2, 3],  # a repeated item
    [4, 13],
    [5],  # nothing to predict
    [],
    [7, 7, 7, 7],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],  # longer than the model reads
    [12, 11, 10],
    [2, 13, 1, 13, 2],
    [6, 5, 4, 3, 2, 1],
]

PLAN = LocalPlan(
    local_steps=1,
    sample_rate=1.0,
    population=1,
    clip_norm=1.0,
    noise_multiplier=1.0,
    optimiser=Optimiser.SGD,
    learning_rate=1.0,
)


class Constant:
    """Every normal is `normal_value` and every uniform `uniform_value`; counts what was asked."""

    def __init__(self, normal_value: float, uniform_value: float = 0.0) -> None:
        self.normal_value, self.uniform_value = normal_value, uniform_value
        self.asked = 0

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        self.asked += math.prod(shape)
        return torch.full(shape, self.normal_value, dtype=torch.float64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return np.full(count, self.uniform_value)

    def words(self, count: int) -> NDArray[np.uint64]:
        return np.zeros(count, np.uint64)

    def key(self) -> bytes:
        return bytes(32)


def silent() -> Constant:
    """No noise, and everybody is drawn."""
    return Constant(0.0)


def recommender(
    items: str = "both", *, spread: float = 0.5, seed: int = 0, **shape: object
) -> AttentionRecommender:
    """A model with large weights everywhere, whatever it starts with."""
    fields: dict[str, Any] = {"layers": 2, "heads": 2, "tied": True, "dropout": 0.0}
    config = AttentionConfig(
        items=V,
        item_representation=items,
        feature_size=F,
        hidden_size=D,
        **{"max_length": T} | fields | shape,
    )
    draw = torch.Generator().manual_seed(seed)
    model = AttentionRecommender(config, torch.randn(V, F, generator=draw))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(spread * torch.randn(p.shape, generator=draw))
    return model


def set_rows(patch: pytest.MonkeyPatch, rows: int) -> None:
    """Makes physical batches of so many users."""
    patch.setattr(batches, "most_rows", lambda *_: rows)


def change(
    model: AttentionRecommender,
    users: Lists,
    plan: LocalPlan = PLAN,
    random: RandomSource | None = None,
) -> Weights:
    """What `train` returns; the model is left as it was."""
    histories = Histories.from_lists(users)
    return train(copy.deepcopy(model), histories, plan, random or silent())


def clipped_sum(model: AttentionRecommender, users: Lists, clip_norm: float) -> Weights:
    """The sum that the noise is added to."""
    # The noise is silent, but its deviation sets the grid that the sum is rounded to.
    fine = replace(PLAN, clip_norm=clip_norm, noise_multiplier=1e-6)
    moved = change(model, users, fine)
    return {name: -value for name, value in moved.items()}


def gradient(model: AttentionRecommender, user: Sequence[int]) -> Weights:
    """One user's gradient by plain autograd, from a batch of one that has no padding."""
    events = list(user[-(model.config.max_length + 1) :])
    weights = trainable(model)
    if len(events) < 2:
        return {name: torch.zeros_like(p) for name, p in weights.items()}
    logits = model.among_selected(model(torch.tensor([events[:-1]], device=model.device))[0])
    scores = logits.log_softmax(-1)
    loss = -torch.stack([scores[t, item - 1] for t, item in enumerate(events[1:])]).mean()
    grads = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
    return dict(zip(weights, grads, strict=True))


def norm(weights: Weights) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in weights.values()))


def by_brute_force(model: AttentionRecommender, users: Lists, clip_norm: float) -> Weights:
    total = {name: torch.zeros_like(p) for name, p in trainable(model).items()}
    for user in users:
        own = gradient(model, user)
        factor = min(1.0, clip_norm / (norm(own) + 1e-6))
        total = {name: total[name] + factor * own[name] for name in total}
    return total


def difference(one: Weights, other: Weights) -> Weights:
    return {name: one[name].double() - other[name].double() for name in one}


def assert_same(got: Weights, expected: Weights, tolerance: float = 1e-5) -> None:
    """Equal but for `tolerance` of each weight's largest entry, or of 1e-3 of the whole norm."""
    assert set(got) == set(expected)
    floor = 1e-3 * norm(expected)
    for name, value in got.items():
        assert (value.dtype, value.device.type) == (torch.float32, "cpu")
        exact = expected[name].detach().double().cpu()
        largest = float(exact.abs().max())
        allowed = tolerance * max(largest, floor) + BELOW_THE_GRID * (tolerance > 0)
        assert_close(value.double(), exact, rtol=0, atol=allowed)


# --- the clipped sum ---------------------------------------------------------------------------


BETWEEN = 37.0
"""A clip norm that binds for some of `USERS` only."""
BETWEEN_WITHOUT_OFFSETS = {"ids": 4.0, "features": 6.0, "both": 9.0}


def between(items: str, bias: bool) -> float:
    return BETWEEN if bias else BETWEEN_WITHOUT_OFFSETS[items]


@kinds
@pytest.mark.parametrize("bias", [True, False])
def test_the_cases_below_clip_some_users_and_not_others(items: str, bias: bool) -> None:
    model = recommender(items, item_bias=bias)
    norms = sorted(norm(gradient(model, user)) for user in USERS)
    assert norms[1] == 0 < norms[2]
    assert norms[3] < between(items, bias) < norms[-2]


@kinds
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("clip_norm", [1e-3, None, 1e3])
@pytest.mark.parametrize("users", [4, T, len(USERS)])
def test_the_clipped_sum_is_that_of_single_users(
    items: str, tied: bool, bias: bool, clip_norm: float | None, users: int
) -> None:
    clip_norm = clip_norm or between(items, bias)
    model = recommender(items, tied=tied, item_bias=bias).double()
    expected = by_brute_force(model, USERS[:users], clip_norm)
    assert_same(clipped_sum(model, USERS[:users], clip_norm), expected)


OWN = [1, 3, 4, 7, 9, 12]


@kinds
@pytest.mark.parametrize("clip_norm", [1e-3, 3.0, 1e3])
def test_so_is_that_of_an_organisation_with_some_items_alone(items: str, clip_norm: float) -> None:
    model = recommender(items).double()
    model.restrict(torch.tensor([number in OWN for number in range(1, V + 1)]))
    users = [[OWN[item % len(OWN)] for item in user] for user in USERS]
    summed = clipped_sum(model, users, clip_norm)
    assert_same(summed, by_brute_force(model, users, clip_norm))
    others = [number - 1 for number in range(1, V + 1) if number not in OWN]
    assert not summed["item_scores.offset"][others].any()


def test_candidates_are_items_of_the_organisation_alone() -> None:
    shape = replace(shape_of(recommender().config, 200, 1), among=np.array(OWN))
    (batch,) = physical_batches(
        Histories.from_lists([[1, 3]]), np.zeros(1, np.int64), [shape], bytes(32), 0
    )
    assert set(batch.candidates[0].tolist()) == set(OWN)


@few
@given(st.sampled_from(["ids", "features", "both"]), some_users, st.floats(0.01, 20), st.data())
def test_the_clipped_sum_is_that_of_single_users_whoever_they_are(
    items: str, users: Lists, clip_norm: float, data: st.DataObject
) -> None:
    shape: dict[str, Any] = {
        "layers": data.draw(st.integers(1, 2)),
        "heads": data.draw(st.sampled_from([1, 4])),
        "tied": data.draw(st.booleans()),
    }
    model = recommender(items, seed=data.draw(st.integers(0, 99)), **shape).double()
    with pytest.MonkeyPatch.context() as patch:
        set_rows(patch, data.draw(st.integers(1, 10)))
        got = clipped_sum(model, users, clip_norm)
    assert_same(got, by_brute_force(model, users, clip_norm))


@kinds
@pytest.mark.parametrize("size", [1, 2, T, len(USERS) - 1, len(USERS), 100])
def test_physical_batches_change_nothing(
    items: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = recommender(items).double()
    whole = clipped_sum(model, USERS, BETWEEN)
    set_rows(monkeypatch, size)
    assert_same(clipped_sum(model, USERS, BETWEEN), whole)


def test_batches_are_no_longer_than_what_is_read_of_any_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A public constant of the site, which changes no sum."""
    lengths = set[int]()
    cut = physical_batches

    def noted(histories: Any, users: Any, shapes: Any, *rest: Any) -> Any:  # noqa: ANN401
        lengths.add(shapes[-1].length)
        return cut(histories, users, shapes, *rest)

    monkeypatch.setattr(trainer, "physical_batches", noted)
    model, users = recommender().double(), [user[-4:] for user in USERS]
    fine = replace(PLAN, clip_norm=BETWEEN, noise_multiplier=1e-6)
    whole = change(model, users, fine)
    assert_same(change(model, users, replace(fine, max_events=4)), whole)
    assert lengths == {T, 3}


def test_short_histories_come_in_short_batches_which_changes_no_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user's own length alone decides: in any company the same events are read, to the last."""
    model = recommender(max_length=40).double()
    users = [[1 + (3 * i + n) % V for i in range(n)] for n in (0, 1, 2, 10, 11, 12, 21, 22, 41, 60)]
    expected = by_brute_force(model, users, BETWEEN)
    read: dict[int, int] = {}
    losses = trainer._batch_losses

    def noted(model: Any, batch: Any) -> Any:  # noqa: ANN401
        for row in batch.events[(batch.events != 0).any(1)]:
            read[int((row != 0).sum())] = batch.events.shape[1]
        return losses(model, batch)

    monkeypatch.setattr(trainer, "_batch_losses", noted)
    assert_same(clipped_sum(model, users, BETWEEN), expected)
    shorter = {1: 11, 2: 11, 10: 11, 11: 11, 12: 21, 21: 21, 22: 41, 41: 41}
    assert {n: read[n] for n in shorter} == shorter


def test_in_single_precision_it_is_the_same_sum() -> None:
    model = recommender()
    expected = by_brute_force(model, USERS, BETWEEN)
    assert_same(clipped_sum(model, USERS, BETWEEN), expected, tolerance=1e-4)


def test_with_dropout_it_is_the_sum_under_the_same_masks() -> None:
    """For one user, whose masks follow from the key that `train` draws; in any mode before."""
    model = recommender(dropout=0.4).double()
    model.train(False)
    user = list(range(1, T + 2))  # no padding
    got = clipped_sum(model, [user], BETWEEN)
    shape = shape_of(model.config, 0, 1)
    histories = Histories.from_lists([user])
    (batch,) = physical_batches(histories, np.array([0]), [shape], silent().key(), 0)
    Dropout.give(model, batch.bits)
    assert_same(got, by_brute_force(model.train(), [user], BETWEEN))
    without = clipped_sum(recommender().double(), [user], BETWEEN)
    assert norm(difference(got, without)) > 0.1


@kinds
def test_an_empty_batch_sums_to_zero(items: str) -> None:
    cases: list[Lists] = [[], [[]], [[3]]]
    for users in cases:
        assert norm(clipped_sum(recommender(items), users, 1.0)) == 0


@few
@given(some_users, st.floats(0.1, 10))
def test_no_user_changes_what_another_adds(users: Lists, clip_norm: float) -> None:
    model = recommender().double()
    alone = [clipped_sum(model, [user], clip_norm) for user in users]
    together = clipped_sum(model, users, clip_norm)
    total = {name: sum((one[name] for one in alone), torch.zeros(())) for name in together}
    assert_same(together, {n: v.expand_as(together[n]) for n, v in total.items()})


def test_the_divisor_is_declared_and_not_counted() -> None:
    model = recommender().double()
    total = clipped_sum(model, USERS, 1.0)
    plan = replace(PLAN, sample_rate=0.5, population=40)
    assert_same(change(model, USERS, plan), {n: -v / 20 for n, v in total.items()})
    assert_same(change(model, USERS, replace(plan, learning_rate=3.0)), {
        n: -3 * v / 20 for n, v in total.items()
    })  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@kinds
def test_a_gpu_forms_the_same_sum(items: str) -> None:
    model = recommender(items).double()
    expected = by_brute_force(model, USERS, BETWEEN)
    model.to("cuda")
    assert_same(clipped_sum(model, USERS, BETWEEN), expected)
    noised = change(model, USERS, replace(PLAN, clip_norm=BETWEEN), Constant(1.0))
    assert_same(noised, {n: -(v + BETWEEN) for n, v in expected.items()})


# --- what one user can change ------------------------------------------------------------------


@few
@given(some_users, history, st.floats(0.01, 10), st.sampled_from([0.02, 0.5, 30.0]), st.data())
def test_one_user_moves_the_sum_by_at_most_the_clip_norm(
    users: Lists, one_more: list[int], clip_norm: float, spread: float, data: st.DataObject
) -> None:
    """Also with weights so large that a user's loss is in the thousands."""
    items = data.draw(st.sampled_from(["ids", "features", "both"]))
    model = recommender(items, spread=spread).double()
    place = data.draw(st.integers(0, len(users)))
    more = [*users[:place], one_more, *users[place:]]
    with_them = clipped_sum(model, more, clip_norm)
    moved = norm(difference(with_them, clipped_sum(model, users, clip_norm)))
    assert moved <= clip_norm * (1 + 1e-4) + 1e-5


def test_a_user_with_a_huge_gradient_moves_the_sum_by_the_clip_norm() -> None:
    model = recommender(spread=30.0)
    user = USERS[0]
    assert norm(gradient(model, user)) > 100
    moved = difference(clipped_sum(model, USERS[1:], 0.5), clipped_sum(model, USERS, 0.5))
    assert norm(moved) == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize("where", ["item.weight", "item_out.weight"])
@pytest.mark.parametrize("huge", [1e19, 1e30, 3e38])
def test_a_user_whose_gradient_overflows_moves_the_sum_by_at_most_the_clip_norm(
    where: str, huge: float
) -> None:
    """Weights are the coordinator's, and can be chosen so that one item's users overflow."""
    model = recommender(tied=False)
    with torch.no_grad():
        trainable(model)[where][6] = huge
    if (where, huge) == ("item.weight", 3e38):
        assert not math.isfinite(norm(gradient(model, [7, 8, 9])))
    others = [user for user in USERS if 7 not in user]
    with_them = clipped_sum(model, [*others, [7, 8, 9]], 1.0)
    assert all(value.isfinite().all() for value in with_them.values())
    assert norm(difference(with_them, clipped_sum(model, others, 1.0))) <= 1.001


# --- the noise ---------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("users", [[], USERS])
def test_noise_of_the_stated_scale_is_added_once_to_every_weight(items: str, users: Lists) -> None:
    model = recommender(items).double()
    plan = replace(PLAN, clip_norm=0.3, noise_multiplier=1.5, sample_rate=0.5, population=8)
    random = Constant(1.0)
    added = difference(change(model, users, plan, random), change(model, users, plan))
    expected = {name: torch.full_like(value, -1.5 * 0.3 / 4) for name, value in added.items()}
    assert_same({n: v.float() for n, v in added.items()}, expected)
    assert random.asked == sum(p.numel() for p in trainable(model).values())


@pytest.mark.parametrize("size", [1, 2, 4, 100])
@pytest.mark.parametrize("steps", [1, 3])
def test_noise_is_added_once_a_step_whatever_the_physical_batches(
    size: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_rows(monkeypatch, size)
    random = Constant(1.0)
    change(recommender(), USERS, replace(PLAN, local_steps=steps), random)
    assert random.asked == steps * sum(p.numel() for p in trainable(recommender()).values())


def test_empty_samples_are_noised_like_any_other() -> None:
    nobody = Constant(1.0, uniform_value=0.9)
    plan = replace(PLAN, local_steps=5, sample_rate=0.5, population=4)
    got = change(recommender().double(), USERS, plan, nobody)
    expected = {name: torch.full_like(value, -5 / 2) for name, value in got.items()}
    assert_same(got, expected)
    assert nobody.asked == 5 * sum(value.numel() for value in got.values())


def test_steps_are_taken_one_after_another() -> None:
    """The second gradient is that of the weights after the first noised step."""
    model = recommender().double()
    plan = replace(PLAN, population=50, learning_rate=0.5)
    expected = copy.deepcopy(model)
    for _ in range(3):
        total = by_brute_force(expected, USERS, PLAN.clip_norm)
        with torch.no_grad():
            for name, p in trainable(expected).items():
                p.sub_(0.5 / 50 * (total[name] + PLAN.clip_norm))
    got = change(model, USERS, replace(plan, local_steps=3), Constant(1.0))
    assert_same(got, difference(trainable_values(expected), trainable_values(model)))


def trainable_values(model: AttentionRecommender) -> Weights:
    return {name: p.detach() for name, p in trainable(model).items()}


@pytest.mark.parametrize("random", [SystemRandom(), SeededRandom(5)])
def test_the_noise_is_normal_with_the_stated_deviation(random: RandomSource) -> None:
    model = recommender(spread=0.0)
    plan = replace(PLAN, clip_norm=0.3, noise_multiplier=2.0, sample_rate=0.1, population=50)
    deviation = 2.0 * 0.3 / 5
    noises = [change(model, [], plan, random) for _ in range(4)]
    rows = [[flat(noise, name) / deviation for name in noise] for noise in noises]
    every = torch.cat([value for row in rows for value in row]).double().numpy()
    assert stats.kstest(every, "norm").pvalue > UNLIKELY
    # The sharper test of the scale: a sum of squares is chi-squared.
    assert UNLIKELY < stats.chi2(len(every)).cdf(np.square(every).sum()) < 1 - UNLIKELY
    # No two steps and no two weights of one shape share their noise.
    for row in rows:
        assert_uncorrelated(value for value in row if len(value) == 4 * D * D)
        assert_uncorrelated(value for value in row if len(value) == D * D)
    assert_uncorrelated(torch.cat(row) for row in rows)


def flat(weights: Weights, name: str) -> Tensor:
    return weights[name].flatten()


def assert_uncorrelated(values: Iterable[Tensor]) -> None:
    correlations = np.corrcoef(torch.stack(list(values)).numpy())
    off = correlations[~np.eye(len(correlations), dtype=bool)]
    assert len(off) >= 2
    assert np.abs(off).max() < 0.7


# --- other rules -------------------------------------------------------------------------------


def test_adam_sees_the_noised_gradient() -> None:
    """Its first step is the learning rate in the gradient's direction, whatever its size."""
    plan = replace(PLAN, optimiser=Optimiser.ADAM, learning_rate=0.01)
    for sign in (1.0, -1.0):
        got = change(recommender().double(), [], plan, Constant(sign))
        expected = {name: torch.full_like(value, -0.01 * sign) for name, value in got.items()}
        assert_same(got, expected)
    moved = change(recommender(), USERS, replace(plan, local_steps=3), SeededRandom(1))
    assert all(0 < value.abs().max() < 0.05 for value in moved.values())


@pytest.mark.parametrize("optimiser", list(Optimiser))
@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0])
def test_weight_decay_is_outside_the_clipped_gradient(
    optimiser: Optimiser, noise_multiplier: float
) -> None:
    model = recommender().double()
    plan = replace(PLAN, optimiser=optimiser, noise_multiplier=noise_multiplier)
    bare, decayed = (change(model, USERS, replace(plan, weight_decay=w)) for w in (0.0, 0.25))
    expected = {name: -0.25 * p for name, p in trainable_values(model).items()}
    got = {name: value.float() for name, value in difference(decayed, bare).items()}
    assert_same(got, expected, tolerance=1e-4)


@kinds
@pytest.mark.parametrize("tied", [True, False])
def test_without_privacy_it_is_plain_descent(items: str, tied: bool) -> None:
    model = recommender(items, tied=tied).double()
    plan = replace(
        PLAN,
        local_steps=2,
        population=30,
        noise_multiplier=0.0,
        learning_rate=0.5,
        clip_norm=1e-9,
    )
    expected = copy.deepcopy(model)
    for _ in range(plan.local_steps):
        total = by_brute_force(expected, USERS, math.inf)
        with torch.no_grad():
            for name, p in trainable(expected).items():
                p.sub_(0.5 / 30 * total[name])
    random = Constant(1.0)
    got = change(model, USERS, plan, random)
    assert_same(got, difference(trainable_values(expected), trainable_values(model)))
    assert not random.asked


# --- reproducibility ---------------------------------------------------------------------------


@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0])
def test_a_seed_and_a_path_fix_the_result(noise_multiplier: float) -> None:
    model = recommender(dropout=0.3)
    plan = replace(
        PLAN, local_steps=3, sample_rate=0.5, population=9, noise_multiplier=noise_multiplier
    )
    first = change(model, USERS, plan, SeededRandom(1, 2, 3))
    torch.manual_seed(99)
    torch.rand(5)
    again = change(model, USERS, plan, SeededRandom(1, 2, 3))
    assert_same(first, again, tolerance=0)
    for path in [(1, 2, 4), (1, 3, 3), (2, 2, 3)]:
        assert norm(difference(first, change(model, USERS, plan, SeededRandom(*path)))) > 1e-3


@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0])
def test_torchs_generator_is_left_as_it_was(noise_multiplier: float) -> None:
    model = recommender(dropout=0.3)
    state = torch.get_rng_state()
    change(model, USERS, replace(PLAN, noise_multiplier=noise_multiplier), SystemRandom())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_real_site_never_repeats_itself() -> None:
    plan = replace(PLAN, noise_multiplier=1.0)
    torch.manual_seed(0)
    first = change(recommender(), [], plan, SystemRandom())
    torch.manual_seed(0)
    assert norm(difference(first, change(recommender(), [], plan, SystemRandom()))) > 1


# --- what stays behind -------------------------------------------------------------------------


def traces(model: AttentionRecommender) -> set[str]:
    """Everything that hangs on modules and weights."""
    found = {f"{type(m).__name__}.{key}" for m in model.modules() for key in vars(m)}
    found |= {f"weight.{key}" for p in model.parameters() for key in vars(p)}
    for module in model.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found |= {f"hook {hook}" for kind in hooks for hook in kind.values()}
    return found


@pytest.mark.parametrize("users", [[], USERS, [[1, 2], [3, V + 1]]])
def test_private_training_leaves_nothing_on_the_model(users: Lists) -> None:
    """Also when it fails half-way: item V + 1 does not exist."""
    model = recommender()
    clean = traces(model)
    histories = Histories.from_lists(users)
    if any(V + 1 in user for user in users):
        with pytest.raises((IndexError, RuntimeError)):
            train(model, histories, PLAN, silent())
    else:
        train(model, histories, PLAN, silent())
    assert traces(model) == clean
    assert all(p.grad is None for p in model.parameters())
    model(torch.ones(2, 3, dtype=torch.int64)).sum().backward()  # as before


def test_repeated_training_holds_no_memory() -> None:
    """Python's collector may not run for long: nothing large may wait for it."""

    def bytes_alive() -> int:
        # An exported graph, of another test, leaves tensors without a size behind.
        return sum(o.nbytes for o in gc.get_objects() if type(o) in (Tensor, Parameter))

    model, histories = recommender(), Histories.from_lists(USERS)
    plan = replace(PLAN, local_steps=2, optimiser=Optimiser.ADAM)
    train(model, histories, plan, silent())
    gc.collect()
    gc.disable()
    try:
        before = bytes_alive()
        for _ in range(3):
            train(model, histories, plan, silent())
        grown = bytes_alive() - before
    finally:
        gc.enable()
    own = sum(p.nbytes for p in model.parameters())
    assert grown < own / 2
