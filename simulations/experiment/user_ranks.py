"""evaluation.parquet: where each test user's item came in each model's ranking.

One row per test user and model, so that a report can look at any part of the users:

| column         | what it holds                                                             |
|----------------|---------------------------------------------------------------------------|
| user           | the user's row number, as text; never an id                               |
| organisation   | as in result.json                                                         |
| events         | int64, the user's training events                                         |
| one a grouping | the user's group, as text; only where the data has groups, see `groups`   |
| model          | as in result.json                                                         |
| rank           | int64, place of the user's test item among all unseen items, 1 the best   |

These figures are exact. They exist in the lab alone, where the data is a public benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shared.evaluation.ranking import Ranking
from shared.system.files import atomic_replacement
from simulations.datasets.groups import Groups

__all__ = ["EVALUATION", "TestUsers", "write_evaluation"]

EVALUATION = "evaluation.parquet"

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TestUsers:
    """What is known of the M test users, in the order of the split.

    Attributes:
        rows: their rows among all users.
        organisations: of each.
        events: how many training events each has.
        groups: by name, the group of each.
    """

    __test__ = False  # no test, whatever pytest makes of the name

    rows: Ints
    organisations: tuple[str, ...]
    events: Ints
    groups: Groups

    @classmethod
    def of(
        cls, rows: Ints, *, organisations: Mapping[str, Ints], events: Ints, groups: Groups
    ) -> TestUsers:
        """Those of all N users that are in `rows`.

        Args:
            rows: [M] of 0..N-1.
            organisations: by name, the rows of its users; every user is in one.
            events: [N], each user's training events.
            groups: of all N users.
        """
        owner = {int(user): name for name, users in organisations.items() for user in users}
        return cls(
            rows,
            tuple(owner[int(row)] for row in rows),
            events[rows],
            {name: tuple(values[row] for row in rows) for name, values in groups.items()},
        )


def write_evaluation(folder: Path, users: TestUsers, rankings: Mapping[str, Ranking]) -> Path:
    """Write evaluation.parquet, whole or not at all.

    Args:
        folder: of the run.
        users: the M test users.
        rankings: by model, each of these users in this order.
    """
    known = {
        "user": pa.array(map(str, users.rows.tolist()), pa.string()),
        "organisation": _texts(users.organisations),
        "events": pa.array(users.events, pa.int64()),
        **{name: _texts(values) for name, values in users.groups.items()},
    }
    parts = [
        pa.table(
            {
                **known,
                "model": _texts((model,) * len(users.rows)),
                "rank": pa.array(ranking.ranks.numpy(), pa.int64()),
            }
        )
        for model, ranking in rankings.items()
    ]
    file = folder / EVALUATION
    with atomic_replacement(file) as temporary:
        pq.write_table(pa.concat_tables(parts), temporary)
    return file


def _texts(values: tuple[str, ...]) -> pa.Array:
    return pa.array(values, pa.string())
