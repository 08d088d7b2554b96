"""One noised gradient of the over-use model on one site's users; knows no message and no ledger.

A step is that of `client.compute.trainer`: Poisson samples of users, one loss a user, per-user
clipping, noise of the site's own source, as a whole or as its share of one noise. Physical batches
have one shape, and `check_model` finds how many rows a batch may have so that no user's part
depends on its row (`client.compute.batches`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.compute.batches import independent_rows, layer_values
from shared.config import Trust
from shared.over_use.model import OverUseModel, loss_per_user
from shared.over_use.sessions import FEATURES, Sessions
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.probe import probe, random_weights
from shared.privacy.noise import RandomSource, noised
from shared.privacy.noise_share import noised_points
from shared.privacy.sampling import poisson_samples
from shared.sections import (
    Choice,
    NonNegativeNumber,
    PositiveInt,
    PositiveNumber,
    ShareAboveZero,
    section,
)

__all__ = ["Examples", "OverUsePlan", "check_model", "gradient_points", "gradient_sum"]

MOST_ROWS = 512
"""Rows of a physical batch, at most."""
PROBED_USERS = 5
"""Invented users that the model's clipping is checked on."""
CHECKED_NORM = 2.0**-20
"""Clip norm of the check of rows: low, so that all bits are kept, and a power of two."""


@section()
class OverUsePlan:
    """What one step asks of a site: public constants only.

    Attributes:
        population: declared users N.
        sample_rate: chance that a given user is in the step, q.
        clip_norm: bound C on what one user adds.
        noise_multiplier: noise over clip norm; 0 sums plain gradients: no clipping, no noise.
        trust: whether that is the whole noise, or a share of one.
    """

    population: PositiveInt
    sample_rate: ShareAboveZero
    clip_norm: PositiveNumber
    noise_multiplier: NonNegativeNumber
    trust: Choice[Trust] = Trust.LOCAL

    @property
    def most_rows(self) -> int:
        """Rows of a physical batch, from public constants."""
        return max(1, min(MOST_ROWS, math.ceil(self.sample_rate * self.population)))


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """A site's users with a label: private.

    Attributes:
        sessions: their features.
        labels: who over-used, [users].
    """

    sessions: Sessions
    labels: NDArray[np.bool_]


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


def check_model(model: OverUseModel, plan: OverUsePlan) -> int:
    """Return the rows of a batch in which no user's part depends on its row; once a shape.

    Raises:
        ClippingError: no bound on a user's part can be proven on this machine.
    """
    key = f"{model.config} {plan.most_rows} {torch.get_num_threads()}"
    if key not in _checked:
        places = model.config.rule.sessions
        users = PROBED_USERS + (places == PROBED_USERS)
        invented = _invented(users, places, seed=0)

        probe(model, lambda rows: _losses(model, invented.of(rows)), torch.arange(users))
        with random_weights(model), PerUserClipping(model, CHECKED_NORM) as clipping:
            _checked[key] = independent_rows(
                plan.most_rows, lambda rows: _rows_agree(model, clipping, rows)
            )
    return _checked[key]


def gradient_sum(
    model: OverUseModel, examples: Examples, plan: OverUsePlan, random: RandomSource
) -> dict[str, Tensor]:
    """Return one step's sum of clipped gradients with the site's whole noise, float64 by name.

    Args:
        model: with the global weights; left as it is.
        examples: the site's private users.
        plan: public constants.
        random: source of sample and noise.
    """
    if plan.noise_multiplier == 0:
        return _plain_sum(model, examples, plan, random)
    scale = plan.noise_multiplier * plan.clip_norm
    with _clipped(model, examples, plan, random) as sums:
        return {name: noised(total, scale, random) for name, total in sums.items()}


def gradient_points(
    model: OverUseModel, examples: Examples, plan: OverUsePlan, random: RandomSource
) -> NDArray[np.int64]:
    """Return the same on the grid with a share of the noise, int64 [m], by name.

    What is masked and summed over organisations is this, as in `trainer.gradient_points`.
    """
    with _clipped(model, examples, plan, random) as sums:
        points = [
            noised_points(sums[name], plan.clip_norm, plan.noise_multiplier, random)
            for name in sorted(sums)
        ]
    return np.concatenate([part.flatten().numpy() for part in points])


@contextmanager
def _clipped(
    model: OverUseModel, examples: Examples, plan: OverUsePlan, random: RandomSource
) -> Iterator[dict[str, Tensor]]:
    """Yield one sample's clipped sum of each weight, without noise."""
    rows = check_model(model, plan)
    with PerUserClipping(model, plan.clip_norm) as clipping:
        clipping.zero_sums()
        for batch in _batches(examples, plan, rows, random):
            clipping.backward(_losses(model, batch))
        yield {name: clipping.sum_of(p) for name, p in model.named_parameters()}


def _plain_sum(
    model: OverUseModel, examples: Examples, plan: OverUsePlan, random: RandomSource
) -> dict[str, Tensor]:
    weights = dict(model.named_parameters())
    totals = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in weights.items()}
    for batch in _batches(examples, plan, plan.most_rows, random):
        gradients = torch.autograd.grad(_losses(model, batch).sum(), list(weights.values()))
        for total, gradient in zip(totals.values(), gradients, strict=True):
            total.add_(gradient)
    return totals


def _losses(model: OverUseModel, batch: _Batch) -> Tensor:
    features = batch.features.to(model.session_in.weight.dtype)
    return loss_per_user(model(features, batch.mask), batch.labels, batch.present)


def _batches(
    examples: Examples, plan: OverUsePlan, rows: int, random: RandomSource
) -> Iterator[_Batch]:
    """Cut one Poisson sample into batches of one shape; an empty sample makes one."""
    (users,) = poisson_samples(
        len(examples.labels), sample_rate=plan.sample_rate, steps=1, random=random
    )
    for start in range(0, max(1, len(users)), rows):
        yield _batch(examples, users[start : start + rows], rows)


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
