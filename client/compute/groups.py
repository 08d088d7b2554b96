"""In which public group each of a site's users is, and what the users of a group count.

A user's groups depend on that user, the site's table of users and public constants alone: so adding
or removing another user changes none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.data.histories import Histories
from shared.groups import Table, Weighted

__all__ = ["UserColumns", "user_cells", "user_counts"]

UserColumns = Mapping[str, Mapping[str, str]]
"""By user, its values by column."""


def user_cells(
    tables: Sequence[Table],
    histories: Histories,
    columns: UserColumns,
    taste: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Return the number of each user's cell in each table, [N, G].

    Args:
        tables: of groups.
        histories: what is known of each user.
        columns: of the users.
        taste: where each item is among all by popularity, in (0, 1), [V]
            (`shared.models.popularity`); a user's is the median of its items', the lower one of
            two. None where no table asks for it.
    """
    cells = np.zeros((len(histories), len(tables)), np.int64)
    for row, (user, history) in enumerate(zip(histories.users, histories, strict=True)):
        values, middle = columns.get(user, {}), -1.0
        if taste is not None and len(history):
            middle = float(np.sort(taste[history - 1])[(len(history) - 1) // 2])
        cells[row] = [table.cell_of(values, len(history), middle) for table in tables]
    return cells


def user_counts(
    weighted: Weighted | None, histories: Histories, columns: UserColumns
) -> NDArray[np.float64] | None:
    """Return what each user counts in a sum, in [0, 1], [N]; None where all count alike."""
    if weighted is None:
        return None
    cells = user_cells([weighted.table], histories, columns)[:, 0]
    counts: NDArray[np.float64] = np.array(weighted.weights)[cells]
    return counts
