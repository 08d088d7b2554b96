"""Sums of gradients that are never formed: against float64, against integers, against an enemy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shared.privacy.clipping import outer_sums
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.factors import Outer
from shared.privacy.clipping.outer_sums import POINT_BITS, Factored, OuterSum, pays

INPUTS, OUTPUTS = 40, 30
search = settings(max_examples=80, deadline=None)


def use(seed: int, users: int, places: int, spread: float = 0.0) -> Outer:
    """Factors whose places differ in size by up to e^spread."""
    draw = torch.Generator().manual_seed(seed)

    def values(width: int) -> Tensor:
        sizes = (spread * (2 * torch.rand(users, places, 1, generator=draw) - 1)).exp()
        return torch.randn(users, places, width, generator=draw) * sizes

    return Outer(values(INPUTS), values(OUTPUTS))


def cancelling(seed: int, users: int, places: int) -> Outer:
    """Every second place takes back the one before, but for the last bits."""
    one = use(seed, users, places, spread=3.0)
    draw = torch.Generator().manual_seed(seed)
    inputs, gradients = one.inputs.clone(), one.gradients.clone()
    inputs[:, 1::2] = inputs[:, 0 : places - places % 2 : 2]
    gradients[:, 1::2] = -gradients[:, 0 : places - places % 2 : 2]
    return Outer(inputs * (1 + 2.0**-20 * torch.randn(inputs.shape, generator=draw)), gradients)


def scales(users: Factored) -> Tensor:
    """The factors with which each is clipped to length 1."""
    return ((1 - users.reserved) / users.squared.sqrt()).clamp(max=1).nan_to_num(0.0)


def points(users: Factored, chosen: slice = slice(None)) -> Tensor:
    """The sum of some users in steps of its grid, exactly."""
    total = OuterSum(OUTPUTS, INPUTS)
    some = Factored(
        users.inputs[chosen],
        users.gradients[chosen],
        users.exponents[chosen],
        users.squared[chosen],
        users.reserved[chosen],
    )
    total.add(some, scales(users)[chosen])
    total._carry()
    return (total._high << outer_sums._CARRIED) + total._total


def length(share: Tensor) -> float:
    """Of a share in steps: by Python's integers, with no rounding before the root."""
    return math.sqrt(sum(int(x) ** 2 for x in share.flatten().tolist())) / 2**POINT_BITS


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e12])
def test_norms_and_sums_are_those_of_formed_gradients(size: float) -> None:
    outer = use(0, 7, 5, spread=2.0)
    outer = Outer(outer.inputs * size, outer.gradients / size**0.5)
    formed = outer.gradients.double().mT @ outer.inputs.double()  # [B, O, I]
    users = Factored.of(outer)
    norms = formed.flatten(1).norm(dim=1)
    torch.testing.assert_close(users.squared.sqrt(), norms, rtol=1e-5, atol=0)
    total = OuterSum(OUTPUTS, INPUTS)
    total.add(users, 1 / norms)
    expected = (formed / norms[:, None, None]).sum(0)
    assert float((total.total() - expected).norm() / expected.norm()) < 1e-5


@search
@given(st.integers(0, 2**32), st.integers(1, 9), st.booleans(), st.floats(0, 12))
def test_nobody_adds_more_than_the_clip_norm(
    seed: int, places: int, cancels: bool, spread: float
) -> None:
    outer = cancelling(seed, 3, places) if cancels else use(seed, 3, places, spread)
    outer = Outer(outer.inputs * 1e8, outer.gradients * 1e8)  # all are clipped
    users = Factored.of(outer)
    for row in range(3):
        share = length(points(users, slice(row, row + 1)))
        assert share <= 1
        if not cancels:
            assert share > 1 - 2 * float(users.reserved[row]) - 1e-6


@search
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_the_sum_with_a_user_is_the_sum_without_and_its_share_in_every_bit(
    seed: int, places: int
) -> None:
    """In any order and any division into batches."""
    users = Factored.of(cancelling(seed, 6, places))
    whole = points(users)
    alone = [points(users, slice(row, row + 1)) for row in range(6)]
    assert torch.equal(whole, torch.stack(alone).sum(0))
    assert torch.equal(whole, points(users, slice(4)) + points(users, slice(4, 6)))
    # A user's numbers do not depend on the batch.
    outer = cancelling(seed, 6, places)
    single = Factored.of(Outer(outer.inputs[2:3], outer.gradients[2:3]))
    assert torch.equal(single.gradients[0], users.gradients[2])
    assert torch.equal(single.squared, users.squared[2:3])


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("side", ["inputs", "gradients"])
def test_a_number_that_is_not_finite_leaves_its_user_out(broken: float, side: str) -> None:
    outer = use(3, 4, 5)
    getattr(outer, side)[1, 2, 3] = broken
    users = Factored.of(outer)
    assert users.squared.isfinite().tolist() == [True, False, True, True]
    others = points(users, slice(0, 1)) + points(users, slice(2, 4))
    assert torch.equal(points(users), others)


def test_the_largest_and_the_smallest_numbers_are_measured() -> None:
    tiny, huge = torch.finfo(torch.float32).smallest_normal / 2**20, torch.finfo(torch.float32).max
    for inputs, gradients in ((tiny, tiny), (huge, huge), (tiny, huge), (0.0, 1.0)):
        outer = Outer(torch.full((1, 2, INPUTS), inputs), torch.full((1, 2, OUTPUTS), gradients))
        formed = outer.gradients.double().mT @ outer.inputs.double()
        users = Factored.of(outer)
        norm = float(formed.norm())
        assert float(users.squared.sqrt()) == pytest.approx(norm, rel=1e-5)
        assert length(points(users)) <= 1


def test_high_bits_are_kept_apart_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    users = Factored.of(use(5, 4, 3))
    whole = OuterSum(OUTPUTS, INPUTS)
    whole.add(users, scales(users))
    monkeypatch.setattr(outer_sums, "_USERS", 1)
    carried = OuterSum(OUTPUTS, INPUTS)
    for _ in range(2**4):  # as many carries
        carried.add(users, scales(users))
    assert torch.equal(carried.total(), 2**4 * whole.total())


def test_a_large_layer_is_clipped_like_a_small_one_and_over_both_together() -> None:
    """One norm over formed weights and those that are not, by autograd over single users."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 300), nn.Linear(300, 200))
    assert pays(4, 300, 200)
    x, size = torch.randn(5, 4, 6), torch.tensor([1e-4, 1.0, 3.0, 1e3, 1e6])
    clip = 2.0
    with PerUserClipping(model, clip) as clipping:
        clipping.zero_sums()
        norms = clipping.backward((model(x) ** 2).mean((1, 2)) * size)
        assert list(clipping._outer_sums) == [model[1].weight]
        got = torch.cat([clipping.sum_of(p).flatten() for p in model.parameters()])
    total = torch.zeros_like(got)
    for row in range(5):
        loss = (model(x[row]) ** 2).mean() * size[row]
        own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])
        assert float(norms[row]) == pytest.approx(float(own.norm()), rel=1e-5)
        total += own * min(1.0, clip / float(own.norm()))
    assert float((got - total).norm() / total.norm()) < 1e-4
