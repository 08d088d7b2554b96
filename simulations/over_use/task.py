"""Users with a present, sessions up to it, and a label from what came later.

What is read of them is `shared.over_use_task`, as at a partner's node. The lab states `until`: for
the cohort the end of its last week, for a data set its last event.

| users                      | their present                 | their label                    |
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
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data.columns import Columns
from shared.data.event_limits import NO_LIMITS
from shared.data.ids import canonical_id
from shared.errors import ConfigError, DataError
from shared.over_use.examples import Examples, examples_of, label_meaning, presents, session_rule
from shared.over_use.labels import COLUMN, labels_from_column, presents_after_sessions
from shared.over_use.sessions import SessionRule, Sessions
from shared.over_use_task import LabelSource, OverUseTask
from simulations.datasets.groups import read_users
from simulations.datasets.load import load
from simulations.over_use.cohort import make_cohort

__all__ = [
    "COHORT",
    "COHORT_TASK",
    "DATA_TASK",
    "EMBEDDED",
    "SESSIONS",
    "Task",
    "cohort_task",
    "data_task",
    "read_task",
]

COHORT, EMBEDDED = "cohort", "movielens"
"""Names of data that are no folder: invented users, and the embedded data set."""

COHORT_TASK = OverUseTask()
DATA_TASK = OverUseTask(days=2, hours=None, events=5, after_sessions=1, history_weeks=520.0)
"""A data set's events are read far back: until a user's present they are few."""
SESSIONS = 16
"""Last sessions that the model reads, where nobody says more."""
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
        settings: what is read of them.
        sessions: each user's last sessions up to the present.
        labels: who over-used after it.
        groups: for each grouping, every user's group.
        left_out: users that are not in here, by the reason.
        ceiling: a score from the truth of invented users; None where nobody knows it.
    """

    name: str
    times: Sequence[Floats]
    now: Floats
    settings: OverUseTask
    sessions: Sessions
    labels: NDArray[np.bool_]
    groups: dict[str, tuple[str, ...]]
    left_out: dict[str, int]
    ceiling: Floats | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rule(self) -> SessionRule:
        """What a session is."""
        return session_rule(self.settings, self.sessions.mask.shape[1])

    @property
    def label(self) -> str:
        """What is predicted, in words."""
        return label_meaning(self.settings)

    def examples(self, users: NDArray[np.int64]) -> Examples:
        """Return some users' examples."""
        return Examples(self.sessions, self.labels).of(users)


def cohort_task(
    users: int, seed: int, settings: OverUseTask = COHORT_TASK, sessions: int = SESSIONS
) -> Task:
    """Return invented users and their labels; `until` of the settings is the cohort's own."""
    cohort = make_cohort(users, seed)
    settings = _until(settings, cohort.end)
    examples, kept = examples_of(cohort.times, settings, sessions)
    return _checked(
        Task(
            name="cohort",
            times=[cohort.times[user] for user in kept],
            now=presents(cohort.times, settings)[kept],
            settings=settings,
            sessions=examples.sessions,
            labels=examples.labels,
            groups={
                name: tuple(values[user] for user in kept) for name, values in cohort.groups.items()
            },
            left_out={"fewer sessions": users - len(kept)} if len(kept) < users else {},
            ceiling=cohort.hours[kept],
        )
    )


def data_task(
    folder: Path | None, settings: OverUseTask = DATA_TASK, sessions: int = SESSIONS
) -> Task:
    """Return a data set's users and their labels; see the table on top of this module.

    Args:
        folder: with the lab's data; None for the embedded MovieLens latest-small.
        settings: what is read; `until` is the data's own, and the label that of the table of users
            where it has the column.
        sessions: last sessions of a user that are read.

    Raises:
        ConfigError: too few users have either label.
        DataError: the folder cannot be read, or has no times.
    """
    # Limits against crafted histories would hide use.
    data = load(folder, limits=NO_LIMITS)
    if data.histories.times is None:
        raise DataError(
            "the interactions have positions, and sessions are made of times",
            file=str(folder),
            remedy="Give the time of each event, or try --data cohort.",
        )
    moments = data.histories.times / 1e6
    times = np.split(moments, data.histories.offsets[1:-1])
    column = None if folder is None else _column(folder, data.histories.users)
    source = LabelSource.RULE if column is None else LabelSource.COLUMN
    settings = _until(replace(settings, label=source), float(moments.max()))
    examples, kept = examples_of(times, settings, sessions, column)
    least = max(settings.after_sessions, 1)
    few = np.isnan(presents_after_sessions(times, least, session_rule(settings, sessions)))
    left_out = np.setdiff1d(np.arange(len(times)), kept)
    task = Task(
        name=data.name,
        times=[times[user] for user in kept],
        now=presents(times, settings)[kept],
        settings=settings,
        sessions=examples.sessions,
        labels=examples.labels,
        groups={
            name: tuple(values[user] for user in kept)
            for name, values in data.groups.items()
            if name != COLUMN
        },
        left_out={
            f"fewer than {least} sessions": int(few[left_out].sum()),
            "label not known": int((~few[left_out]).sum()),
        },
    )
    task = _checked(task)
    return replace(task, groups=task.groups or _activity(task))


def read_task(
    data: str, users: int, seed: int, settings: OverUseTask, sessions: int = SESSIONS
) -> Task:
    """Return invented users, the embedded data's, or a folder's, with their labels.

    Args:
        data: `COHORT`, `EMBEDDED`, or a folder.
        users: of the cohort.
        seed: of the cohort.
        settings: what is read of them.
        sessions: last sessions of a user that the model reads.

    Raises:
        ConfigError: too few users have either label.
        DataError: the folder cannot be read.
    """
    if data == COHORT:
        return cohort_task(users, seed, settings, sessions)
    return data_task(None if data == EMBEDDED else Path(data), settings, sessions)


def _until(settings: OverUseTask, moment: float) -> OverUseTask:
    """Return the settings with the end of the data, in microseconds as a partner's data have it."""
    return replace(settings, until=datetime.fromtimestamp(moment, UTC).isoformat())


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
    if not len(task):
        raise ConfigError(
            f"no user has events before the weeks of the label ({task.label}): the data span too "
            "short a time. Choose fewer over_use.weeks (--weeks), or data of a longer time."
        )
    positives = int(task.labels.sum())
    if min(positives, len(task) - positives) < FEWEST:
        raise ConfigError(
            f"{positives} of {len(task)} users over-use by this rule ({task.label}), and {FEWEST} "
            "with either label are needed: choose another rule, or more users."
        )
    return task
