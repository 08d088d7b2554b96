"""Logistic regressions without noise, on the users of all organisations together.

| name            | reads                                                                        |
|-----------------|------------------------------------------------------------------------------|
| counts          | log(1 + x) of events, sessions and active days up to the present             |
| counts, recent  | the same, also of the last week alone                                        |
| session means   | the mean over a user's last sessions of each of their features               |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from shared.over_use.sessions import DAY, WEEK, SessionRule
from simulations.over_use.task import Task

__all__ = ["BASELINES", "baseline_features", "fit_logistic"]

BASELINES = ("counts", "counts, recent", "session means")
RIDGE = 1e-3
"""Penalty on squared weights, of standardised columns, a user."""

Floats = NDArray[np.float64]


def baseline_features(task: Task, name: str) -> Floats:
    """Return what a baseline reads of each user, [users, columns]."""
    if name == "session means":
        mask = task.sessions.mask[..., None]
        sums = (task.sessions.features * mask).sum(1, dtype=np.float64)
        means: Floats = sums / np.maximum(mask.sum(1), 1)
        return means
    rows = [
        _counts(own, float(at), task.rule, recent=name != "counts")
        for own, at in zip(task.times, task.now, strict=True)
    ]
    return np.log1p(np.array(rows, np.float64))


def _counts(times: Floats, now: float, rule: SessionRule, *, recent: bool) -> list[int]:
    counts = []
    for since in [now - WEEK * rule.weeks] + [now - WEEK] * recent:
        own = times[(times > since) & (times <= now)]
        days = np.unique(np.floor((own + 3600 * rule.utc_offset_hours) / DAY))
        counts += [len(own), len(rule.breaks(own)), len(days)]
    return counts


def fit_logistic(columns: Floats, labels: NDArray[np.bool_], users: Sequence[int]) -> Floats:
    """Fit a logistic regression on some users, and return the logits of all, [users].

    Args:
        columns: [users, columns].
        labels: of all users; those of `users` alone are read.
        users: rows to fit on.
    """
    own = columns[users]
    spread = own.std(0)
    standard = (columns - own.mean(0)) / np.where(spread > 0, spread, 1)
    x = np.concatenate([standard, np.ones((len(columns), 1))], axis=1)
    fitted, target = x[users], labels[users].astype(np.float64)

    def loss(w: Floats) -> tuple[float, Floats]:
        logits = fitted @ w
        value = np.mean(np.logaddexp(0, logits) - target * logits) + RIDGE * (w[:-1] @ w[:-1])
        slope = fitted.T @ (1 / (1 + np.exp(-logits)) - target) / len(target)
        slope[:-1] += 2 * RIDGE * w[:-1]
        return float(value), slope

    weights: Floats = minimize(loss, np.zeros(x.shape[1]), jac=True).x
    logits: Floats = x @ weights
    return logits
