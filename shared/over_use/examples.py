"""From each user's event times to what the model learns from: features and a label.

`OverUseTask` (`shared.over_use_task`) says what is read; a site that answers a coordinator, the
same site at home, and the lab all come here. What becomes of one user depends on that user's events
and label and on the task, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.over_use.labels import (
    COLUMN,
    LabelRule,
    label_by_rule,
    presents_after_sessions,
)
from shared.over_use.sessions import WEEK, SessionRule, Sessions, session_features
from shared.over_use_task import LabelSource, OverUseTask

__all__ = ["Examples", "examples_of", "label_meaning", "label_rule", "presents", "session_rule"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Users with a label: private.

    Attributes:
        sessions: their features.
        labels: who over-used, [users].
    """

    sessions: Sessions
    labels: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, users: NDArray[np.int64]) -> Examples:
        """Return some users' examples."""
        return Examples(self.sessions.of(users), self.labels[users])


def session_rule(task: OverUseTask, sessions: int) -> SessionRule:
    """Return what a session is, of which a model reads so many."""
    return SessionRule(
        gap_minutes=task.gap_minutes,
        sessions=sessions,
        weeks=task.history_weeks,
        night_from=task.night_from,
        night_until=task.night_until,
        utc_offset_hours=task.utc_offset_hours,
    )


def label_rule(task: OverUseTask) -> LabelRule | None:
    """Return the rule on later events; None where a column says who over-used."""
    if task.label is LabelSource.COLUMN:
        return None
    return LabelRule(weeks=task.weeks, days=task.days, hours=task.hours, events=task.events)


def label_meaning(task: OverUseTask) -> str:
    """Return in words what the label says of a user."""
    rule = label_rule(task)
    if rule is not None:
        return str(rule)
    return f"the partner's column {COLUMN}, within the next {task.weeks:g} weeks"


def presents(times: Sequence[Floats], task: OverUseTask) -> Floats:
    """Return each user's present, in seconds since 1970, [users]; NaN for users who are left out.

    Args:
        times: of each user's events, ascending, in seconds since 1970.
        task: what is read.
    """
    latest = task.end - WEEK * task.weeks
    if not task.after_sessions:
        return np.full(len(times), latest)
    # Sessions of which the data know that they are over.
    own = presents_after_sessions(
        [one[one <= task.end] for one in times], task.after_sessions, session_rule(task, 1)
    )
    return np.where(own <= latest, own, np.nan)


def examples_of(
    times: Sequence[Floats], task: OverUseTask, sessions: int, column: Floats | None = None
) -> tuple[Examples, NDArray[np.int64]]:
    """Return the examples of users who have a present and a label, and which users these are.

    Args:
        times: of each user's events, ascending, in seconds since 1970.
        task: what is read.
        sessions: how many of the last ones the model reads, S >= 1.
        column: 1 for users who over-used, 0 for others, NaN where that is not known, [users]; for
            a task whose label is a column.

    Raises:
        ValueError: a task whose label is a column comes without one; or times do not ascend.
    """
    now, rule, read = presents(times, task), label_rule(task), session_rule(task, sessions)
    if rule is None:
        if column is None:
            raise ValueError("the label is a column, and there is none")
        labels = column
    else:
        labels = np.array(
            [
                label_by_rule(own[own <= task.end], float(at), rule, read)
                for own, at in zip(times, now, strict=True)
            ],
            np.float64,
        )
    kept = np.flatnonzero(~np.isnan(now) & ~np.isnan(labels))
    features = session_features([times[user] for user in kept.tolist()], now[kept], read)
    return Examples(features, labels[kept] == 1), kept
