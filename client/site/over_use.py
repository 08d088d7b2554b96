"""A partner's users as examples of the model of over-use: their own events, and their own labels.

| a user                                               | what happens                             |
|------------------------------------------------------|------------------------------------------|
| without an event of an item of the catalogue         | is not there                             |
| of whom a row cannot be read                         | is left out, where a coordinator asks    |
| whose events came fast, or again                     | is read like others: `[data]`'s limits   |
|                                                      |   are against crafted histories, and     |
|                                                      |   would hide use                         |
| without a row in the table of users, or whose value  | has no label by the column: is left out  |
|   in `over_use` is empty, none that is known, or     |                                          |
|   another one in another row                         |                                          |

So what one user's rows hold makes a difference to that user alone, and is never an error. That the
events have times, and the table the column, is the partner's own setting: without it nothing is
read, and nothing charged.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.interactions import Interaction
from client.data.user_columns import read_user_columns
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.tables import file_tables
from shared.errors import DataError, SiteError
from shared.over_use.examples import Examples, examples_of
from shared.over_use.labels import COLUMN, label_of
from shared.over_use_task import LabelSource, OverUseTask

__all__ = ["examples_in", "load_examples", "load_use", "own_values", "users_stamp"]

_SECONDS = 1e-6


def load_use(
    site: Site,
    catalogue: Catalogue,
    most_events: int,
    *,
    strict: bool = True,
    feedback: Collection[Interaction] | None = None,
) -> Histories:
    """Return all of the users' events with their times, whatever limits hold for recommendations.

    Args:
        site: whose.
        catalogue: the items to keep.
        most_events: last events of a user that are read.
        strict: whether a row that cannot be read is an error; otherwise its user is left out.
        feedback: as in `Site.load_histories`.

    Raises:
        DataError: the data cannot be read, or have positions instead of times.
    """
    data = replace(site.data, max_per_minute=0, max_per_day=0, repeat_seconds=0)
    read = replace(site, data=data).load_histories(
        catalogue, most_events, strict=strict, min_events=1, feedback=feedback
    )
    if read.times is None:
        raise DataError(
            "its events have positions and no times, and sessions are known by times",
            file=site.data.source,
            remedy="Bring times (`time` under [data] names their column), or leave over-use out: "
            "policy.kinds, and wellbeing.who = 'nobody'.",
        )
    return read


def load_examples(site: Site, catalogue: Catalogue, task: OverUseTask, sessions: int) -> Examples:
    """Return the users who have a present and a label, for an answer to a coordinator.

    Args:
        site: whose users.
        catalogue: the items whose events are read.
        task: what is read.
        sessions: how many of the last ones the model reads.

    Raises:
        SiteError: the source or the table of users is not there.
        DataError: they cannot be read, or lack times or the column.
    """
    read = load_use(site, catalogue, site.policy.max_events, strict=False)
    return examples_in(read, site, task, sessions)


def examples_in(read: Histories, site: Site, task: OverUseTask, sessions: int) -> Examples:
    """Return the examples that histories with times make; otherwise as `load_examples`."""
    assert read.times is not None
    moments = read.times * _SECONDS
    times = np.split(moments, read.offsets[1:-1]) if len(read) else []
    column = _labels(site, read.users) if task.label is LabelSource.COLUMN else None
    examples, _ = examples_of(times, task, sessions, column)
    return examples


def users_stamp(site: Site) -> tuple[int, int] | None:
    """Return a value that changes with the table of users; None where there is none."""
    if not site.data.users:
        return None
    try:
        status = Path(site.folder, site.data.users).stat()
    except OSError:  # reading it says what is wrong
        return None
    return status.st_mtime_ns, status.st_size


def own_values(site: Site, users: Sequence[str]) -> list[str | None] | None:
    """Return what the table of users says in the column, [users]; None where it has no such column.

    Raises:
        SiteError: the table is not there.
        DataError: it cannot be read.
    """
    file = Path(site.folder, site.data.users)
    if not site.data.users:
        return None
    if file.exists() and COLUMN not in next(iter(file_tables(file))).columns:
        return None
    rows = read_user_columns(site.data, Path(site.folder), [COLUMN])
    return [rows.get(user, {}).get(COLUMN) for user in users]


def _labels(site: Site, users: Sequence[str]) -> NDArray[np.float64]:
    values = own_values(site, users)
    if values is None:
        raise SiteError(
            f"data.users = '{site.data.users}': the label is its column {COLUMN}, and there is "
            "none. Add it, or name the table that has it."
        )
    labels = map(label_of, values)
    return np.array([np.nan if label is None else label for label in labels], np.float64)
