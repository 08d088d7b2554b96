"""Users with a present, sessions up to it, and a label from what came later.

| users                      | the present                   | the label                      |
|----------------------------|-------------------------------|--------------------------------|
| of the cohort              | the end of its eighth week    | the rule, on the weeks after   |
| of a data set              | after a number of sessions of | the rule, on the weeks after   |
|                            |   each user's own             |                                |
| of a data set whose table  | the same                      | the column's; a user without a |
|   of users says `over_use` |                               |   value is left out            |

Left out and counted: users with fewer sessions, and those whose window is not over when the data
end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data.columns import Columns
from shared.data.event_limits import NO_LIMITS
from shared.data.ids import canonical_id
from shared.errors import ConfigError, DataError
from shared.over_use.labels import (
    COLUMN,
    LabelRule,
    label_by_rule,
    labels_from_column,
    presents_after_sessions,
)
from shared.over_use.sessions import WEEK, SessionRule, Sessions, session_features
from simulations.datasets.groups import read_users
from simulations.datasets.load import load
from simulations.over_use.cohort import make_cohort

__all__ = ["COHORT_RULE", "DATA_RULE", "DATA_WEEKS", "Task", "cohort_task", "data_task"]

COHORT_RULE = LabelRule(weeks=4, days=4, hours=1.0)
DATA_RULE = LabelRule(weeks=4, days=2, events=5)
DATA_WEEKS = 520.0
"""How far back a data set's events are read: until a user's present they are few."""
FEWEST = 10
"""Users with each of both labels that an experiment needs."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Task:
    """What is learned from, and whom it is about.

    Attributes:
        name: of the data.
        times: of each user's events, all of them, ascending, in seconds since 1970.
        now: each user's present.
        rule: what a session is.
        label: what was predicted, in words.
        sessions: each user's last sessions up to the present.
        labels: who over-used after it.
        groups: for each grouping, every user's group.
        left_out: users that are not in here, by the reason.
        ceiling: a score from the truth of invented users; None where nobody knows it.
    """

    name: str
    times: Sequence[Floats]
    now: Floats
    rule: SessionRule
    label: str
    sessions: Sessions
    labels: NDArray[np.bool_]
    groups: dict[str, tuple[str, ...]]
    left_out: dict[str, int]
    ceiling: Floats | None = None

    def __len__(self) -> int:
        return len(self.labels)


def cohort_task(users: int, seed: int, label: LabelRule = COHORT_RULE) -> Task:
    """Return invented users and their labels."""
    cohort, rule = make_cohort(users, seed), SessionRule()
    now = np.full(users, cohort.now)
    labels = [label_by_rule(own, cohort.now, label, rule) for own in cohort.times]
    return _checked(
        Task(
            name="cohort",
            times=cohort.times,
            now=now,
            rule=rule,
            label=str(label),
            sessions=session_features(cohort.times, now, rule, cohort.recommended),
            labels=np.array(labels),
            groups=cohort.groups,
            left_out={},
            ceiling=cohort.hours,
        )
    )


def data_task(
    folder: Path | None,
    *,
    after_sessions: int = 1,
    label: LabelRule = DATA_RULE,
    rule: SessionRule | None = None,
) -> Task:
    """Return a data set's users and their labels; see the table on top of this module.

    Args:
        folder: with the lab's data; None for the embedded MovieLens latest-small.
        after_sessions: each user's present is when so many sessions are over; >= 1.
        label: the rule; not used where the table of users has the column.
        rule: what a session is; None reads `DATA_WEEKS` back.

    Raises:
        ConfigError: too few users have either label.
        DataError: the folder cannot be read, or has no times.
    """
    # Limits against crafted histories would hide use.
    rule, data = rule or SessionRule(weeks=DATA_WEEKS), load(folder, limits=NO_LIMITS)
    if data.histories.times is None:
        raise DataError(
            "the interactions have positions, and sessions are made of times",
            file=str(folder),
            remedy="Give the time of each event, or try --data cohort.",
        )
    moments = data.histories.times / 1e6
    times = np.split(moments, data.histories.offsets[1:-1])
    now = presents_after_sessions(times, after_sessions, rule)
    few = np.isnan(now)
    column = None if folder is None else _column(folder, data.histories.users)
    if column is None:
        unknown = ~few & (now + WEEK * label.weeks > moments.max())
        marks = [
            label_by_rule(own, float(at), label, rule) for own, at in zip(times, now, strict=True)
        ]
        over = np.array(marks)
    else:
        unknown, over = ~few & np.isnan(column), column == 1
    kept = np.flatnonzero(~few & ~unknown)
    own_times, own_now = [times[user] for user in kept], now[kept]
    task = Task(
        name=data.name,
        times=own_times,
        now=own_now,
        rule=rule,
        label=str(label) if column is None else f"the column {COLUMN}",
        sessions=session_features(own_times, own_now, rule),
        labels=over[kept],
        groups={
            name: tuple(values[user] for user in kept)
            for name, values in data.groups.items()
            if name != COLUMN
        },
        left_out={
            f"fewer than {after_sessions} sessions": int(few.sum()),
            "label not known": int(unknown.sum()),
        },
    )
    return _checked(replace(task, groups=task.groups or _activity(task)))


def _column(folder: Path, users: Sequence[str]) -> Floats | None:
    """Return the labels of a data set's table of users; NaN where a user has none."""
    for file in (folder / "users.csv", folder / "users.parquet"):
        if not file.exists():
            continue
        table = read_users(file)
        ids = [name for name in (Columns().user, "userId") if name in table.column_names]
        if COLUMN in table.column_names and ids:
            labels = labels_from_column(table.column(COLUMN).to_pylist(), file)
            owners = [canonical_id(text or "") for text in table.column(ids[0]).to_pylist()]
            values = dict(zip(owners, labels.tolist(), strict=True))
            return np.array([values.get(user, np.nan) for user in users])
    return None


def _activity(task: Task) -> dict[str, tuple[str, ...]]:
    """Return halves by events up to the present, where the data have no groups."""
    events = np.array(
        [int((own <= at).sum()) for own, at in zip(task.times, task.now, strict=True)]
    )
    more = events > np.median(events)
    return {"activity": tuple(np.where(more, "more events", "fewer events").tolist())}


def _checked(task: Task) -> Task:
    positives = int(task.labels.sum())
    if min(positives, len(task) - positives) < FEWEST:
        raise ConfigError(
            f"{positives} of {len(task)} users over-use by this rule ({task.label}), and {FEWEST} "
            "with either label are needed: choose another rule, or more users."
        )
    return task
