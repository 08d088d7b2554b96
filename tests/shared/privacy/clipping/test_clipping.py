"""Book-keeping against autograd over single users; what one user can move; every silent trap.

The networks here are small and of every shape that the rules claim to cover. `alone` is the
independent check: plain autograd, one user at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from shared.errors import ClippingError
from shared.models.attention import AttentionRecommender
from shared.models.attention_config import AttentionConfig
from shared.models.item_scores import ItemScores
from shared.models.losses import loss_per_user, next_item_pairs, sampled_loss_per_user
from shared.privacy.clipping import clipping as book
from shared.privacy.clipping import factors as bookkeeping
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.grid import grid_bits
from shared.privacy.clipping.probe import probe

V, D, T = 17, 8, 5
few = settings(max_examples=60, deadline=None)
Model = TypeVar("Model", bound=nn.Module)
Losses = Callable[[Tensor], Tensor]
"""Losses [B] of users given as ids [B, T + 1], 0 for padding."""


def recommender(**shape: object) -> AttentionRecommender:
    fields: dict[str, object] = {
        "items": V,
        "item_representation": "ids",
        "tied": True,
        "item_bias": True,
        "feature_size": 6,
        "hidden_size": D,
        "layers": 1,
        "max_length": 12,
        "dropout": 0.0,
    }
    draw = torch.Generator().manual_seed(1)
    model = AttentionRecommender(
        AttentionConfig(**fields | shape),  # type: ignore[arg-type]  # any field
        torch.randn(int(str((fields | shape)["items"])), 6, generator=draw),
    )
    return shaken(model.train())


def shaken(model: Model, spread: float = 0.4) -> Model:
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(spread * torch.randn(p.shape, generator=draw))
    return model


def next_item_losses(model: AttentionRecommender, candidates: int = 0) -> Losses:
    def losses(users: Tensor) -> Tensor:
        inputs, targets = next_item_pairs(users)
        if not candidates:
            return loss_per_user(model(inputs), targets)
        # Whatever the batch, a user's candidates follow from its own row.
        offsets = torch.arange(candidates, device=users.device)
        drawn = 1 + (users.sum(1, keepdim=True) * 7 + offsets) % V
        ranked = torch.cat([targets.clamp(min=1), drawn], dim=1)
        return sampled_loss_per_user(model.score(model.states(inputs), ranked), targets, drawn)

    return losses


def weights(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def booked(model: nn.Module, losses: Losses, users: Tensor, clip: float, size: int = 99) -> Tensor:
    """The clipped sum over physical batches of `size`, flat."""
    with PerUserClipping(model, clip) as clipping:
        clipping.zero_sums()
        for part in users.split(size):
            clipping.backward(losses(part))
        return flat_sums(clipping, model)


def flat_sums(clipping: PerUserClipping, model: nn.Module) -> Tensor:
    sums = clipping.sums()
    return torch.cat([sums[p].flatten() for p in weights(model)])


def norms_of(model: nn.Module, losses: Losses, users: Tensor) -> Tensor:
    with PerUserClipping(model, 1.0) as clipping:
        return clipping.backward(losses(users))


def alone(model: nn.Module, losses: Losses, users: Tensor) -> Tensor:
    """Each user's gradient by plain autograd from a batch of that user alone, [B, weights]."""
    rows = []
    for user in users:
        found = torch.autograd.grad(
            losses(user[None]).sum(), weights(model), materialize_grads=True
        )
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def clipped(gradients: Tensor, clip: float) -> Tensor:
    sizes = gradients.norm(dim=1, keepdim=True)
    return (gradients * (clip / sizes).clamp(max=1).nan_to_num(1.0)).sum(0)


def assert_near(found: Tensor, expected: Tensor, tolerance: float, grid: float = 0.0) -> None:
    """Within a share of the expected norm, and of what one user's rounding to a grid may move."""
    allowed = tolerance * max(float(expected.norm()), 1e-12) + 0.5 * grid * len(expected) ** 0.5
    assert float((found - expected).norm()) <= allowed


def grid(clip: float, users: int = 1) -> float:
    return users * clip * 2.0 ** -grid_bits(torch.float32)


@st.composite
def batches(draw: st.DrawFn) -> Tensor:
    """Right-padded users with repeated items: B = 1, B = T and others, some users empty."""
    users, length = draw(st.sampled_from([(1, 6), (5, 6), (6, 6), (7, 3), (3, 12)]))
    rows = [
        draw(st.lists(st.integers(1, draw(st.sampled_from([2, V]))), max_size=length))
        for _ in range(users)
    ]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


models = st.fixed_dictionaries(
    {
        "item_representation": st.sampled_from(["ids", "features", "both"]),
        "tied": st.booleans(),
        "item_bias": st.booleans(),
        "layers": st.integers(0, 2),
        "heads": st.sampled_from([1, 2, 4]),
    }
)


# --- norms and sums ----------------------------------------------------------------------------


@few
@given(models, batches(), st.sampled_from([0, 1, 4]), st.sampled_from([1, 2, 99]))
def test_norms_and_clipped_sums_are_those_of_single_users(
    shape: dict[str, object], users: Tensor, candidates: int, size: int
) -> None:
    """In float32, to 1e-5."""
    model = recommender(**shape)
    losses = next_item_losses(model, candidates)
    expected = alone(model, losses, users)
    sizes = expected.norm(dim=1)
    assert_close(norms_of(model, losses, users), sizes, rtol=1e-5, atol=1e-6)
    for clip in (1e3, max(float(sizes.median()), 1e-3), 1e-3):
        got = booked(model, losses, users, clip, size)
        assert_near(got, clipped(expected, clip), 1e-5, grid(clip, len(users)))


@few
@given(batches(), st.integers(1, 7), st.booleans())
def test_gradients_formed_for_any_number_of_users_are_the_same_bits(
    users: Tensor, at_once: int, small: bool
) -> None:
    model = recommender(hidden_size=4 if small else 16, heads=1)
    losses = next_item_losses(model)
    found, expected = norms_of(model, losses, users), booked(model, losses, users, 0.1)
    assert_close(found, alone(model, losses, users).norm(dim=1), rtol=1e-5, atol=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book, "_AT_ONCE", {"cpu": at_once * model.item.weight.numel()})
        assert torch.equal(norms_of(model, losses, users), found)
        assert torch.equal(booked(model, losses, users, 0.1), expected)


@pytest.mark.parametrize("candidates", [0, 4])
def test_with_dropout_it_is_the_sum_under_the_same_masks(candidates: int) -> None:
    model = recommender(dropout=0.4, layers=2)
    users = 1 + torch.arange(4 * 6).view(4, 6) * 5 % V
    losses = next_item_losses(model, candidates)

    def masked(rows: Tensor) -> Tensor:
        torch.manual_seed(3)
        return losses(rows)

    expected = [
        torch.autograd.grad(masked(users)[row], weights(model), materialize_grads=True)
        for row in range(4)
    ]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in expected])
    with torch.random.fork_rng():
        assert_near(booked(model, masked, users, 0.5), clipped(flat, 0.5), 1e-5)
    assert float((flat - alone(model, losses, users)).norm()) > 0.1


def test_an_empty_batch_sums_to_zero() -> None:
    model = recommender()
    with PerUserClipping(model, 1.0) as clipping:
        clipping.zero_sums()
        assert flat_sums(clipping, model).count_nonzero() == 0
        norms = clipping.backward(next_item_losses(model)(torch.zeros(0, T + 1, dtype=torch.int64)))
        assert norms.shape == (0,)
        assert flat_sums(clipping, model).count_nonzero() == 0
    assert all(p.grad is None for p in weights(model))


class Odd(nn.Module):
    """Every layer that is known, shared, repeated, without bias, and on inputs of other ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(V + 1, D, padding_idx=0)
        self.shared = nn.Linear(D, D)
        self.again = nn.Linear(D, D, bias=False)
        self.again.weight = self.shared.weight
        self.norm, self.rms = nn.LayerNorm([2, D]), nn.RMSNorm(D)
        self.bare = nn.LayerNorm(D, elementwise_affine=False)
        self.wide = nn.Linear(D, 3 * D)
        self.frozen = nn.Linear(3 * D, D)
        self.frozen.weight.requires_grad_(False)
        self.scores = nn.Linear(D, V + 1, bias=False)
        self.scores.weight = self.item.weight

    def forward(self, ids: Tensor) -> Tensor:  # (B, T) -> (B)
        x = self.shared(self.shared(self.item(ids))) + self.again(self.item(ids.flip(1)))
        x = self.norm(torch.stack([x, x.flip(1)], dim=2)).sum(2)
        x = self.frozen(F.gelu(self.wide(self.rms(self.bare(x)))))
        pooled = self.shared(x.mean(1))  # (B, D): no axis of places
        scores: Tensor = self.scores(torch.stack([pooled, x[:, 0]], dim=1))
        return scores.logsumexp(2).square().sum(1)


@few
@given(batches(), st.sampled_from([1, 3, 99]))
def test_shared_and_repeated_layers_add_up_before_they_are_squared(
    users: Tensor, size: int
) -> None:
    model = shaken(Odd()).double()
    expected = alone(model, model, users)
    assert_close(norms_of(model, model, users), expected.norm(dim=1), rtol=1e-9, atol=1e-9)
    clip = float(expected.norm(dim=1).median())
    assert_near(booked(model, model, users, clip, size), clipped(expected, clip), 1e-9)


def test_no_users_gradient_of_an_item_table_is_ever_formed() -> None:
    """No tensor of B x V x D numbers, nor half of it, exists at any time in the pass."""
    items, users = 40_000, 16
    model = recommender(items=items)
    rows = 1 + torch.arange(users * (T + 1)).view(users, T + 1) % items
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, Tensor) else 0)
            return out

    # The largest are the scores; a tile is smaller, and so is the table.
    with Watch():  # type: ignore[no-untyped-call]
        booked(model, next_item_losses(model), rows, 1.0)
    assert largest == users * T * items < users * items * D


# --- what one user can move --------------------------------------------------------------------


def scaled(model: AttentionRecommender, factor: float) -> Losses:
    """The last user's loss counts `factor` times."""

    def losses(users: Tensor) -> Tensor:
        plain = next_item_losses(model)(users)
        factors = torch.ones(len(users))
        factors[-1] = factor
        return plain * factors

    return losses


USERS = 1 + torch.arange(6 * 9).view(6, 9) * 5 % V


@pytest.mark.parametrize("factor", [1e6, 1e12, 1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("clip", [1e-3, 1.0])
def test_no_user_moves_the_sum_by_more_than_the_clip_norm(factor: float, clip: float) -> None:
    model = recommender()
    without = booked(model, next_item_losses(model), USERS[:-1], clip)
    moved = booked(model, scaled(model, factor), USERS, clip) - without
    assert moved.isfinite().all()
    assert float(moved.norm()) <= clip * (1 + 1e-5)


def test_a_user_who_is_clipped_adds_the_clip_norm_and_no_less() -> None:
    model = recommender()
    without = booked(model, next_item_losses(model), USERS[:-1], 0.5)
    moved = booked(model, scaled(model, 1e6), USERS, 0.5) - without
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_non_finite_gradient_adds_nothing_and_changes_no_other_user(broken: float) -> None:
    model = recommender()
    alike = booked(model, next_item_losses(model), USERS[:-1], 1.0)
    assert_close(booked(model, scaled(model, broken), USERS, 1.0), alike, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, 1e6])
def test_the_usual_norm_loses_what_cancels(size: float) -> None:
    """From products of places, in float32: a negative square of a norm that is not 0."""
    draw = torch.Generator().manual_seed(5)
    one = torch.randn(1, 256, generator=draw)
    inputs = torch.cat([one, one * (1 + 1e-6 * torch.randn(one.shape, generator=draw))])
    gradients = torch.tensor([[size], [-size]]).repeat(1, 300)
    usual = ((inputs @ inputs.T) * (gradients @ gradients.T)).sum()
    exactly = (gradients.double().T @ inputs.double()).norm() ** 2
    assert float(exactly) > 0 >= float(usual)
    ours = bookkeeping.squared_norms(bookkeeping.Outer(inputs[None], gradients[None]).formed())
    assert float(ours) == pytest.approx(float(exactly), rel=0.05)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, 1e6])
def test_gradients_that_cancel_within_a_user_stay_within_the_clip_norm(size: float) -> None:
    """Two places of opposite, huge gradients leave a rest that float32 hardly knows."""

    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Linear(256, 300, bias=False)

        def forward(self, states: Tensor) -> Tensor:
            out = self.scores(states)  # (B, 2, 300)
            return size * (out[:, 0] - out[:, 1]).sum(1) + 1e-3 * out[:, 0, 0]

    model = Cancelling()
    draw = torch.Generator().manual_seed(5)
    one = torch.randn(1, 1, 256, generator=draw)
    states = torch.cat([one, one * (1 + 1e-6 * torch.randn(one.shape, generator=draw))], dim=1)
    total = booked(model, model, states, 1e-2).double()
    assert float(total.norm()) <= 1e-2 * (1 + 1e-3)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spread", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("candidates", [0, 4])
def test_under_autocast_the_bound_is_exact(
    kind: torch.dtype, spread: float, candidates: int
) -> None:
    """Whatever half precision makes of a gradient, its norm and its share are of the same one."""
    model = shaken(recommender(layers=2), spread)
    losses = next_item_losses(model, candidates)

    def half(users: Tensor) -> Tensor:
        with torch.autocast("cpu", kind):
            return losses(users)

    for user in USERS:
        norm = float(norms_of(model, half, user[None]))
        for clip in (norm / 1000, norm / 2, norm * 2):
            size = float(booked(model, half, user[None], clip).double().norm())
            assert size == pytest.approx(min(norm, clip), rel=1e-5)
    together = booked(model, half, USERS, 0.1).double()
    one_by_one = [booked(model, half, user[None], 0.1).double() for user in USERS]
    assert_near(together, torch.stack(one_by_one).sum(0), 0.05)


def test_half_precision_is_widened_before_it_is_added_up() -> None:
    """Sums of half-precision numbers in half precision would lose most of them."""
    model = nn.Linear(1, 1, bias=False)

    def half(states: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(states).float().sum((1, 2))

    states = torch.ones(1, 4001, 1)  # bfloat16 counts to 256
    assert float(norms_of(model, half, states)) == 4001
    assert float(booked(model, half, states, 2.0**17)) == 4001


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("candidates", [0, 4])
def test_a_gpu_with_shortened_products_keeps_the_bound(candidates: int) -> None:
    """TF32 allowed and bfloat16 autocast: what clipping computes is in float32 all the same."""
    model = recommender(layers=2).to("cuda")
    losses, users = next_item_losses(model, candidates), USERS.cuda()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            for user in users:
                norm = float(norms_of(model, losses, user[None]))
                size = float(booked(model, losses, user[None], norm / 2).double().norm())
                assert size == pytest.approx(norm / 2, rel=1e-5)
    finally:
        torch.set_float32_matmul_precision(before)
    expected = alone(model, losses, users)
    assert_near(booked(model, losses, users, 0.5), clipped(expected, 0.5), 1e-3)


# --- traps: each breaks the guarantee without an error in a library that does not look ----------


class Tied(nn.Module):
    """Scores items by the input table; how, is the trap."""

    def __init__(self, score: Callable[[Tensor, nn.Embedding], Tensor]) -> None:
        super().__init__()
        self.item, self.score = nn.Embedding(V + 1, D), score

    def forward(self, users: Tensor) -> Tensor:
        inputs, targets = next_item_pairs(users)
        return loss_per_user(self.score(self.item(inputs), self.item)[..., 1:], targets)


@pytest.mark.parametrize(
    "score",
    [
        lambda x, item: F.linear(x, item.weight),
        lambda x, item: x @ item.weight.T,
        lambda x, item: x @ item.weight.detach().clone().T + 0 * item.weight.sum(),
    ],
)
def test_trap_1_a_tied_table_used_outside_its_layer_is_refused(
    score: Callable[[Tensor, nn.Embedding], Tensor],
) -> None:
    model = shaken(Tied(score))
    with pytest.raises(ClippingError, match=r"weights of shape \[18, 8\] were used outside"):
        booked(model, model, USERS, 1.0)
    with pytest.raises(ClippingError, match="used outside their layers"):
        probe(model, model, USERS[:3])


def test_trap_1_a_custom_head_that_holds_the_table_is_refused_by_name() -> None:
    class Head(nn.Module):
        def __init__(self, table: Tensor) -> None:
            super().__init__()
            self.table = table

    model = Tied(lambda x, item: x)
    model.head = Head(model.item.weight)
    with pytest.raises(ClippingError, match=r"layer 'head'.* a Head are not known.* or freeze"):
        PerUserClipping(model, 1.0)


def test_trap_1_the_tied_table_has_gradients_from_input_and_output() -> None:
    """What hooks lose is most of it: the output side has a gradient for every item."""
    model = recommender(item_bias=False)
    losses = next_item_losses(model)
    with PerUserClipping(model, 50.0) as clipping:
        clipping.zero_sums()
        clipping.backward(losses(USERS))
        table = clipping.sums()[model.item.weight]
    (expected,) = torch.autograd.grad(losses(USERS).sum(), model.item.weight)
    assert_near(table, expected, 1e-4)
    assert (table.norm(dim=1) > 0).all()


def test_trap_2_one_loss_for_the_batch_is_refused() -> None:
    model = recommender()
    losses = next_item_losses(model)
    with pytest.raises(ClippingError, match=r"losses have shape \[\], not one a user"):
        booked(model, lambda users: losses(users).mean(), USERS, 1.0)
    with pytest.raises(ClippingError, match=r"shape \[6, 1\]"):
        booked(model, lambda users: losses(users)[:, None], USERS, 1.0)


def test_trap_3_a_plain_backward_is_refused_because_it_does_not_clip() -> None:
    model = recommender()
    with PerUserClipping(model, 1.0):
        with pytest.raises(ClippingError, match=r"call clipping\.backward\(losses\)"):
            next_item_losses(model)(USERS).sum().backward()
        assert all(p.grad is None for p in model.parameters())


def test_trap_3_is_still_refused_after_a_batch_that_failed() -> None:
    model = recommender()
    losses = next_item_losses(model)
    with PerUserClipping(model, 1.0) as clipping:
        with pytest.raises(ClippingError, match="in a batch of 1 users"):
            clipping.backward(losses(USERS).sum()[None])
        with pytest.raises(ClippingError, match=r"call clipping\.backward\(losses\)"):
            losses(USERS).sum().backward()


def test_trap_4_a_clip_norm_is_fixed_for_good() -> None:
    """Nested contexts do not keep the outer one's bound, nor does anything after them."""
    model = recommender()
    losses = next_item_losses(model)
    for clip in (1.0, 0.01, 1.0):
        sizes = [float(booked(model, losses, user[None], clip).norm()) for user in USERS]
        assert max(sizes) == pytest.approx(clip, rel=1e-5)
    assert not hasattr(PerUserClipping(model, 1.0), "clip_norm")


def test_trap_5_a_mean_over_the_batchs_tokens_is_refused_by_the_probe() -> None:
    model = recommender()

    def losses(users: Tensor) -> Tensor:
        _, targets = next_item_pairs(users)
        own = next_item_losses(model)(users) * (targets != 0).sum(1)
        return own / (targets != 0).sum()

    with pytest.raises(ClippingError, match="own user alone"):
        probe(model, losses, USERS[:3])


def test_trap_5_statistics_of_the_batch_are_refused_by_the_probe() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(D, D)
            self.batch = nn.BatchNorm1d(D, affine=False)

        def forward(self, x: Tensor) -> Tensor:  # (B, D) -> (B)
            return self.batch(self.inner(x)).pow(3).sum(1)

    model = Normed()
    with pytest.raises(ClippingError, match="own user alone"):
        probe(model, model, torch.randn(3, D))


def test_trap_5_negatives_taken_from_the_batch_are_refused_by_the_probe() -> None:
    model = nn.Sequential(nn.Embedding(V + 1, D), nn.Linear(D, D))

    def losses(users: Tensor) -> Tensor:
        states = model(users).mean(1)  # (B, D)
        return -(states @ states.T).log_softmax(1).diagonal()

    with pytest.raises(ClippingError, match="own user alone"):
        probe(model, losses, USERS[:3])


class Positions(nn.Module):
    """Position ids with or without a batch axis."""

    def __init__(self, shape: Callable[[int, int], Tensor]) -> None:
        super().__init__()
        self.shape, self.item, self.place = shape, nn.Embedding(V + 1, D), nn.Embedding(9, D)

    def forward(self, users: Tensor) -> Tensor:
        x = self.item(users) + self.place(self.shape(*users.shape))
        return x.pow(2).sum((1, 2))


@pytest.mark.parametrize("users", [3, 9])  # B != T, B == T
def test_trap_6_positions_without_a_batch_axis_are_refused(users: int) -> None:
    model = shaken(Positions(lambda b, t: torch.arange(t)))
    rows = USERS[0].repeat(users, 1)
    if users != 9:
        with pytest.raises(
            ClippingError, match=r"layer Embedding got an input of shape \[9\] in a batch of 3"
        ):
            booked(model, model, rows, 1.0)
    with pytest.raises(ClippingError, match="first axis must be the batch's"):
        probe(model, model, rows[:2])
    good = shaken(Positions(lambda b, t: torch.arange(t).repeat(b, 1)))
    expected = alone(good, good, rows)
    assert_near(booked(good, good, rows, 0.5), clipped(expected, 0.5), 1e-5)


def test_trap_6_ids_without_a_batch_axis_are_refused_even_where_b_equals_t() -> None:
    model = shaken(Positions(lambda b, t: torch.arange(t)))
    with pytest.raises(ClippingError, match="first axis must be the batch's"):
        booked(model, model, USERS[0].repeat(9, 1), 1.0)


def test_trap_6_shared_negatives_are_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding(V + 1, D)

        def forward(self, users: Tensor) -> Tensor:
            shared = self.item(torch.arange(1, 4))  # (K, D), K <= B
            scores = self.item(users) @ shared.T
            return scores.logsumexp(2).sum(1)

    model = shaken(Shared())
    for users in (3, 6):
        with pytest.raises(ClippingError, match="first axis must be the batch's"):
            booked(model, model, USERS[:users], 1.0)


def test_trap_7_attention_with_weights_of_its_own_is_refused_by_name() -> None:
    with pytest.raises(ClippingError, match="a MultiheadAttention are not known"):
        PerUserClipping(nn.Sequential(nn.MultiheadAttention(D, 2, batch_first=True)), 1.0)


def test_trap_9_two_backwards_before_a_step_add_up() -> None:
    model = recommender()
    losses = next_item_losses(model)
    expected = booked(model, losses, USERS, 0.1)
    assert_near(booked(model, losses, USERS, 0.1, size=2), expected, 1e-5)


def test_trap_9_a_batch_left_early_leaves_nothing_for_the_next() -> None:
    model = recommender()
    losses = next_item_losses(model)
    expected = booked(model, losses, USERS[3:], 0.1)
    with PerUserClipping(model, 0.1) as clipping:
        clipping.zero_sums()
        clipping.backward(losses(USERS[:3]))
        losses(USERS[:3])  # and a pass without its backward
        clipping.zero_sums()
        clipping.backward(losses(USERS[3:]))
        found = flat_sums(clipping, model)
    assert_near(found, expected, 1e-6)


def test_trap_10_a_penalty_on_weights_inside_the_loss_is_refused() -> None:
    model = recommender()

    def losses(users: Tensor) -> Tensor:
        return next_item_losses(model)(users) + 0.1 * model.norm.weight.square().sum()

    with pytest.raises(ClippingError, match="take weight decay from the optimiser"):
        booked(model, losses, USERS, 1.0)


def test_trap_13_noise_has_no_padding_row_to_fall_on() -> None:
    model = recommender()
    assert model.item.weight.shape == (V, D)
    inputs = torch.tensor([[3, 0, 0]])
    with torch.no_grad():
        before = model.states(inputs)
        model.item.weight[0] += 1.0  # item 1, which a padded place reads
        assert_close(model.states(inputs), before)


def test_trap_13_a_weight_on_the_model_itself_is_refused_by_name() -> None:
    class Rooted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(ClippingError, match="a Rooted are not known"):
        PerUserClipping(Rooted(), 1.0)


# --- further ways to be wrong -------------------------------------------------------------------


def test_frozen_layers_of_any_kind_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1).requires_grad_(False), nn.Linear(D, D))
    users = torch.randn(3, 1, D)

    def losses(rows: Tensor) -> Tensor:
        return model(rows).pow(2).sum((1, 2))

    assert_near(booked(model, losses, users, 0.1), clipped(alone(model, losses, users), 0.1), 1e-5)


def test_an_input_changed_in_place_is_refused() -> None:
    model = nn.Sequential(nn.Linear(D, D))

    def losses(rows: Tensor) -> Tensor:
        x = rows.clone()
        out = model(x)
        x.mul_(2)
        return out.sum(1)

    with pytest.raises(ClippingError, match="changed in place"):
        booked(model, losses, torch.randn(3, D), 1.0)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf, 1e-13, 1e13])
def test_a_clip_norm_outside_float32s_reach_is_refused(clip: float) -> None:
    with pytest.raises(ClippingError, match="clip_norm = "):
        PerUserClipping(recommender(), clip)


def test_outside_the_context_the_model_is_what_it_was() -> None:
    model = recommender()
    losses = next_item_losses(model)
    before = [vars(layer).copy() for layer in model.modules()]
    with torch.no_grad():
        scores = model(USERS)
    with PerUserClipping(model, 1.0):
        with torch.no_grad():
            assert_close(model(USERS), scores, rtol=0, atol=0)
        losses(USERS)
    assert [vars(layer) for layer in model.modules()] == before
    losses(USERS).sum().backward()
    assert all(p.grad is not None for p in weights(model))


def test_scores_of_candidates_are_known_of_frozen_tables_too() -> None:
    layer = ItemScores(V, offset=True)
    table, ids = torch.randn(V, D), torch.tensor([[1, 2, 2], [3, 4, 5]])

    def losses(states: Tensor) -> Tensor:
        return layer(states, table, ids[: len(states)]).pow(2).sum((1, 2))

    states = torch.randn(2, 4, D)
    found = norms_of(layer, losses, states)
    by_hand = 2 * layer.OFFSET_SCALE * (states @ table[ids - 1].mT).sum(1)  # (B, K)
    merged = [
        torch.zeros(V).index_add_(0, i - 1, g).norm() for i, g in zip(ids, by_hand, strict=True)
    ]
    assert_close(found, torch.stack(merged))
