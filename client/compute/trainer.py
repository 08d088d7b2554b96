"""Local training on one site's histories; knows no message, no file and no ledger.

Private training is DP-SGD (Abadi et al. 2016, arXiv:1607.00133) with one user's whole history as
one sample: Poisson samples, one loss per user, per-user clipping, Gaussian noise. Clipping is ours
(`shared.privacy.clipping.clipping`); the step is Opacus's, with noise from our own source.

What a user adds to a step's sum depends on that user, the weights and public constants alone, in
every bit: shapes are constant (`client.compute.batches`), random numbers are drawn user by user,
and the sum is one of integers (`shared.privacy.clipping.grid`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.compute.batches import (
    Batch,
    Beside,
    Shape,
    independent_rows,
    invented_batch,
    layer_values,
    physical_batches,
    shapes_of,
)
from client.compute.steps import LocalPlan, Losses, change_of, noised_gradient, take_steps
from shared.data.histories import Histories
from shared.errors import ClippingError
from shared.models.attention import AttentionRecommender, trainable
from shared.models.dropout import Dropout
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.clipping.linked import parts_of
from shared.privacy.clipping.probe import probe, random_weights
from shared.privacy.noise import RandomSource
from shared.privacy.sampling import poisson_samples

__all__ = ["check_model", "gradient_points", "train"]

PROBED_USERS, PROBED_EVENTS = 3, 5
"""Invented users that a model's clipping is checked on, one more where as many as events, and the
most events of each; never more than the model reads."""
CHECKED_NORM = 2.0**-20
"""Clip norm of the check of rows: low, so that all bits are kept, and a power of two."""
CHECKED_DEVIATION = 0.02
"""Standard deviation of the weights in it, as at a usual start. With larger ones a softmax over
many items gives subnormal numbers, with which a processor computes about eight times as long."""


def check_model(model: AttentionRecommender, plan: LocalPlan) -> None:
    """Check what `train` relies on; it depends on the request and on public constants alone.

    It takes about a step, once for each shape in a process.

    Raises:
        ClippingError: no bound on a user's share can be proven for this model on this machine.
    """
    if plan.noise_multiplier > 0:
        model.train()
        with _no_traces(model, trainable(model).values()):
            _checked_shapes(model, plan)


def train(
    model: AttentionRecommender,
    histories: Histories,
    plan: LocalPlan,
    random: RandomSource,
    counts: NDArray[np.float64] | None = None,
    beside: Beside | None = None,
) -> dict[str, Tensor]:
    """Take the plan's steps and return how the trainable weights changed.

    Args:
        model: starts from the global weights, on the device to train on; left trained.
        histories: the site's private histories.
        plan: public constants.
        random: source of samples, noise, candidates and dropout masks.
        counts: what each user's clipped gradient is multiplied with, in [0, 1], [N]; None is 1.
        beside: what the model reads of the users beside their histories; None reads nothing.

    Returns:
        Change of each trainable weight by name, finite, float32, on the CPU.
    """
    weights = trainable(model)
    before = {name: p.detach().clone() for name, p in weights.items()}
    model.train()
    samples = _Samples(histories, plan, random, random.key(), counts, beside)
    with _no_traces(model, weights.values()):
        take_steps(model, plan, random, samples.losses(model))
    return change_of(model, before)


def gradient_points(
    model: AttentionRecommender,
    histories: Histories,
    plan: LocalPlan,
    random: RandomSource,
    counts: NDArray[np.float64] | None = None,
    beside: Beside | None = None,
) -> NDArray[np.int64]:
    """Return one step's sum of clipped gradients with a share of the noise, on the grid.

    What is summed over organisations is this very sum, and nothing that is rounded again: the
    theorem of `shared.privacy.distributed_noise` is about it.

    Args:
        model: with the global weights, on the device to train on; left as it is.
        histories: the site's private histories.
        plan: public constants, of one step by "sgd".
        random: as in `train`; so are the noise and `counts`.
        counts: of each user.
        beside: as in `train`.

    Returns:
        int64 [m], in steps of the grid: all trainable weights, one after the other by name.
    """
    model.train()
    samples = _Samples(histories, plan, random, random.key(), counts, beside)
    with _no_traces(model, trainable(model).values()):
        (losses,) = samples.losses(model)
        return noised_gradient(model, plan, random, losses)


@dataclass(frozen=True, slots=True)
class _Samples:
    """Where a plan's steps take their users from."""

    histories: Histories
    plan: LocalPlan
    random: RandomSource
    key: bytes
    counts: NDArray[np.float64] | None
    beside: Beside | None = None

    def losses(self, model: AttentionRecommender) -> Iterator[Losses]:
        """Return the losses of each step's sample, in physical batches.

        Raises:
            ClippingError: as `check_model`.
        """
        private = self.plan.noise_multiplier > 0
        # At once, since it records gradients itself; the losses follow one by one.
        shapes = _checked_shapes(model, self.plan) if private else _shapes(model, self.plan)
        if model.selected is not None:
            among = 1 + np.flatnonzero(model.selected.cpu().numpy())
            shapes = tuple(replace(shape, among=among) for shape in shapes)
        return self._losses(model, shapes)

    def _losses(self, model: AttentionRecommender, shapes: Sequence[Shape]) -> Iterator[Losses]:
        samples = poisson_samples(
            len(self.histories),
            sample_rate=self.plan.sample_rate,
            steps=self.plan.local_steps,
            random=self.random,
        )
        for step, users in enumerate(samples):
            batches = physical_batches(
                self.histories, users, shapes, self.key, step, self.counts, self.beside
            )
            yield ((_batch_losses(model, batch), batch.counts) for batch in batches)


def _batch_losses(model: AttentionRecommender, batch: Batch) -> Tensor:
    """Return one loss a user, [R]; 0 for the batch's empty rows."""
    Dropout.give(model, batch.bits.to(model.device))
    given = (batch.events, batch.candidates, *batch.beside)
    with _half_precision(model.device):
        return model.losses(*(x.to(model.device) for x in given))


def _half_precision(device: torch.device) -> AbstractContextManager[object]:
    """On a GPU the pass is in bfloat16; norms, factors and sums never are."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


@contextmanager
def _no_traces(
    model: AttentionRecommender, weights: Iterable[torch.nn.Parameter]
) -> Iterator[None]:
    """Whatever happens, no gradient and no mask stays behind on the model."""
    try:
        yield
    finally:
        Dropout.give(model, None)
        for p in weights:
            p.grad = None
            vars(p).pop("summed_grad", None)


def _shapes(model: AttentionRecommender, plan: LocalPlan) -> tuple[Shape, ...]:
    return shapes_of(
        model.config,
        plan.candidates,
        plan.expected_batch,
        model.device.type,
        plan.max_events,
        optional=model.beside_is_optional,
    )


_checked: dict[str, tuple[Shape, ...]] = {}


def _checked_shapes(model: AttentionRecommender, plan: LocalPlan) -> tuple[Shape, ...]:
    """Return the shapes of a step, with as many rows as leave no user's share depending on its row.

    All are checked, once in a process, whether a history needs them or not: neither a refusal nor
    the most memory that is used depends on the histories.

    Raises:
        ClippingError: the model's per-user gradients would be wrong, or differ from call to call.
    """
    shapes = _shapes(model, plan)
    setting = (model.config, model.dtype, model.device, torch.get_num_threads())
    key = f"{setting} {shapes}"
    if key not in _checked:
        _probe(model, plan)
        with (
            random_weights(model, CHECKED_DEVIATION),
            PerUserClipping(model, CHECKED_NORM) as clipping,
        ):
            checked = tuple(_checked_rows(model, clipping, shape) for shape in shapes)
            for shape in checked:
                _check_own_part(model, clipping, shape)
        _checked[key] = checked
    return _checked[key]


def _check_own_part(model: AttentionRecommender, clipping: PerUserClipping, shape: Shape) -> None:
    """Refuse a model whose weights that are not linked depend on a user's friends in any bit.

    Raises:
        ClippingError: they do.
    """
    _, linked = parts_of(model)
    if linked is None:
        return
    sums = []
    for seed in (1, 2):
        friends = model.invented_beside(shape.rows, shape.length, seed)
        clipping.zero_sums()
        clipping.backward(_batch_losses(model, replace(invented_batch(shape, 0), beside=friends)))
        found = clipping.sums()
        sums.append([found[p] for p in trainable(model).values() if p not in linked.weights])
    if not all(map(torch.equal, *sums)):
        raise ClippingError(
            "gradients of weights that are not linked depend on a user's friends: detach what the "
            "friends' loss reads of the model."
        )


def _checked_rows(model: AttentionRecommender, clipping: PerUserClipping, shape: Shape) -> Shape:
    rows = independent_rows(
        shape.rows, lambda tried: _rows_agree(model, clipping, replace(shape, rows=tried))
    )
    return replace(shape, rows=rows)


def _probe(model: AttentionRecommender, plan: LocalPlan) -> None:
    events = min(PROBED_EVENTS, model.config.max_length)
    count = PROBED_USERS + (events == PROBED_USERS)
    items = torch.arange(count * (events + 1), device=model.device)
    users = 1 + items.view(count, -1) * 7 % model.config.items
    ranked = users.flip(1)[:, : 3 * (plan.candidates > 0)]
    given = (users, ranked, *model.invented_beside(count, events, seed=0))
    probe(
        model,
        lambda rows: model.losses(*(x[rows] for x in given)),
        torch.arange(count, device=model.device),
    )


def _invented_beside(model: AttentionRecommender, shape: Shape, seed: int) -> tuple[Tensor, ...]:
    return model.invented_beside(shape.rows, shape.length, seed) if shape.beside else ()


def _rows_agree(model: AttentionRecommender, clipping: PerUserClipping, shape: Shape) -> bool:
    """Return whether one user adds the same bits in every row, and among other users.

    So does every layer's output, and every gradient of one: a sum's grid hides some bits.
    """
    one, others = (
        replace(invented_batch(shape, seed), beside=_invented_beside(model, shape, seed))
        for seed in (1, 2)
    )
    everywhere = one.repeated(shape.rows)
    present, absent = others.with_last(one), others.with_last(None)

    def total(batch: Batch) -> Tensor:
        clipping.zero_sums()
        clipping.backward(_batch_losses(model, batch))
        return torch.cat([value.flatten() for value in clipping.sums().values()])

    with layer_values(model) as seen:
        in_all = total(everywhere)
        rows_alike = all(bool((values == values[:1]).all()) for values in seen)
        first = [values[0].clone() for values in seen]
    with layer_values(model) as seen:
        share = total(present)
        alike = all(torch.equal(values[-1], x) for values, x in zip(seen, first, strict=True))
    share -= total(absent)
    return rows_alike and alike and torch.equal(in_all, share * shape.rows)
