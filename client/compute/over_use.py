"""Training of the over-use model on one site's users; knows no message, no file and no ledger.

Steps are those of `client.compute.steps`, of Poisson samples of users with one loss a user.
Physical batches have one shape, and `check_model` finds how many rows a batch may have so that no
user's part depends on its row (`client.compute.batches`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.compute.batches import independent_rows, layer_values, most_rows
from client.compute.steps import LocalPlan, Losses, change_of, noised_gradient, take_steps
from shared.config import ModelConfig
from shared.over_use.examples import Examples
from shared.over_use.kind import OverUseShape, bare
from shared.over_use.model import OverUseModel, loss_per_user
from shared.over_use.sessions import FEATURES
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.probe import probe, random_weights
from shared.privacy.noise import RandomSource
from shared.privacy.sampling import poisson_samples

__all__ = ["build_model", "check_model", "gradient_points", "train"]

PROBED_USERS = 5
"""Invented users that the model's clipping is checked on."""
CHECKED_NORM = 2.0**-20
"""Clip norm of the check of rows: low, so that all bits are kept, and a power of two."""


def build_model(model: ModelConfig) -> OverUseModel:
    """Return a model of this shape, whose weights a request brings."""
    return bare(model, 0)


@dataclass(frozen=True, slots=True)
class _Batch:
    """One physical batch; `present` is 0 in its empty rows."""

    features: Tensor  # (R, S, F)
    mask: Tensor  # (R, S)
    labels: Tensor  # (R,)
    present: Tensor  # (R,)

    def of(self, rows: Tensor) -> _Batch:
        return _Batch(self.features[rows], self.mask[rows], self.labels[rows], self.present[rows])

    def without_last(self) -> _Batch:
        kept = torch.arange(len(self.present)) < len(self.present) - 1
        features, mask = self.features * kept[:, None, None], self.mask & kept[:, None]
        return _Batch(features, mask, self.labels * kept, self.present * kept)


_checked: dict[str, int] = {}


def check_model(model: OverUseModel, plan: LocalPlan) -> None:
    """Check what `train` relies on; it depends on the request and on public constants alone.

    Raises:
        ClippingError: no bound on a user's part can be proven on this machine.
    """
    if plan.noise_multiplier > 0:
        _checked_rows(model, plan)


def train(
    model: OverUseModel, examples: Examples, plan: LocalPlan, random: RandomSource
) -> dict[str, Tensor]:
    """Take the plan's steps and return how the weights changed.

    Args:
        model: starts from the global weights, on the device to train on; left trained.
        examples: the site's private users.
        plan: public constants.
        random: source of samples and noise.

    Returns:
        Change of each weight by name, finite, float32, on the CPU.
    """
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    take_steps(model, plan, random, _losses_of_steps(model, examples, plan, random))
    for p in model.parameters():
        p.grad = None
        vars(p).pop("summed_grad", None)
    return change_of(model, before)


def gradient_points(
    model: OverUseModel, examples: Examples, plan: LocalPlan, random: RandomSource
) -> NDArray[np.int64]:
    """Return one step's sum of clipped gradients with a share of the noise, on the grid.

    What is masked and summed over organisations is this, int64 [m], by name, as in
    `trainer.gradient_points`; so are the arguments.
    """
    (losses,) = _losses_of_steps(model, examples, plan, random)
    return noised_gradient(model, plan, random, losses)


def _losses_of_steps(
    model: OverUseModel, examples: Examples, plan: LocalPlan, random: RandomSource
) -> Iterator[Losses]:
    """Return the losses of each step's Poisson sample in batches of one shape, at least one.

    Raises:
        ClippingError: as `check_model`.
    """
    private = plan.noise_multiplier > 0
    # At once, since it records gradients itself; the losses follow one by one.
    rows = _checked_rows(model, plan) if private else _most_rows(model, plan)
    return _losses_in(model, examples, plan, rows, random)


def _losses_in(
    model: OverUseModel, examples: Examples, plan: LocalPlan, rows: int, random: RandomSource
) -> Iterator[Losses]:
    samples = poisson_samples(
        len(examples), sample_rate=plan.sample_rate, steps=plan.local_steps, random=random
    )
    for users in samples:
        starts = range(0, max(1, len(users)), rows)
        batches = (_batch(examples, users[start : start + rows], rows) for start in starts)
        yield ((_losses(model, batch), None) for batch in batches)


def _checked_rows(model: OverUseModel, plan: LocalPlan) -> int:
    """Return the rows of a batch in which no user's part depends on its row; once a shape."""
    most, place = _most_rows(model, plan), model.session_in.weight.device
    key = f"{model.config} {most} {place} {torch.get_num_threads()}"
    if key not in _checked:
        places = model.config.rule.sessions
        users = PROBED_USERS + (places == PROBED_USERS)
        invented = _invented(users, places, seed=0)

        probe(model, lambda rows: _losses(model, invented.of(rows)), torch.arange(users))
        with random_weights(model), PerUserClipping(model, CHECKED_NORM) as clipping:
            _checked[key] = independent_rows(most, lambda rows: _rows_agree(model, clipping, rows))
    return _checked[key]


def _most_rows(model: OverUseModel, plan: LocalPlan) -> int:
    config = model.config
    shape = OverUseShape(config.rule.sessions, config.hidden_size, config.heads)
    return most_rows(shape, 0, plan.expected_batch, model.session_in.weight.device.type)


def _losses(model: OverUseModel, batch: _Batch) -> Tensor:
    weight = model.session_in.weight
    features, mask = batch.features.to(weight), batch.mask.to(weight.device)
    labels, present = batch.labels.to(weight.device), batch.present.to(weight.device)
    return loss_per_user(model(features, mask), labels, present)


def _batch(examples: Examples, users: NDArray[np.int64], rows: int) -> _Batch:
    own, places = examples.sessions.of(users), examples.sessions.mask.shape[1]
    features, mask = torch.zeros(rows, places, len(FEATURES)), torch.zeros(rows, places).bool()
    labels, present = torch.zeros(rows), torch.zeros(rows)
    features[: len(users)] = torch.from_numpy(own.features)
    mask[: len(users)] = torch.from_numpy(own.mask)
    labels[: len(users)] = torch.from_numpy(examples.labels[users]).float()
    present[: len(users)] = 1.0
    return _Batch(features, mask, labels, present)


def _invented(rows: int, places: int, seed: int) -> _Batch:
    """Return random users, of whom every other one has half of the sessions."""
    random = torch.Generator().manual_seed(seed)
    features = torch.rand(rows, places, len(FEATURES), generator=random) * 2 - 1
    half = (torch.arange(rows) % 2 == 1)[:, None] & (torch.arange(places) >= places // 2)
    labels = (torch.rand(rows, generator=random) < 0.5).float()
    return _Batch(features * ~half[..., None], ~half, labels, torch.ones(rows))


def _rows_agree(model: OverUseModel, clipping: PerUserClipping, rows: int) -> bool:
    """Return whether one user adds the same bits in every row, and among other users."""
    places = model.config.rule.sessions
    one, others = _invented(1, places, seed=1), _invented(rows, places, seed=2)
    among = torch.arange(rows)
    among[-1] = rows  # `one` in the last row, behind the first of the others
    present = _joined(others, one).of(among)

    def total(batch: _Batch) -> Tensor:
        clipping.zero_sums()
        clipping.backward(_losses(model, batch))
        return torch.cat([value.flatten() for value in clipping.sums().values()])

    with layer_values(model) as seen:
        everywhere = total(one.of(torch.zeros(rows, dtype=torch.int64)))
        rows_alike = all(bool((values == values[:1]).all()) for values in seen)
        first = [values[0].clone() for values in seen]
    with layer_values(model) as seen:
        share = total(present)
        alike = all(torch.equal(values[-1], x) for values, x in zip(seen, first, strict=True))
    share = share - total(present.without_last())
    return rows_alike and alike and torch.equal(everywhere, share * rows)


def _joined(left: _Batch, right: _Batch) -> _Batch:
    return _Batch(
        torch.cat([left.features, right.features]),
        torch.cat([left.mask, right.mask]),
        torch.cat([left.labels, right.labels]),
        torch.cat([left.present, right.present]),
    )
