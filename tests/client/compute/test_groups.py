"""What one user adds to the figures of groups, and to weighted sums: by removing each user."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from client.compute.batches import Batch
from client.compute.evaluation import EvaluationPlan, noised_sums
from client.compute.groups import user_cells, user_counts
from client.compute.trainer import _batch_losses
from shared.data.histories import Histories
from shared.groups import tables_of, weighted_of
from shared.models.attention import AttentionRecommender, build
from shared.models.moments import moment_sum, popularity_sum
from shared.models.popularity import popularity_ranks
from shared.privacy.clipping.clipping import PerUserClipping
from shared.privacy.noise import SystemRandom
from tests.conftest import DESCRIBED, some_catalogue, some_histories

TABLES = tables_of("gender=F|M x age=18|25; events=3|6; taste=3")
WEIGHTED = weighted_of("gender=F|M: 1, 0.3, 0.55")
ITEMS = 20
HISTORIES = Histories.from_lists(
    [[1, 2], [3, 4, 5], [6, 7, 8, 9, 1, 2], [10, 11], [12, 1, 3, 12, 5], [2, 2, 2], [20, 19, 18]]
)
COLUMNS = {
    "0": {"gender": "F", "age": "18"},
    "1": {"gender": "M", "age": "18"},
    "2": {"gender": "M", "age": "25"},
    "3": {"gender": "F", "age": "40"},
    "4": {"gender": "F", "age": "25"},
}
TASTE = (np.arange(ITEMS) + 0.5) / ITEMS
COUNTS = user_counts(WEIGHTED, HISTORIES, COLUMNS)


def everybody_but(user: int) -> np.ndarray:
    return np.array([row for row in range(len(HISTORIES)) if row != user])


def quiet_plan() -> EvaluationPlan:
    bound = math.sqrt(3 * (1 + len(TABLES)))
    return EvaluationPlan(
        sample_rate=1.0, clip_norm=bound, noise_multiplier=1e-9, k=10, tables=TABLES
    )


def sums(figures: np.ndarray, cells: np.ndarray) -> np.ndarray:
    return noised_sums(figures, quiet_plan(), SystemRandom(), cells).double().numpy()


def test_groups_of_a_user_do_not_depend_on_others() -> None:
    whole = user_cells(TABLES, HISTORIES, COLUMNS, TASTE)
    assert [TABLES[0].cells[cell] for cell in whole[:, 0]] == [
        *("F x 18", "M x 18", "M x 25", "other", "F x 25", "other", "other")
    ]
    for user in range(len(HISTORIES)):
        rest = everybody_but(user)
        alone = user_cells(TABLES, HISTORIES.select(rest), COLUMNS, TASTE)
        assert (alone == whole[rest]).all()


def test_removing_any_user_moves_the_sums_by_at_most_the_bound() -> None:
    """All hits in the first place, the longest that a part can be; and parts beyond all bounds."""
    cells = user_cells(TABLES, HISTORIES, COLUMNS, TASTE)
    for figures in (np.ones((len(HISTORIES), 3)), np.full((len(HISTORIES), 3), 1e9)):
        whole = sums(figures, cells)
        for user in range(len(HISTORIES)):
            rest = everybody_but(user)
            moved = whole - sums(figures[rest], cells[rest])
            assert np.linalg.norm(moved) == pytest.approx(math.sqrt(12), rel=1e-6)
            assert np.linalg.norm(moved) <= quiet_plan().clip_norm * (1 + 1e-6)
            changed = (abs(moved.reshape(-1, 3)) > 1e-3).any(1)
            assert changed.sum() == 1 + len(TABLES)  # all users, and one cell of each table


def test_each_tables_groups_add_up_to_all_users() -> None:
    figures = np.random.default_rng(1).random((len(HISTORIES), 3))
    blocks = sums(figures, user_cells(TABLES, HISTORIES, COLUMNS, TASTE)).reshape(-1, 3)
    ends = [1, *(1 + end for end in itertools.accumulate(table.size for table in TABLES))]
    for start, end in itertools.pairwise(ends):
        assert blocks[start:end].sum(0) == pytest.approx(blocks[0], abs=1e-5)


def test_counts_follow_the_table_and_are_at_most_1() -> None:
    assert COUNTS is not None
    assert COUNTS.tolist() == [1, 0.3, 0.3, 1, 1, 0.55, 0.55]
    assert user_counts(None, HISTORIES, COLUMNS) is None


@pytest.mark.parametrize("statistic", ["popularity", "moment"])
def test_a_users_part_of_a_statistic_is_as_long_as_it_counts(statistic: str) -> None:
    assert COUNTS is not None
    table = np.random.default_rng(2).standard_normal((ITEMS, 5)).astype(np.float32)

    def total(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        some = HISTORIES.select(rows)
        if statistic == "popularity":
            return popularity_sum(some, ITEMS, 0.5, counts)
        return moment_sum(some, table, 0.75, counts)

    every = np.arange(len(HISTORIES))
    for user in range(len(every)):
        rest = everybody_but(user)
        moved = total(every, COUNTS) - total(rest, COUNTS[rest])
        assert np.array_equal(moved, total(every[[user]], COUNTS[[user]]))  # in every bit
        assert np.linalg.norm(moved) <= COUNTS[user] * (1 + 1e-9)
        assert np.linalg.norm(moved) == pytest.approx(COUNTS[user], rel=1e-5)
    beyond = total(every, np.full(len(every), 9.0))
    assert np.array_equal(beyond, total(every, np.ones(len(every))))


def test_a_users_clipped_gradient_is_as_long_as_it_counts() -> None:
    assert COUNTS is not None
    torch.manual_seed(0)
    model: AttentionRecommender = build(DESCRIBED, some_catalogue())
    model.train()
    clip_norm, counts = 1e-3, torch.from_numpy(COUNTS)
    events = HISTORIES.padded(np.arange(len(HISTORIES)), 6)
    nothing = torch.zeros(len(events), 0, dtype=torch.int64)

    def total(counted: torch.Tensor | None, present: torch.Tensor) -> torch.Tensor:
        with PerUserClipping(model, clip_norm) as clipping:
            clipping.zero_sums()
            batch = Batch(events * present[:, None], nothing, nothing.int())
            clipping.backward(_batch_losses(model, batch), counted)
            return torch.cat([value.flatten() for value in clipping.sums().values()])

    all_present = torch.ones(len(events), dtype=torch.int64)
    for user in range(len(events)):
        present = all_present.clone()
        present[user] = 0
        moved = total(counts, all_present) - total(counts, present)
        unweighted = total(None, all_present) - total(None, present)
        assert moved.norm() <= COUNTS[user] * clip_norm
        assert torch.allclose(moved, COUNTS[user] * unweighted, rtol=1e-3, atol=1e-9)
    beyond = total(torch.full((len(events),), 7.0), all_present)
    assert torch.equal(beyond, total(None, all_present))


def test_hostile_offsets_put_every_item_somewhere() -> None:
    """The largest finite weights: no rank is undefined, whatever items a user has."""
    model = build(DESCRIBED, some_catalogue())
    assert model.item_scores.offset is not None
    most = float(np.finfo(np.float32).max)
    for values in ((most,) * ITEMS, (-most, most) * (ITEMS // 2), (most, *(0.0,) * (ITEMS - 1))):
        with torch.no_grad():
            model.item_scores.offset.copy_(torch.tensor(values)[:, None])
        places = popularity_ranks(model)
        assert np.isfinite(places).all()
        assert ((places >= 0) & (places <= 1)).all()
        cells = user_cells(tables_of("taste=5"), some_histories(40), {}, places)
        assert ((cells >= 0) & (cells < 5)).all()
