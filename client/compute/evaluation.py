"""How well the given weights rank each user's last event: noised sums, and nothing exact.

For each sampled user the model sees all events but the last and ranks the whole catalogue, without
what the user has met before (`shared.evaluation.ranking`). A user's part of the sum is (HR@k,
nDCG@k, 1), each in [0, 1], so its length is at most √3, whatever the data; the third sum counts
users, so that means can be formed. Where figures of groups are asked for, the user adds the same
three numbers once more in its cell of each of G tables (`shared.groups`), and nothing in any other
cell, so that its length is at most C = √(3 (1 + G)). The sum gets N(0, (σC)²) on each figure: one
Poisson-subsampled Gaussian release, with the same unit and neighbours as a training step.

A user's part depends on that user, the weights and public constants alone, in every bit: a rank
turns on the last bit of two scores. Scores are computed in batches of constant shape
(`client.compute.batches`), ranks user by user, and the parts are added up as integers.

What is measured: a site whose policy answers "evaluate" keeps each user's last event out of its
own training, so its figures are of events that it did not train on. They are optimistic where the
same event was trained on elsewhere, or here before "evaluate" was allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.compute.batches import (
    NUMBERS_AT_ONCE,
    independent_rows,
    invented_batch,
    shape_of,
)
from client.compute.groups import UserColumns, user_cells
from shared.config import Trust
from shared.data.histories import Histories
from shared.evaluation.ranking import ranks
from shared.groups import Table
from shared.models.attention import AttentionRecommender
from shared.models.popularity import popularity_ranks
from shared.privacy.clipping.layers import linear_maps_by_user
from shared.privacy.clipping.probe import random_weights
from shared.privacy.noise import RandomSource, noised
from shared.privacy.noise_share import noised_points, noised_share
from shared.privacy.sampling import poisson_samples

__all__ = [
    "EvaluationPlan",
    "check_model",
    "evaluate",
    "evaluation_points",
    "noised_sums",
]

_POINTS = 2.0**40
"""Steps of the grid of the sums in a clip norm."""
_USERS_AT_ONCE = 2**14
"""Whose parts are held at a time; it does not change the sum, which is one of integers."""
_MOST_ROWS = 1
"""Users scored at once. With more, scores can round by row although the check of rows passes: it
looks at the scores of one invented user, which are few (docs/experiments/attacks.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What one request asks of a site: public constants only.

    Attributes:
        sample_rate: chance of each user to be in the sum, in (0, 1].
        clip_norm: bound C on the length of one user's part, > 0.
        noise_multiplier: noise over clip norm, > 0.
        k: the cut-off, >= 1.
        tables: of groups.
        trust: whether that is the whole noise, or a share of one.
    """

    sample_rate: float
    clip_norm: float
    noise_multiplier: float
    k: int
    tables: tuple[Table, ...] = ()
    trust: Trust = Trust.LOCAL


def check_model(model: AttentionRecommender) -> None:
    """Check what `evaluate` relies on; it depends on the model's shape and the machine alone.

    Raises:
        ClippingError: scores differ from call to call.
    """
    _checked_rows(model)


def evaluate(
    model: AttentionRecommender,
    histories: Histories,
    plan: EvaluationPlan,
    random: RandomSource,
    columns: UserColumns | None = None,
) -> Tensor:
    """Return the noised sums of HR@k, nDCG@k and users over one Poisson sample.

    Args:
        model: with the weights to be measured, on the device to rank on.
        histories: the site's private histories, whole; each has at least two events.
        plan: public constants.
        random: source of sample and noise.
        columns: of the users, for groups; None where the site has none.

    Returns:
        float32 [m], in the order of `shared.messages.SUMS`, over all users and then of each table's
        cells, on the CPU.
    """
    figures, cells = _sampled(model, histories, plan, random, columns or {})
    return noised_sums(figures, plan, random, cells)


def evaluation_points(
    model: AttentionRecommender,
    histories: Histories,
    plan: EvaluationPlan,
    random: RandomSource,
    columns: UserColumns | None = None,
) -> NDArray[np.int64]:
    """Return the sums with a share of the noise, in steps of the grid: int64 [m].

    Arguments are those of `evaluate`; so is the noise.
    """
    figures, cells = _sampled(model, histories, plan, random, columns or {})
    total = _sum(figures, plan, cells)
    return noised_points(total, plan.clip_norm, plan.noise_multiplier, random).numpy()


def _sampled(
    model: AttentionRecommender,
    histories: Histories,
    plan: EvaluationPlan,
    random: RandomSource,
    columns: UserColumns,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each sampled user's figures, [B, 3], and cells, [B, G]."""
    (rows,) = poisson_samples(len(histories), sample_rate=plan.sample_rate, steps=1, random=random)
    model.train(mode=False)
    users, taste = histories.select(rows), popularity_ranks(model)
    cells = user_cells(plan.tables, users.without_last(1), columns, taste)
    return _per_user(model, users, plan.k), cells


def noised_sums(
    figures: NDArray[np.float64],
    plan: EvaluationPlan,
    random: RandomSource,
    cells: NDArray[np.int64] | None = None,
) -> Tensor:
    """Return the sum of the users' parts, clipped, with noise: float32 [m].

    Args:
        figures: of each user, [B, 3].
        plan: public constants.
        random: source of the noise.
        cells: of each user in each of the plan's tables, [B, G]; None where it has none.
    """
    total = _sum(figures, plan, cells)
    if plan.trust is Trust.LOCAL:
        return noised(total, plan.noise_multiplier * plan.clip_norm, random).float()
    return noised_share(total, plan.clip_norm, plan.noise_multiplier, random).float()


def _sum(
    figures: NDArray[np.float64], plan: EvaluationPlan, cells: NDArray[np.int64] | None
) -> Tensor:
    """Sum the users' parts, each clipped to the plan's norm: float64 [m].

    What is not finite counts as 0: it would show through any noise. The sum is one of integers, in
    multiples of the clip norm / 2^40: exact for up to 2^23 users, in any order.
    """
    step, blocks = plan.clip_norm / _POINTS, []
    cells = np.zeros((len(figures), 0), np.int64) if cells is None else cells
    for start in range(0, max(1, len(figures)), _USERS_AT_ONCE):
        rows = slice(start, start + _USERS_AT_ONCE)
        parts = _parts(figures[rows], cells[rows], plan.tables)
        finite = np.nan_to_num(parts, nan=0.0, posinf=0.0, neginf=0.0)
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(finite, axis=1, keepdims=True)  # [B, 1]
        longest = plan.clip_norm - step * finite.shape[1]  # rounding makes it a little longer
        clipped = finite * np.minimum(1.0, longest / np.maximum(norms, 1e-12))
        blocks.append(np.rint(clipped / step).astype(np.int64).sum(0))
    return torch.from_numpy(np.sum(blocks, axis=0) * step)


def _parts(
    figures: NDArray[np.float64], cells: NDArray[np.int64], tables: Sequence[Table]
) -> NDArray[np.float64]:
    """Return each user's part: its figures, [B, 3], and again in each of its cells, [B, m]."""
    blocks = [figures]
    for place, table in enumerate(tables):
        block = np.zeros((len(figures), table.size, figures.shape[1]))
        block[np.arange(len(figures)), cells[:, place]] = figures
        blocks.append(block.reshape(len(figures), -1))
    return np.concatenate(blocks, axis=1)


def _per_user(model: AttentionRecommender, users: Histories, k: int) -> NDArray[np.float64]:
    """Return HR@k, nDCG@k and 1 of each user, [B, 3]."""
    ranks = np.array(list(_ranks(model, users)), np.float64)
    hits = ranks <= k
    return np.stack([hits, hits / np.log2(1 + ranks), np.ones(len(users))], axis=1)


def _ranks(model: AttentionRecommender, users: Histories) -> Iterator[int]:
    """Yield the rank of each user's last event among the items that the user has not seen."""
    inputs, rows = users.without_last(1), _checked_rows(model)
    with torch.no_grad(), linear_maps_by_user(model):
        # One batch at least: an empty sample takes as much memory as any.
        for start in range(0, max(1, len(users)), rows):
            batch = np.arange(start, min(start + rows, len(users)))
            windows = torch.zeros(rows, model.config.max_length, dtype=torch.int64)
            windows[: len(batch)] = inputs.padded(batch, model.config.max_length)
            scores = _scores(model, windows).cpu()
            for row, user in enumerate(batch.tolist()):
                target = torch.tensor(users[user][-1:])
                seen = torch.from_numpy(inputs[user][None])
                yield int(ranks(scores[row : row + 1], target, seen))


def _scores(model: AttentionRecommender, windows: Tensor) -> Tensor:
    # Weights can be chosen so that only users of one item get a NaN: none may stop the sum.
    return torch.nan_to_num(model.among_selected(model.next_item_scores(windows.to(model.device))))


_checked: dict[str, int] = {}


def _checked_rows(model: AttentionRecommender) -> int:
    """Return the rows of a batch in which no user's scores depend on its row; once a shape.

    Raises:
        ClippingError: scores differ from call to call.
    """
    config = model.config
    numbers = NUMBERS_AT_ONCE[model.device.type]
    most = max(1, min(_MOST_ROWS, numbers // config.pass_numbers(0)))
    key = f"{config} {model.device} {most} {torch.get_num_threads()}"
    if key not in _checked:
        with random_weights(model), torch.no_grad(), linear_maps_by_user(model):
            model.train(mode=False)
            _checked[key] = independent_rows(most, lambda rows: _rows_agree(model, rows))
    return _checked[key]


def _rows_agree(model: AttentionRecommender, rows: int) -> bool:
    """Return whether one user's scores are the same bits in every row, and among other users."""
    shape = shape_of(model.config, 0, rows)
    one, others = invented_batch(shape, seed=1).events, invented_batch(shape, seed=2).events
    everywhere = _scores(model, one[:1, 1:].repeat(rows, 1))
    among_others = _scores(model, torch.cat([others[:-1, 1:], one[:1, 1:]]))
    alike = bool((everywhere == everywhere[:1]).all())
    return alike and torch.equal(among_others[-1], everywhere[0])
