"""Steps of local training, of whatever model: losses of batches come in, changed weights go out.

A step's batches are given one after the other as losses, each computed when it is asked for: with
noise, what a model's layers were given is recorded while its loss is computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.config import LocalTraining, Optimiser, Trust
from shared.models.attention import trainable
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.noise import RandomSource
from shared.privacy.noise_share import noised_points
from shared.sections import Choice, NonNegativeNumber, PositiveInt, Require, section

__all__ = ["LocalPlan", "Losses", "change_of", "make_optimiser", "noised_gradient", "take_steps"]

Losses = Iterable[tuple[Tensor, Tensor | None]]
"""Of each physical batch of a step: one loss a user [R], 0 in empty rows, and what each user's
gradient is multiplied with, in [0, 1], [R]; None is 1."""


@section()
class LocalPlan(LocalTraining):
    """What one request asks of a site: public constants only.

    Attributes:
        population: declared users N; `sample_rate * population` is the divisor of every sum.
        noise_multiplier: noise over clip norm; 0 trains without privacy: no clipping, no noise.
        max_events: most events that the site reads of any history, >= 2: batches are no longer.
        trust: whether that is the whole noise, or a share of one.
    """

    population: PositiveInt
    noise_multiplier: NonNegativeNumber
    max_events: Annotated[int, Require(lambda n: n >= 2, "choose a whole number >= 2")] = 10**9
    trust: Choice[Trust] = Trust.LOCAL

    @property
    def expected_batch(self) -> float:
        """Expected users in a step, from public constants."""
        return self.sample_rate * self.population


def take_steps(
    model: nn.Module, plan: LocalPlan, random: RandomSource, steps: Iterable[Losses]
) -> None:
    """Take the steps that the plan asks for, with clipping and noise or without.

    Args:
        model: in training; changed.
        plan: public constants.
        random: source of noise.
        steps: the losses of each step's sample.
    """
    if plan.noise_multiplier > 0:
        _private_steps(model, plan, random, steps)
    else:
        _plain_steps(model, plan, steps)


def noised_gradient(
    model: nn.Module, plan: LocalPlan, random: RandomSource, losses: Losses
) -> NDArray[np.int64]:
    """Return one step's sum of clipped gradients with a share of the noise, on the grid.

    Returns:
        int64 [m], in steps of the grid: all trainable weights, one after the other by name.
    """
    weights = trainable(model)
    with PerUserClipping(model, plan.clip_norm) as clipping:
        clipping.zero_sums()
        for of_users, counts in losses:
            clipping.backward(of_users, counts)
        points = {
            name: noised_points(clipping.sum_of(p), plan.clip_norm, plan.noise_multiplier, random)
            for name, p in weights.items()
        }
    return np.concatenate([points[name].flatten().numpy() for name in sorted(points)])


def change_of(model: nn.Module, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the change of each trainable weight by name, finite, float32, on the CPU."""
    return {
        name: (p.detach() - before[name]).to("cpu", torch.float32).nan_to_num_()
        for name, p in trainable(model).items()
    }


def make_optimiser(model: nn.Module, plan: LocalPlan) -> torch.optim.Optimizer:
    """Return the plan's local optimiser, fresh, over the weights that training changes."""
    parameters = list(trainable(model).values())
    if plan.optimiser is Optimiser.SGD:
        return torch.optim.SGD(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    return torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)


def _private_steps(
    model: nn.Module, plan: LocalPlan, random: RandomSource, steps: Iterable[Losses]
) -> None:
    # With it comes Opacus, which takes seconds, and statistics do without.
    from client.compute.noise_optimiser import SourcedNoiseOptimizer  # noqa: PLC0415

    with PerUserClipping(model, plan.clip_norm) as clipping:
        optimiser = SourcedNoiseOptimizer(
            make_optimiser(model, plan),
            clipping,
            random,
            noise_multiplier=plan.noise_multiplier,
            clip_norm=plan.clip_norm,
            expected_batch=plan.expected_batch,
            trust=plan.trust,
        )
        for losses in steps:
            clipping.zero_sums()
            for of_users, counts in losses:
                clipping.backward(of_users, counts)
            optimiser.step()


def _plain_steps(model: nn.Module, plan: LocalPlan, steps: Iterable[Losses]) -> None:
    optimiser = make_optimiser(model, plan)
    for losses in steps:
        for p in trainable(model).values():
            p.grad = torch.zeros_like(p)
        for of_users, counts in losses:
            weighted = of_users if counts is None else of_users * counts.to(of_users)
            (weighted.sum() / plan.expected_batch).backward()
        optimiser.step()
