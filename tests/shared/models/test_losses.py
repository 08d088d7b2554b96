"""The fused loss against torch's own; one loss a user, from that user alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from shared.data.histories import Histories
from shared.models.losses import loss_per_user, next_item_pairs, sampled_loss_per_user

V, T = 11, 6
few = settings(max_examples=25, deadline=None)
lists = st.lists(st.lists(st.integers(1, V), max_size=T), min_size=1, max_size=5)


def padded(histories: list[list[int]], length: int = T) -> Tensor:
    return Histories.from_lists(histories).padded(range(len(histories)), length)


def drawn(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(5))


def by_torch(logits: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten() - 1, reduction="none", ignore_index=-1
    ).view_as(targets)
    return losses.sum(1) / (targets != 0).sum(1).clamp(min=1)


def test_pairs_are_shifted_by_one() -> None:
    inputs, targets = next_item_pairs(padded([[5, 3, 8], [1]], 4))
    assert inputs.tolist() == [[5, 3, 8], [1, 0, 0]]
    assert targets.tolist() == [[3, 8, 0], [0, 0, 0]]


@few
@given(lists)
def test_the_loss_is_each_users_own_mean(histories: list[list[int]]) -> None:
    logits = torch.randn(len(histories), T, V, generator=torch.Generator().manual_seed(5))
    losses = loss_per_user(logits, padded(histories))
    expected = [
        sum(-float(logits[row, t].log_softmax(0)[item - 1]) for t, item in enumerate(history))
        / max(len(history), 1)
        for row, history in enumerate(histories)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_user_without_targets_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 3, V, requires_grad=True)
    losses = loss_per_user(logits, torch.tensor([[0, 0, 0], [1, 0, 0]]))
    losses.sum().backward()
    assert losses[0] == 0
    assert logits.grad is not None
    assert_close(logits.grad[0], torch.zeros(3, V))
    assert logits.grad[1].abs().sum() > 0


@few
@given(lists, st.sampled_from([0.1, 1.0, 9.0]), st.booleans())
def test_loss_and_gradient_are_torchs(
    histories: list[list[int]], scale: float, double: bool
) -> None:
    kind = torch.float64 if double else torch.float32
    logits = drawn(len(histories), T, V, scale=scale).to(kind).requires_grad_()
    targets, weights = padded(histories), drawn(len(histories)).to(kind)
    losses, expected = loss_per_user(logits, targets), by_torch(logits, targets)
    assert_close(losses, expected)
    (gradient,) = torch.autograd.grad((losses * weights).sum(), logits)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), logits)
    assert_close(gradient, wanted)


def test_an_impossible_target_has_a_finite_loss_and_its_full_gradient() -> None:
    logits = torch.tensor([[[0.0, 300.0, 0.0]]], requires_grad=True)
    loss = loss_per_user(logits, torch.tensor([[1]]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert float(loss.detach()) == pytest.approx(87.3, abs=0.1)
    assert_close(gradient[0, 0], torch.tensor([-1.0, 1.0, 0.0]))


def test_the_loss_of_half_precision_scores_is_computed_in_full_precision() -> None:
    logits = drawn(2, T, V).bfloat16().requires_grad_()
    targets = padded([[1, 2, 3], [4, 5, 6, 7]])
    losses = loss_per_user(logits, targets)
    assert losses.dtype == torch.float32
    assert_close(losses, by_torch(logits.float(), targets))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient.dtype == torch.bfloat16


def test_a_second_gradient_is_an_error() -> None:
    """The buffer of the probabilities becomes the gradient: a second one would be wrong."""
    logits = drawn(1, T, V).requires_grad_()
    loss = loss_per_user(logits, padded([[1, 2]])).sum()
    torch.autograd.grad(loss, logits, retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss anew"):
        torch.autograd.grad(loss, logits)


# --- among candidates --------------------------------------------------------------------------


@few
@given(lists, st.integers(1, 5), st.data())
def test_candidates_equal_to_the_target_are_ignored(
    histories: list[list[int]], many: int, data: st.DataObject
) -> None:
    users, targets = len(histories), padded(histories)
    ids = st.lists(st.integers(1, V), min_size=many, max_size=many)
    candidates = torch.tensor([data.draw(ids) for _ in range(users)])
    scores = drawn(users, T, T + many)
    losses = sampled_loss_per_user(scores, targets, candidates)
    for row, history in enumerate(histories):
        terms = []
        for t, item in enumerate(history):
            others = [
                float(scores[row, t, T + k])
                for k, other in enumerate(candidates[row].tolist())
                if other != item
            ]
            terms.append(torch.tensor([float(scores[row, t, t]), *others]).log_softmax(0)[0])
        expected = -sum(terms, start=torch.zeros(())) / max(len(history), 1)
        assert_close(losses[row], expected, rtol=1e-4, atol=1e-6)


def test_candidates_that_all_equal_the_target_give_no_gradient() -> None:
    scores = drawn(1, 1, 3).requires_grad_()
    loss = sampled_loss_per_user(scores, torch.tensor([[4]]), torch.tensor([[4, 4]]))
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert float(loss.detach()) == 0
    assert_close(gradient, torch.zeros(1, 1, 3))
