"""evaluation.parquet: the rank of each test user's item under each model.

One row for each test user and model, so that a report can evaluate any group of users:

| column         | what it holds                                                             |
|----------------|---------------------------------------------------------------------------|
| user           | the user's row number, as text; never an id                               |
| organisation   | as in result.json                                                         |
| events         | int64, the user's training events                                         |
| one a grouping | the user's group, as text; only where the data has groups, see `groups`   |
| model          | as in result.json                                                         |
| rank           | int64, place of the user's test item among all unseen items, 1 the best   |

These figures are exact. They exist only in the lab, where the data is a public benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shared.system.files import atomic_replacement
from simulations.datasets.groups import Groups

if TYPE_CHECKING:
    from shared.evaluation.ranking import Ranking

__all__ = ["EVALUATION", "TestUsers", "write_evaluation"]

EVALUATION = "evaluation.parquet"

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TestUsers:
    """Properties of the M test users, in the order of the split.

    Attributes:
        rows: their rows among all users.
        organisations: the organisation of each.
        events: the number of training events of each.
        groups: by grouping, the group of each.
    """

    __test__ = False  # pytest would take the name for a test class

    rows: Ints
    organisations: tuple[str, ...]
    events: Ints
    groups: Groups

    @classmethod
    def of(
        cls, rows: Ints, *, organisations: Mapping[str, Ints], events: Ints, groups: Groups
    ) -> TestUsers:
        """Select the properties of the users in `rows` from those of all N users.

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
    """Write evaluation.parquet atomically.

    Args:
        folder: of the run.
        users: the M test users.
        rankings: by model, each with these users in this order.
    """
    user_columns = {
        "user": pa.array(map(str, users.rows.tolist()), pa.string()),
        "organisation": _texts(users.organisations),
        "events": pa.array(users.events, pa.int64()),
        **{name: _texts(values) for name, values in users.groups.items()},
    }
    parts = [
        pa.table(
            {
                **user_columns,
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
