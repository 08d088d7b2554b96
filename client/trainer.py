"""Local training on one site's histories; knows no message, no file and no ledger.

Private training is DP-SGD (Abadi et al. 2016, arXiv:1607.00133) with one user's whole history as
one sample: Poisson samples, one loss per user, per-user clipping, Gaussian noise. Opacus's hooks
mode forms the per-user gradients: of the stock modes it is the one that is exact for this model
and takes an empty batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from shared.config import Optimiser
from shared.histories import Histories
from shared.models.attention import (
    AttentionRecommender,
    loss_per_user,
    next_item_pairs,
    trainable,
)
from shared.privacy.noise import RandomSource
from shared.privacy.sampling import poisson_samples

__all__ = ["LocalPlan", "train"]

MICROBATCH = 64
"""Users whose gradients are held at once; bounds memory, changes no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlan:
    """What one request asks of a site: public constants only.

    Attributes:
        steps: noised steps, >= 1.
        sample_rate: chance of each user to be in a step, in (0, 1].
        population: declared users N; `sample_rate * population` is the divisor of every sum.
        clip_norm: bound C on one user's gradient norm, > 0; ignored without noise.
        noise_multiplier: noise over clip norm; 0 trains without privacy: no clipping, no noise.
        optimiser: local update rule.
        learning_rate: > 0.
        weight_decay: decoupled from the loss, >= 0.
    """

    steps: int
    sample_rate: float
    population: int
    clip_norm: float
    noise_multiplier: float
    optimiser: Optimiser
    learning_rate: float
    weight_decay: float = 0.0

    @property
    def expected_batch(self) -> float:
        """Expected users in a step, from public constants."""
        return self.sample_rate * self.population


class SourcedNoiseOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus is untyped
    """Opacus's step, hardened: no user can make the sum infinite, and noise is not torch's.

    A torch generator is a Mersenne twister whose fresh state is the same in every process.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, plan: LocalPlan, random: RandomSource
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip_norm,
            expected_batch_size=plan.expected_batch,
            loss_reduction="mean",
        )
        self._random = random

    def clip_and_accumulate(self) -> None:
        """Clips each user's gradient and adds it up.

        Weights can be chosen so that only users of one item overflow. Clipping keeps NaN, and
        NaN in the sum would tell that there is such a user: what is not finite counts as 0.
        """
        for p in self.params:
            p.grad_sample.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """Adds N(0, (σC)²) to each summed gradient, once."""
        for p in self.params:
            noise = self._random.normal(tuple(p.shape)).to(p.device, p.dtype)
            p.grad = p.summed_grad.view_as(p) + self.noise_multiplier * self.max_grad_norm * noise


def train(
    model: AttentionRecommender, histories: Histories, plan: LocalPlan, random: RandomSource
) -> dict[str, Tensor]:
    """Takes the plan's steps and returns how the trainable weights changed.

    Args:
        model: starts from the global weights, on the device to train on; left trained.
        histories: the site's private histories.
        plan: public constants.
        random: source of samples, noise and dropout masks.

    Returns:
        Change of each trainable weight by name, float32, on the CPU.
    """
    weights = trainable(model)
    before = {name: p.detach().clone() for name, p in weights.items()}
    model.train()
    with _own_torch_seed(random):
        step = _private_step if plan.noise_multiplier > 0 else _plain_step
        step(model, _batches(model, histories, plan, random), plan, random)
    _clear_padding(model)
    return {
        name: (p.detach() - before[name]).to("cpu", torch.float32) for name, p in weights.items()
    }


Batch = list[tuple[Tensor, Tensor]]
"""One logical batch: at least one physical batch of inputs and targets, each [B, T]."""


def _batches(
    model: AttentionRecommender, histories: Histories, plan: LocalPlan, random: RandomSource
) -> Iterator[Batch]:
    length, device = model.config.max_length + 1, model.device

    def pairs(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return next_item_pairs(histories.padded(rows, length).to(device))

    for rows in poisson_samples(
        len(histories), sample_rate=plan.sample_rate, steps=plan.steps, random=random
    ):
        starts = range(0, max(len(rows), 1), MICROBATCH)
        yield [pairs(rows[start : start + MICROBATCH]) for start in starts]


def _plain_step(
    model: AttentionRecommender, batches: Iterator[Batch], plan: LocalPlan, _: RandomSource
) -> None:
    optimiser = _optimiser(model, plan)
    for batch in batches:
        optimiser.zero_grad()
        for inputs, targets in batch:
            (loss_per_user(model(inputs), targets).sum() / plan.expected_batch).backward()
        optimiser.step()


def _private_step(
    model: AttentionRecommender, batches: Iterator[Batch], plan: LocalPlan, random: RandomSource
) -> None:
    with _per_user_gradients(model) as watched:
        optimiser = SourcedNoiseOptimizer(_optimiser(model, plan), plan, random)
        for batch in batches:
            for part, (inputs, targets) in enumerate(batch, start=1):
                optimiser.zero_grad()
                loss_per_user(watched(inputs), targets).sum().backward()
                optimiser.signal_skip_step(part < len(batch))
                optimiser.step()
            optimiser.zero_grad()


@contextmanager
def _per_user_gradients(model: AttentionRecommender) -> Iterator[GradSampleModule]:
    watched = GradSampleModule(model, loss_reduction="sum", strict=True)
    with warnings.catch_warnings():
        # The embedding of ids has no input gradient; the hook reads the output's.
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        try:
            yield watched
        finally:
            watched.cleanup()
            # Opacus's wrappers hold cycles; let go of everything large by hand, or several GB
            # gather before Python looks.
            for p in model.parameters():
                p.grad = None
                vars(p).pop("summed_grad", None)
            for module in model.modules():
                vars(module).pop("activations", None)


def _optimiser(model: AttentionRecommender, plan: LocalPlan) -> torch.optim.Optimizer:
    parameters = list(trainable(model).values())
    if plan.optimiser is Optimiser.SGD:
        return torch.optim.SGD(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    return torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)


def _clear_padding(model: AttentionRecommender) -> None:
    """Takes noise off the padding row, which no user's gradient reaches."""
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx] = 0.0


@contextmanager
def _own_torch_seed(random: RandomSource) -> Iterator[None]:
    """Dropout masks from the same source, whatever ran in this process before."""
    with torch.random.fork_rng():
        torch.manual_seed(int(random.uniform(1)[0] * 2**53))
        yield
