"""Is what clipping finds what autograd finds? Asked of every model before private data meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shared.errors import ClippingError
from shared.privacy.clipping.clipping import LARGEST_NORM, SMALLEST_NORM, PerUserClipping
from shared.privacy.clipping.grid import grid_bits
from shared.privacy.clipping.linked import parts_of

__all__ = ["probe", "random_weights"]

TOLERANCE, LEAST_SHARE = 1e-5, 1e-3
"""Difference allowed to a weight's gradient, as a share of that gradient, and of this share of the
whole: far above float64's rounding, far below what a missed use of a weight changes."""

Losses = Callable[[Tensor], Tensor]


def probe(model: nn.Module, losses_of: Losses, users: Tensor) -> None:
    """Check on a few invented users that per-user norms and sums equal those of plain autograd.

    Random weights take the place of the model's for it: at a start at 0, many gradients are 0. They
    are float64: in float32, rounding alone exceeds any useful tolerance where a normalisation of a
    narrow model leaves next to nothing of a gradient.

    Args:
        model: to be trained under `PerUserClipping`.
        losses_of: losses [B] of users given as [B, ...], in the precision of the weights.
        users: two or more, [B, ...], with B other than any other axis.

    Raises:
        ClippingError: a layer or a loss is refused, a norm or a sum differs from autograd's, or a
            user's norm depends on who else is in the batch.
    """
    users = users.double() if users.is_floating_point() else users
    with random_weights(model), _double_precision(model):
        expected_norms, totals = _expected(model, losses_of, users)
        # Above every norm, and near them: sums are kept to a share of the clip norm.
        _, linked = parts_of(model)
        above = 2 * float(torch.stack(expected_norms).norm()) / (linked.share if linked else 1)
        clip = min(max(above, SMALLEST_NORM), LARGEST_NORM)
        norms, sums = _booked(model, losses_of, users, clip)
        _compare("norms", norms, expected_norms)
        _compare("sums", sums, totals, len(users) * clip)
        model.eval()  # no masks, which differ between a user alone and the same among others
        norms, _ = _booked(model, losses_of, users, clip)
        one_by_one = [
            _booked(model, losses_of, users[i : i + 1], clip)[0] for i in range(len(users))
        ]
        _compare(
            "norms in a batch", norms, [torch.cat(one) for one in zip(*one_by_one, strict=True)]
        )


def _weights(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _expected(
    model: nn.Module, losses_of: Losses, users: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return users' norms [B] and their sum, weight by weight, by plain autograd."""
    norms, totals = list[list[Tensor]](), [torch.zeros_like(weight) for weight in _weights(model)]
    for row in range(len(users)):
        gradients = _gradients(model, losses_of, users, row)
        norms.append([gradient.norm() for gradient in gradients])
        for total, gradient in zip(totals, gradients, strict=True):
            total.add_(gradient)
    return [torch.stack(of_users) for of_users in zip(*norms, strict=True)], totals


def _gradients(model: nn.Module, losses_of: Losses, users: Tensor, row: int) -> tuple[Tensor, ...]:
    with _same_masks(users.device):
        loss = losses_of(users)[row]
        return torch.autograd.grad(loss, _weights(model), materialize_grads=True)


def _booked(
    model: nn.Module, losses_of: Losses, users: Tensor, clip_norm: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Return users' norms [B] and their clipped sum for each weight, by `PerUserClipping`."""
    weights = _weights(model)
    clipping = PerUserClipping(model, clip_norm, weight_by_weight=True)
    with _same_masks(users.device), clipping:
        clipping.zero_sums()
        unused = torch.zeros_like(clipping.backward(losses_of(users)))
        norms = [clipping.weight_norms.get(weight, unused) for weight in weights]
        sums = clipping.sums()
    return norms, [sums[weight] for weight in weights]


def _compare(
    what: str, measured: list[Tensor], expected: list[Tensor], clip_norms: float = 0.0
) -> None:
    whole = torch.stack([values.norm() for values in expected]).norm()
    for values, target in zip(measured, expected, strict=True):
        rounding = 0.5 * clip_norms * 2.0 ** -grid_bits(target.dtype) * values.numel() ** 0.5
        allowed = TOLERANCE * (target.norm() + LEAST_SHARE * whole) + rounding
        if not (values - target).norm() <= allowed:
            raise ClippingError(
                f"the {what} of users' gradients of a weight are {_brief(values)}, and should be "
                f"{_brief(target)}: a loss must depend on its own user alone, and a weight be used "
                "through its layer alone."
            )


def _brief(values: Tensor) -> str:
    return f"{float(values.norm()):.4g} in all"


@contextmanager
def random_weights(model: nn.Module, deviation: float = 0.1) -> Iterator[None]:
    """Give the trainable weights normal values for a while, the same in every call.

    Weights, gradients and modes are afterwards what they were before.

    Args:
        model: whose weights.
        deviation: their standard deviation, > 0.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    before = [(p, p.detach().clone(), p.grad) for p in weights]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), _same_masks(weights[0].device):
            for p in weights:
                p.normal_(std=deviation)
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for p, value, gradient in before:
                p.copy_(value)
                p.grad = gradient


@contextmanager
def _double_precision(model: nn.Module) -> Iterator[None]:
    """Hold the model's numbers in float64 for a while; the same memory is theirs afterwards."""
    given = [(x, x.data) for x in (*model.parameters(), *model.buffers()) if x.is_floating_point()]
    try:
        for x, values in given:
            x.data = values.double()
        yield
    finally:
        for x, values in given:
            x.data = values


@contextmanager
def _same_masks(device: torch.device) -> Iterator[None]:
    """Seed torch's generator the same way in each call, and restore its state afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield
