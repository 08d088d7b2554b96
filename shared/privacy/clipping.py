"""Exact per-user clipping from one backward pass.

One user's whole history is one sample. A pass records what goes into each layer and the gradient
that comes back to its output; no weight's gradient is formed on the way. From the records follow
every user's gradient norm, and then the sum of all gradients, each scaled down to norm C at most
(Abadi et al. 2016, arXiv:1607.00133, algorithm 1; in one pass: Bu et al. 2023, arXiv:2210.00038).

What would break the bound without an error elsewhere, and what happens here:

| a model or a loss that | here |
|---|---|
| holds trainable weights in a layer that is not known | refused when built, by the layer's name |
| uses a weight outside its layer (`h @ item.weight.T`), or penalises weights | refused |
| gives one loss for the whole batch | refused: it must be one a user, [B] |
| lacks a batch axis somewhere (positions `[T]`, shared negatives `[K]`) | refused by `probe` |
| mixes users (a mean over the batch, negatives or statistics from it) | refused by `probe` |
| changes in place what a layer has read | refused |
| gives a user a gradient that is not finite | that user adds nothing |
| calls `losses.sum().backward()` | no weight gets a gradient, so no step can be taken |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from shared.errors import ClippingError
from shared.models.attention import ItemScores
from shared.privacy.bookkeeping import WeightGradient
from shared.privacy.layers import RULES, objection

__all__ = ["PerUserClipping", "probe"]

SMALLEST_NORM, LARGEST_NORM = 1e-12, 1e12
"""Beyond these a squared norm leaves float32's range."""
TOLERANCE = 1e-3
"""Relative difference between two ways to a norm that a probe allows: far above rounding, far
below what a missed use of a weight changes."""


@dataclass(frozen=True, slots=True)
class _Record:
    """One call of a layer."""

    layer: nn.Module
    inputs: tuple[Any, ...]
    versions: list[int]


class PerUserClipping:
    """Clipped sums of per-user gradients, while it is entered.

    Within the context the model's forward passes are recorded, and `backward` takes the place of
    the losses' own. What a pass without gradients computes is unchanged.

    Args:
        model: every trainable weight lies in a layer that `shared.privacy.layers` knows.
        clip_norm: bound C on the Euclidean norm of what one user adds, over all weights together.

    Raises:
        ClippingError: a layer's per-user gradients are not known, or C is out of range.
    """

    def __init__(self, model: nn.Module, clip_norm: float) -> None:
        if not SMALLEST_NORM <= clip_norm <= LARGEST_NORM:
            raise ClippingError(
                f"clip_norm = {clip_norm}: choose one from {SMALLEST_NORM:g} to {LARGEST_NORM:g}."
            )
        self._clip_norm = clip_norm
        self._layers = _layers_of(model)
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._tables = _tables_in(self._layers)
        self._users = 0
        self._forget()

    def __enter__(self) -> Self:
        for layer in self._layers:
            vars(layer)["forward"] = partial(self._recorded, layer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for layer in self._layers:
            vars(layer).pop("forward", None)
        self._forget()

    def zero_sums(self) -> None:
        """Starts a logical batch: every weight's `grad` becomes 0, as of a batch of nobody."""
        self._forget()
        for weight in self._weights:
            weight.grad = torch.zeros_like(weight)

    def backward(self, losses: Tensor) -> Tensor:
        """Adds the clipped sum over the users of one physical batch to every weight's `grad`.

        Args:
            losses: one a user, [B], from a forward pass in this context. A user's loss depends on
                no other user.

        Returns:
            Norm of each user's gradient before clipping, float32 [B]. Private: never to leave.

        Raises:
            ClippingError: the losses are not [B], a weight was used outside its layer, a layer
                had no batch axis, or its input was changed in place.
        """
        if losses.dim() != 1:
            raise ClippingError(
                f"losses have shape {list(losses.shape)}, not one a user [B]: average within each "
                "user, never over the batch."
            )
        self._users = len(losses)
        leaves, weights = self._leaves, self._weights
        found = torch.autograd.grad(losses.sum(), [*leaves, *weights], allow_unused=True)
        self._refuse_strays(found[len(leaves) :])
        gradients = self._gradients
        self._forget()
        with torch.no_grad(), _full_precision(losses.device):
            return self._add_clipped(gradients, losses)

    def _recorded(self, layer: nn.Module, *inputs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return type(layer).forward(layer, *inputs)  # type: ignore[no-any-return]
        out = RULES[type(layer)].forward(layer, *inputs)
        if not out.requires_grad:
            self._leaves.append(out.requires_grad_())
        kept = tuple(x.detach() if _is_activation(x) else x for x in inputs)
        record = _Record(layer, kept, [x._version for x in kept if isinstance(x, Tensor)])
        out.register_hook(partial(self._receive, record))
        return out

    def _receive(self, record: _Record, gradient: Tensor) -> None:
        """Takes the gradient of a layer's output as it passes by."""
        tensors = [x for x in record.inputs if isinstance(x, Tensor)]
        if record.versions != [x._version for x in tensors]:
            raise ClippingError(
                f"an input of a {type(record.layer).__name__} was changed in place after the layer "
                "had read it: use the operation that is not in place."
            )
        if any(x.dim() < 2 or len(x) != self._users for x in (gradient, record.inputs[0])):
            raise ClippingError(
                f"a {type(record.layer).__name__} got an input of shape "
                f"{list(record.inputs[0].shape)} in a batch of {self._users} users: its first "
                "axis must be the batch's (positions: torch.arange(T).repeat(B, 1))."
            )
        with _full_precision(gradient.device):
            rule = RULES[type(record.layer)]
            for weight, use in rule.uses(record.layer, record.inputs, gradient):
                if weight is not None and weight.requires_grad:
                    empty = WeightGradient(table=weight in self._tables)
                    self._gradients.setdefault(weight, empty).add(use)

    def _refuse_strays(self, found: tuple[Tensor | None, ...]) -> None:
        strays = [i for i, gradient in enumerate(found) if gradient is not None]
        if strays:
            shapes = ", ".join(str(list(self._weights[i].shape)) for i in strays)
            raise ClippingError(
                f"weights of shape {shapes} were used outside their layers, where nobody's share "
                "is seen: score items through ItemScores, and take weight decay from the "
                "optimiser instead of the loss."
            )

    def _add_clipped(self, gradients: dict[Tensor, WeightGradient], losses: Tensor) -> Tensor:
        squared, slack = torch.zeros_like(losses, dtype=torch.float32), torch.zeros(())
        for gradient in gradients.values():
            norms, rounding = gradient.squared_norms()
            squared, slack = squared + norms, slack.to(norms) + rounding
        norms = squared.clamp(min=0).sqrt()
        # Rounding may only shrink a user. A norm of 0 divides to infinity, and is not scaled.
        factors = (self._clip_norm / (squared + slack).clamp(min=0).sqrt()).clamp(max=1)
        broken = ~(squared.isfinite() & losses.isfinite())
        if broken.any():
            factors = factors.masked_fill(broken, 0)
            for gradient in gradients.values():
                gradient.silence(broken)
        for weight, gradient in gradients.items():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            gradient.add_weighted(weight.grad, factors)
        return norms

    def _forget(self) -> None:
        self._leaves: list[Tensor] = []
        self._gradients: dict[Tensor, WeightGradient] = {}


def _layers_of(model: nn.Module) -> list[nn.Module]:
    layers = []
    for name, layer in model.named_modules():
        if any(p.requires_grad for p in layer.parameters(recurse=False)):
            reason = objection(layer)
            if reason is not None:
                raise ClippingError(f"layer '{name}': {reason}.")
            layers.append(layer)
        elif type(layer) is ItemScores:
            layers.append(layer)  # may score by a table that trains elsewhere
    return layers


def _tables_in(layers: list[nn.Module]) -> set[Tensor]:
    return {layer.weight for layer in layers if isinstance(layer, nn.Embedding)}


def _is_activation(x: object) -> bool:
    return isinstance(x, Tensor) and not isinstance(x, nn.Parameter)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Products in float32 proper: neither half precision nor the GPU's shortened TF32."""
    before = torch.get_float32_matmul_precision()
    if before == "highest" and not torch.is_autocast_enabled(device.type):
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def probe(model: nn.Module, losses_of: Callable[[Tensor], Tensor], users: Tensor) -> None:
    """Checks on a few invented users that book-keeping finds what plain autograd finds.

    Random weights take the place of the model's for it: at a start at 0, many gradients are 0.

    Args:
        model: to be trained under `PerUserClipping`.
        losses_of: losses [B] of users given as [B, ...], in full precision.
        users: two or more, [B, ...], with B other than any other axis.

    Raises:
        ClippingError: a layer or a loss is refused, a norm or sum differs from autograd's, or a
            user's norm depends on who else is in the batch.
    """
    with _random_weights(model):
        expected = torch.stack([_gradient(model, losses_of, users, i) for i in range(len(users))])
        norms, total = _booked(model, losses_of, users)
        _compare("the norms of users' gradients", norms, expected.norm(dim=1))
        _compare("the sum of users' gradients", total, expected.sum(0))
        model.eval()  # no masks, which differ between a user alone and the same among others
        norms, _ = _booked(model, losses_of, users)
        alone = [_booked(model, losses_of, users[i : i + 1])[0] for i in range(len(users))]
        _compare("the norms of users' gradients in a batch", norms, torch.cat(alone))


def _gradient(
    model: nn.Module, losses_of: Callable[[Tensor], Tensor], users: Tensor, row: int
) -> Tensor:
    weights = [p for p in model.parameters() if p.requires_grad]
    with _same_masks(users.device):
        found = torch.autograd.grad(losses_of(users)[row], weights, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def _booked(
    model: nn.Module, losses_of: Callable[[Tensor], Tensor], users: Tensor
) -> tuple[Tensor, Tensor]:
    with _same_masks(users.device), PerUserClipping(model, LARGEST_NORM) as clipping:
        clipping.zero_sums()
        norms = clipping.backward(losses_of(users))
    weights = [p for p in model.parameters() if p.requires_grad]
    return norms, torch.cat([p.grad.flatten() for p in weights if p.grad is not None])


def _compare(what: str, found: Tensor, expected: Tensor) -> None:
    error = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
    if not error <= TOLERANCE:
        raise ClippingError(
            f"{what} are off by {error:.1%} from what they must be: a loss must depend on its own "
            "user alone, and a weight must be used through its layer alone."
        )


@contextmanager
def _random_weights(model: nn.Module) -> Iterator[None]:
    """Weights, gradients and modes are afterwards what they were before."""
    weights = [p for p in model.parameters() if p.requires_grad]
    before = [(p, p.detach().clone(), p.grad) for p in weights]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), _same_masks(weights[0].device):
            for p in weights:
                p.normal_(std=0.1)
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for p, value, gradient in before:
                p.copy_(value)
                p.grad = gradient


@contextmanager
def _same_masks(device: torch.device) -> Iterator[None]:
    """Torch's generator starts from one seed and afterwards goes on as if nothing happened."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield
