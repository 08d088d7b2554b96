"""Local training on one site's histories; knows no message, no file and no ledger.

Private training is DP-SGD (Abadi et al. 2016, arXiv:1607.00133) with one user's whole history as
one sample: Poisson samples, one loss per user, per-user clipping, Gaussian noise. Clipping is ours
(`shared.privacy.clipping.clipping`); the step is Opacus's, with noise from our own source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import Tensor

from shared.config import Optimiser
from shared.data.histories import Histories
from shared.models.attention import AttentionRecommender, trainable
from shared.models.losses import loss_per_user, next_item_pairs, sampled_loss_per_user
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.probe import probe
from shared.privacy.noise import RandomSource, noised
from shared.privacy.sampling import poisson_samples

__all__ = ["LAYERS_ALIVE", "NUMBERS_AT_ONCE", "LocalPlan", "train"]

NUMBERS_AT_ONCE = {"cpu": 2**25, "cuda": 2**29}
"""Largest part of a physical batch, in numbers; bounds memory, changes no result."""
LAYERS_ALIVE = 64
"""About how many values a position's hidden state is kept in, until the batch is done."""
PROBED_USERS, PROBED_EVENTS = 3, 5
"""Invented users that a model's clipping is checked on; not as many as events."""


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
        candidates: items drawn for each user, among which its next ones are ranked, >= 1; 0
            ranks them among the whole catalogue.
    """

    steps: int
    sample_rate: float
    population: int
    clip_norm: float
    noise_multiplier: float
    optimiser: Optimiser
    learning_rate: float
    weight_decay: float = 0.0
    candidates: int = 0

    @property
    def expected_batch(self) -> float:
        """Expected users in a step, from public constants."""
        return self.sample_rate * self.population


class SourcedNoiseOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # untyped
    """Opacus's step on clipped sums, with noise that is not torch's.

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

    def accumulate(self) -> None:
        """Takes the clipped sum as it is; Opacus would copy it."""
        for p in self.params:
            p.summed_grad = p.grad

    def add_noise(self) -> None:
        """Adds N(0, (σC)²) to each clipped sum, once."""
        for p in self.params:
            p.grad = noised(p.summed_grad, self.noise_multiplier * self.max_grad_norm, self._random)
            p.summed_grad = None


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
    steps = _private_steps if plan.noise_multiplier > 0 else _plain_steps
    with _own_torch_seed(random), _no_traces(weights.values()):
        steps(model, _batches(model, histories, plan, random), plan, random)
    return {
        name: (p.detach() - before[name]).to("cpu", torch.float32) for name, p in weights.items()
    }


Batch = list[Callable[[], Tensor]]
"""One logical batch: what computes the losses [B] of each of its physical batches."""


def _batches(
    model: AttentionRecommender, histories: Histories, plan: LocalPlan, random: RandomSource
) -> Iterator[Batch]:
    def part(rows: NDArray[np.int64]) -> Callable[[], Tensor]:
        longest = int(histories.lengths[rows].max(initial=2))
        events = histories.padded(rows, min(longest, model.config.max_length + 1))
        drawn = _candidates(random, (len(rows), plan.candidates), model.config.items)

        def losses() -> Tensor:
            with _half_precision(model.device):
                return _losses(model, events.to(model.device), drawn.to(model.device))

        return losses

    for rows in poisson_samples(
        len(histories), sample_rate=plan.sample_rate, steps=plan.steps, random=random
    ):
        # Users of like length share a batch, which is then no longer than they are.
        ordered = rows[np.argsort(histories.lengths[rows], kind="stable")]
        size = _users_at_once(model, plan)
        yield [part(ordered[start : start + size]) for start in range(0, len(rows), size)]


def _candidates(random: RandomSource, shape: tuple[int, int], items: int) -> Tensor:
    drawn = np.floor(random.uniform(int(np.prod(shape))) * items).astype(np.int64)
    return torch.from_numpy(drawn + 1).reshape(shape)


def _losses(model: AttentionRecommender, events: Tensor, candidates: Tensor) -> Tensor:
    """One loss a user, [B], of right-padded events [B, T + 1]."""
    inputs, targets = next_item_pairs(events)
    if candidates.shape[1] == 0:
        return loss_per_user(model(inputs), targets)
    # A place without a target scores item 1, which then counts for nothing.
    ranked = torch.cat([targets.clamp(min=1), candidates], dim=1)
    scores = model.score(model.states(inputs), ranked)
    return sampled_loss_per_user(scores, targets, candidates)


def _half_precision(device: torch.device) -> AbstractContextManager[object]:
    """On a GPU the pass is in bfloat16; norms, factors and sums never are."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _users_at_once(model: AttentionRecommender, plan: LocalPlan) -> int:
    length, scored = model.config.max_length, model.config.items
    if plan.candidates:
        scored = length + plan.candidates
    numbers = length * (scored + LAYERS_ALIVE * model.config.hidden_size)
    return max(1, NUMBERS_AT_ONCE.get(model.device.type, NUMBERS_AT_ONCE["cpu"]) // numbers)


def _plain_steps(
    model: AttentionRecommender, batches: Iterator[Batch], plan: LocalPlan, _: RandomSource
) -> None:
    optimiser = _optimiser(model, plan)
    for batch in batches:
        for p in trainable(model).values():
            p.grad = torch.zeros_like(p)
        for losses in batch:
            (losses().sum() / plan.expected_batch).backward()
        optimiser.step()


def _private_steps(
    model: AttentionRecommender, batches: Iterator[Batch], plan: LocalPlan, random: RandomSource
) -> None:
    _probe_once(model, plan)
    optimiser = SourcedNoiseOptimizer(_optimiser(model, plan), plan, random)
    with PerUserClipping(model, plan.clip_norm) as clipping:
        for batch in batches:
            clipping.zero_sums()
            for losses in batch:
                clipping.backward(losses())
            optimiser.step()


@contextmanager
def _no_traces(weights: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Whatever happens, no sum of gradients stays behind on a weight."""
    try:
        yield
    finally:
        for p in weights:
            p.grad = None
            vars(p).pop("summed_grad", None)


_probed: set[str] = set()


def _probe_once(model: AttentionRecommender, plan: LocalPlan) -> None:
    """Refuses a shape of model whose per-user norms would be wrong; once a process and shape."""
    shape = f"{model.config.to_json_string()} {plan.candidates > 0} {model.device}"
    if shape in _probed:
        return
    items = torch.arange(PROBED_USERS * (PROBED_EVENTS + 1), device=model.device)
    users = 1 + items.view(PROBED_USERS, -1) * 7 % model.config.items
    ranked = users.flip(1)[:, : 3 * (plan.candidates > 0)]
    probe(
        model,
        lambda rows: _losses(model, users[rows], ranked[rows]),
        torch.arange(PROBED_USERS, device=model.device),
    )
    _probed.add(shape)


def _optimiser(model: AttentionRecommender, plan: LocalPlan) -> torch.optim.Optimizer:
    parameters = list(trainable(model).values())
    if plan.optimiser is Optimiser.SGD:
        return torch.optim.SGD(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    return torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)


@contextmanager
def _own_torch_seed(random: RandomSource) -> Iterator[None]:
    """Dropout masks from the same source, whatever ran in this process before."""
    with torch.random.fork_rng():
        torch.manual_seed(int(random.uniform(1)[0] * 2**53))
        yield
