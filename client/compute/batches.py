"""Physical batches of a training step: their shapes do not depend on the sampled users.

Floating-point kernels round by shape: a product by its number of rows, attention by the length that
histories are padded to. With weights of a coordinator's choice, that last bit can be made to weigh
more than any noise. So nothing about the private data decides a shape:

| what | is |
|---|---|
| length of a history | the least of a few constants that holds it, right-padded (`shapes_of`): |
|                     |   its own user's length alone decides which |
| what is read beside a history | of a user who has none of it (no query, for the kind "query"), |
|                     |   nothing is computed: own data alone decide, see `OptionalBeside` |
| rows of a batch | a constant of that length, the model, the plan and the device; missing |
|                 |   users are empty |
| batches of a step | of each of these shapes users / rows, rounded up; one in all at least |
| order of users | by these shapes, then that of the site's histories; sums do not depend on it |
| random numbers of a user | a stream of its own (`shared.privacy.noise.user_bytes`) |

All shapes are checked, and so computed, before a history is read (`client.compute.trainer`): the
most memory that a step takes does not tell whether there is a long history, or a query. Time does,
as it tells how many users and events there are (the threat model has it).

An empty user has no target: its loss and gradient are 0.

With constant shapes, a user's bits can only depend on its row. `independent_rows` checks that they
do not, with the kernels, the threads and the shapes that are about to be used, and leaves one row
where they do. A batch of one user is independent of others by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.data.histories import Histories
from shared.errors import ClippingError
from shared.models.attention_config import AttentionConfig
from shared.models.registry import ModelShape
from shared.privacy.noise import user_bytes

__all__ = [
    "NUMBERS_AT_ONCE",
    "Batch",
    "Beside",
    "OptionalBeside",
    "Shape",
    "independent_rows",
    "invented_batch",
    "layer_values",
    "most_rows",
    "physical_batches",
    "shape_of",
    "shapes_of",
]

NUMBERS_AT_ONCE = {"cpu": 2**25, "cuda": 2**29}
"""Largest part of a physical batch, in numbers; bounds memory."""
FEWEST, PARTS = 8, 8
"""Rows that a batch has at least, where memory allows, and parts of an expected sample: larger
batches waste more on empty rows, smaller ones are slow."""
SHORTEST, HALVED = 8, 2
"""Events below which no shorter batches are worth their checks, and how often they are halved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The constant shape of every physical batch: public constants only.

    Attributes:
        rows: users in it, R.
        length: events that the model reads, T.
        items: catalogue size V.
        candidates: drawn for each user, K; 0 for none.
        masked: random numbers for one user's dropout masks.
        among: internal ids of the items that candidates are drawn from, int64 [K]; None for all.
        beside: whether what the model reads beside histories is in it.
    """

    rows: int
    length: int
    items: int
    candidates: int
    masked: int
    among: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    beside: bool = True


@dataclass(frozen=True, slots=True)
class Batch:
    """One physical batch.

    Attributes:
        events: right-padded with 0, int64 [R, T + 1].
        candidates: item ids in 1..V, int64 [R, K].
        bits: random, int32 in 0..65535, [R, masked].
        counts: what each user's gradient counts, float64 [R]; None is 1 for all.
        beside: what the model reads beside histories, [R, ...] each; empty rows are 0.
    """

    events: Tensor
    candidates: Tensor
    bits: Tensor
    counts: Tensor | None = None
    beside: tuple[Tensor, ...] = ()

    def repeated(self, rows: int) -> Batch:
        """Return a batch with this one's first user in so many rows."""
        return Batch(
            self.events[:1].repeat(rows, 1),
            self.candidates[:1].repeat(rows, 1),
            self.bits[:1].repeat(rows, 1),
            beside=tuple(x[:1].expand(rows, *x.shape[1:]).contiguous() for x in self.beside),
        )

    def with_last(self, user: Batch | None) -> Batch:
        """Return this batch with another's first user in the last row; None leaves it empty."""
        row = self if user is None else user
        present = user is not None
        return Batch(
            torch.cat([self.events[:-1], row.events[:1] * present]),
            torch.cat([self.candidates[:-1], row.candidates[:1]]),
            torch.cat([self.bits[:-1], row.bits[:1]]),
            beside=tuple(
                torch.cat([own[:-1], other[:1] * present])
                for own, other in zip(self.beside, row.beside, strict=True)
            ),
        )


class Beside(Protocol):
    """What a kind reads of users beside their histories; private."""

    def of(
        self, users: NDArray[np.int64], shape: Shape, key: bytes, step: int
    ) -> tuple[Tensor, ...]:
        """Return it in a batch of this shape, [R, ...] each; 0 in the rows after the users'.

        What a user's row holds depends on that user and public constants alone.

        Args:
            users: rows of the site's histories.
            shape: of the batch.
            key: secret, of the users' random streams.
            step: number of the step, >= 0.
        """


@runtime_checkable
class OptionalBeside(Beside, Protocol):
    """What only some users have beside their histories: the others' batches are without it."""

    def present(self, users: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these users have any; own data alone decide."""


def most_rows(
    config: ModelShape,
    candidates: int,
    expected: float,
    device: str,
    length: int | None = None,
) -> int:
    """Return R, the rows of a physical batch: from public constants alone.

    Args:
        config: the model's shape.
        candidates: drawn for each user; 0 ranks the whole catalogue.
        expected: users in a step, sample rate times declared population.
        device: "cpu" or "cuda".
        length: events of the batch's histories; None: as many as the model reads.
    """
    numbers = config.pass_numbers(candidates, length)
    most = NUMBERS_AT_ONCE.get(device, NUMBERS_AT_ONCE["cpu"]) // numbers
    return max(1, min(most, max(FEWEST, math.ceil(expected / PARTS))))


def shape_of(
    config: AttentionConfig, candidates: int, rows: int, longest: int | None = None
) -> Shape:
    """Return the shape of batches of so many rows.

    Args:
        config: the model's shape.
        candidates: drawn for each user; 0 ranks the whole catalogue.
        rows: R.
        longest: most events that are read of any history, >= 2: a public constant; None: no bound.
    """
    length = config.max_length if longest is None else min(config.max_length, longest - 1)
    return Shape(
        rows=rows,
        length=length,
        items=config.items,
        candidates=candidates,
        masked=config.mask_numbers(),
    )


def shapes_of(
    config: AttentionConfig,
    candidates: int,
    expected: float,
    device: str,
    longest: int | None = None,
    *,
    optional: bool = False,
) -> tuple[Shape, ...]:
    """Return the shapes of a step's batches, of ascending length: from public constants alone.

    Each is half as long as the next one, so that histories of ten events are not padded to fifty.

    Args:
        config: the model's shape.
        candidates: drawn for each user; 0 ranks the whole catalogue.
        expected: users in a step.
        device: "cpu" or "cuda".
        longest: as in `shape_of`.
        optional: whether a loss may go without what is read beside histories: each length then has
            two shapes, the first without it.

    >>> [shape.length for shape in shapes_of(AttentionConfig(items=9, max_length=50), 0, 99, "cpu")]
    [13, 25, 50]
    """
    whole = shape_of(config, candidates, 1, longest)
    lengths = [whole.length]
    while len(lengths) <= HALVED and (half := -(-lengths[-1] // 2)) >= SHORTEST:
        lengths.append(half)
    return tuple(
        replace(
            whole,
            length=length,
            rows=most_rows(config, candidates, expected, device, length),
            beside=beside,
        )
        for length in reversed(lengths)
        for beside in ((False, True) if optional else (True,))
    )


def physical_batches(
    histories: Histories,
    users: NDArray[np.int64],
    shapes: Sequence[Shape],
    key: bytes,
    step: int,
    counts: NDArray[np.float64] | None = None,
    beside: Beside | None = None,
) -> Iterator[Batch]:
    """Cut one step's sample into physical batches; an empty sample makes one.

    Args:
        histories: the site's.
        users: rows of `histories`, the sample.
        shapes: of batches, as `shapes_of` has them; a user comes into the shortest that holds all
            of its events that are read, and into one without `beside` if it has none of it.
        key: secret, of the users' random streams.
        step: number of the step, >= 0.
        counts: what the gradient of each user of `histories` counts, [N]; None is 1 for all.
        beside: what the model reads beside histories; None where it reads nothing.
    """
    lengths = np.unique([shape.length for shape in shapes])
    fitting = lengths[np.searchsorted(lengths[:-1], histories.lengths[users] - 1)]
    full = _present(users, shapes, beside)
    for kind, shape in enumerate(shapes):
        of_kind = users[(fitting == shape.length) & (full == shape.beside)]
        first = kind == 0 and not len(users)
        for start in range(0, len(of_kind) + first, shape.rows):
            rows = of_kind[start : start + shape.rows]
            batch = _batch(histories, rows, shape, key, step)
            if beside is not None and shape.beside:
                batch = replace(batch, beside=beside.of(rows, shape, key, step))
            if counts is None:
                yield batch
                continue
            of_rows = torch.zeros(shape.rows, dtype=torch.float64)
            of_rows[: len(rows)] = torch.from_numpy(counts[rows])
            yield replace(batch, counts=of_rows)


def _present(
    users: NDArray[np.int64], shapes: Sequence[Shape], beside: Beside | None
) -> NDArray[np.bool_]:
    """Return which users come into shapes with `beside`, bool [N]."""
    if all(shape.beside for shape in shapes):
        return np.ones(len(users), np.bool_)
    if isinstance(beside, OptionalBeside):
        return beside.present(users)
    return np.full(len(users), beside is not None)


def _batch(
    histories: Histories, users: NDArray[np.int64], shape: Shape, key: bytes, step: int
) -> Batch:
    events = torch.zeros(shape.rows, shape.length + 1, dtype=torch.int64)
    events[: len(users)] = histories.padded(users, shape.length + 1)
    candidates = np.ones((shape.rows, shape.candidates), np.int64)
    bits = np.zeros((shape.rows, shape.masked), np.int32)
    if shape.candidates or shape.masked:
        for row, user in enumerate(users):
            words = 8 * shape.candidates
            random = user_bytes(key, histories.users[user], step, words + 2 * shape.masked)
            uniform = (np.frombuffer(random[:words], "<u8") >> np.uint64(11)) * 2.0**-53
            candidates[row] = _drawn(uniform, shape)
            bits[row] = np.frombuffer(random[words:], "<u2")
    return Batch(events, torch.from_numpy(candidates), torch.from_numpy(bits))


def _drawn(uniform: NDArray[np.floating], shape: Shape) -> NDArray[np.int64]:
    """Return the items that numbers in [0, 1) draw."""
    if shape.among is None:
        return np.asarray(1 + np.floor(uniform * shape.items), np.int64)
    return np.asarray(shape.among[np.floor(uniform * len(shape.among)).astype(np.int64)])


def invented_batch(shape: Shape, seed: int) -> Batch:
    """Return a batch of random users with full histories, the same in every call."""
    random = np.random.default_rng(seed)

    def integers(low: int, high: int, columns: int) -> Tensor:
        return torch.from_numpy(random.integers(low, high, (shape.rows, columns)))

    return Batch(
        integers(1, shape.items + 1, shape.length + 1),
        integers(1, shape.items + 1, shape.candidates),
        integers(0, 2**16, shape.masked).int(),
    )


@contextmanager
def layer_values(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what every module puts out, and the gradients of that: tensors [B, ...]."""
    values: list[Tensor] = []

    def collect(_: nn.Module, __: object, out: object) -> None:
        if isinstance(out, Tensor):
            values.append(out.detach().clone())
            if out.requires_grad:
                out.register_hook(lambda gradient: values.append(gradient.detach().clone()))

    hooks = [module.register_forward_hook(collect) for module in model.modules()]
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()


def independent_rows(rows: int, agrees: Callable[[int], bool]) -> int:
    """Return `rows` if a user's result is the same bits in every row, and 1 if it is not.

    Which kernel, thread and tile computes a row depends on shapes, addresses and the number of
    threads, not on values. So it is enough to see one user, of random numbers, in all rows.

    Args:
        rows: R, of the batches to come.
        agrees: whether, in batches of so many rows, a user among others gets the bits that it
            gets in every other row, and again in another call.

    Raises:
        ClippingError: not even with one row.
    """
    for tried in dict.fromkeys((rows, 1)):
        if agrees(tried):
            return tried
    raise ClippingError(
        "the same computation gives other bits from call to call on this device: what one user "
        "adds to a sum could not be bounded. Compute on a CPU."
    )
