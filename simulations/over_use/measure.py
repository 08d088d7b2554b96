"""Figures of scores on test users: calibrated and decided on other users, over splits, by group.

Users are divided at random: training, calibration (20%) and test (20%). Every model, with noise or
without, gets its Platt scaling and its threshold (of the highest F1) from the calibration users;
all figures are of the test users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.classification import auroc, classify, reliability
from shared.over_use.calibration import best_threshold, fit_platt, platt
from simulations.over_use.task import Task

__all__ = ["Outcomes", "Split", "split_users"]

HELD_OUT = 0.2
"""Share of the users that calibration has, and that the test has."""
FIGURES = ("auroc", "f1", "precision", "recall", "false_positive_rate", "calibration_error")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows of a task's users, and of each organisation's.

    Attributes:
        training: users to train on, one array an organisation.
        calibration: users to calibrate on.
        test: users to measure on.
    """

    training: list[Ints]
    calibration: Ints
    test: Ints

    @property
    def trained(self) -> Ints:
        """Training users of all organisations."""
        return np.concatenate(self.training)


def split_users(users: int, organisations: int, seed: int) -> Split:
    """Divide users at random; organisations get equally many, up to one."""
    order = np.random.default_rng([seed, 0x5011]).permutation(users)
    held = round(HELD_OUT * users)
    calibration, test, rest = np.split(order, [held, 2 * held])
    return Split([np.sort(part) for part in np.array_split(rest, organisations)], calibration, test)


@dataclass(slots=True)
class _Pooled:
    """What one model said of test users, over all splits."""

    figures: list[dict[str, float]] = field(default_factory=list)
    risks: list[Floats] = field(default_factory=list)
    said: list[NDArray[np.bool_]] = field(default_factory=list)
    users: list[Ints] = field(default_factory=list)


class Outcomes:
    """Collects what each model said of the test users of each split.

    Args:
        task: whose users.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._models = task, dict[str, _Pooled]()

    def add(self, name: str, split: Split, logits: Floats) -> tuple[float, float]:
        """Add a model's logits of all users, and return its calibration: slope and offset."""
        known = self._task.labels[split.calibration]
        slope, offset = fit_platt(logits[split.calibration], known)
        self.add_risk(name, split, platt(logits, slope, offset))
        return slope, offset

    def add_risk(self, name: str, split: Split, risk: Floats) -> None:
        """Add a model's calibrated risk of all users."""
        labels, model = self._task.labels, self._models.setdefault(name, _Pooled())
        threshold = best_threshold(risk[split.calibration], labels[split.calibration])
        own, truth = risk[split.test], labels[split.test]
        one = asdict(classify(own, truth, threshold))
        model.figures.append({figure: one[figure] for figure in FIGURES})
        model.risks.append(own)
        model.said.append(own >= threshold)
        model.users.append(split.test)

    def table(self) -> dict[str, dict[str, Any]]:
        """Return each model's figures: mean and standard error over splits, groups, bins."""
        return {name: self._row(model) for name, model in self._models.items()}

    def _row(self, model: _Pooled) -> dict[str, Any]:
        users, risk = np.concatenate(model.users), np.concatenate(model.risks)
        bins = reliability(risk, self._task.labels[users])
        return {
            **{name: _mean([one[name] for one in model.figures]) for name in FIGURES},
            "groups": {
                grouping: self._by_group(model, values)
                for grouping, values in self._task.groups.items()
            },
            "reliability": [{"users": n, "risk": mean, "share": part} for n, mean, part in bins],
        }

    def _by_group(
        self, model: _Pooled, groups: Sequence[str]
    ) -> dict[str, dict[str, float | None]]:
        """Return figures of each group's test users, of all splits together."""
        users, risk = np.concatenate(model.users), np.concatenate(model.risks)
        said, own = np.concatenate(model.said), np.array(groups)[users]
        rows = {}
        for name in sorted(set(groups)):
            inside = own == name
            truth, marked = self._task.labels[users[inside]], said[inside]
            rows[name] = {
                "users": int(inside.sum()),
                "share": _number(truth.mean()),
                "mean_risk": _number(risk[inside].mean()),
                "auroc": _number(auroc(risk[inside], truth)),
                "recall": _number(marked[truth].mean() if truth.any() else math.nan),
                "false_positive_rate": _number(
                    marked[~truth].mean() if (~truth).any() else math.nan
                ),
            }
        return rows


def _mean(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard error over splits; None for what they do not define."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return {"mean": None, "error": None}
    error = float(known.std(ddof=1) / len(known) ** 0.5) if len(known) > 1 else None
    return {"mean": float(known.mean()), "error": error}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
