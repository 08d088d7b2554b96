"""A whole experiment: one model an ε, beside baselines, over several splits of the users.

A model that was trained before its experiment was interrupted goes on from its own folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.app import MODEL
from shared.config import PrivacyConfig
from shared.evaluation.classification import auroc
from shared.over_use.calibration import fit_platt, platt
from shared.sections import flatten
from simulations.experiment.federation import LedgerCost
from simulations.experiment.result_json import versions, write
from simulations.over_use.baselines import BASELINES, baseline_features, fit_logistic
from simulations.over_use.federation import Plan, run_config, train_together
from simulations.over_use.measure import Outcomes, Split, split_users
from simulations.over_use.task import Task

__all__ = ["FILE", "Experiment", "model_name", "run_experiment"]

FILE = "over-use.json"
ALONE = "alone, no noise"
CEILING = "truth"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is run, beside the task.

    Attributes:
        plans: one for each model that is trained together.
        organisations: how many.
        splits: how many divisions of the users; one model each.
        seed: of the first one; the next have the next seeds.
    """

    plans: Sequence[Plan]
    organisations: int = 4
    splits: int = 3
    seed: int = 0


def model_name(claim: PrivacyConfig) -> str:
    """Return a trained model's name in tables."""
    return "no noise" if claim.epsilon is None else f"ε = {claim.epsilon:g}"


def run_experiment(
    task: Task, experiment: Experiment, folder: Path, notify: Callable[[str], None]
) -> dict[str, Any]:
    """Train and measure all models, and write over-use.json, models and ledgers into a folder.

    Args:
        task: users and labels.
        experiment: what is run.
        folder: a new or empty one.
        notify: gets the progress.

    Returns:
        The result, as written.
    """
    outcomes, costs = Outcomes(task), dict[str, dict[str, LedgerCost]]()
    for number in range(experiment.splits):
        seed = experiment.seed + number
        split = split_users(len(task), experiment.organisations, seed)
        place = folder / f"split-{number}"
        notify(f"split {number + 1} of {experiment.splits}: models without noise")
        _measure_without_noise(task, experiment, split, outcomes, place)
        for plan in experiment.plans:
            name = model_name(plan.privacy)
            notify(f"split {number + 1} of {experiment.splits}: {name}")
            own = place / name.replace(" = ", "-").replace(" ", "-")
            model, costs[name] = train_together(task, split.training, plan, own, seed)
            slope, offset = outcomes.add(name, split, model.logits(task.sessions))
            model.config = replace(model.config, slope=slope, offset=offset)
            model.save_pretrained(own / MODEL)
    plans = experiment.plans
    result = {
        "task": "over-use",
        "data": _data(task),
        "runs": {model_name(p.privacy): _settings(task, p, experiment, folder) for p in plans},
        "organisations": experiment.organisations,
        "splits": experiment.splits,
        "seed": experiment.seed,
        "privacy": {model_name(p.privacy): _claim(p.privacy, costs) for p in plans},
        "models": outcomes.table(),
        "versions": versions(),
    }
    write(folder, result, FILE)
    return result


def _measure_without_noise(
    task: Task, experiment: Experiment, split: Split, outcomes: Outcomes, folder: Path
) -> None:
    """Add baselines, and each organisation's own model on its own users."""
    for name in BASELINES:
        columns = baseline_features(task, name)
        outcomes.add(name, split, fit_logistic(columns, task.labels, split.trained.tolist()))
    outcomes.add_risk(ALONE, split, _alone(task, experiment, split, folder))
    if task.ceiling is not None:
        outcomes.add(CEILING, split, np.log(task.ceiling))


def _alone(task: Task, experiment: Experiment, split: Split, folder: Path) -> NDArray[np.float64]:
    """Return each user's risk by the model of one organisation alone; held-out users are dealt."""
    risk, count = np.zeros(len(task)), experiment.organisations
    plan = experiment.plans[0].by_itself()
    for place, users in enumerate(split.training):
        own = folder / "alone" / str(place + 1)
        model, _ = train_together(task, [users], plan, own, experiment.seed)
        fitted, shown = split.calibration[place::count], split.test[place::count]
        logits = model.logits(task.sessions)
        slope, offset = fit_platt(logits[fitted], task.labels[fitted])
        for rows in (fitted, shown):
            risk[rows] = platt(logits[rows], slope, offset)
    return risk


def _settings(task: Task, plan: Plan, experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Return the settings of a run, without its paths."""
    run = run_config(task, plan, experiment.organisations, folder, experiment.seed)
    return {key: value for key, value in flatten(run).items() if not key.startswith("paths.")}


def _data(task: Task) -> dict[str, Any]:
    labels = task.labels
    ceiling = None if task.ceiling is None else auroc(task.ceiling, labels)
    return {
        "name": task.name,
        "users": len(task),
        "positives": int(labels.sum()),
        "label": task.label,
        "settings": flatten(task.settings),
        "mean_sessions": float(task.sessions.mask.sum(1).mean()),
        "left_out": task.left_out,
        "ceiling_auroc": ceiling,
    }


def _claim(claim: PrivacyConfig, costs: dict[str, dict[str, LedgerCost]]) -> dict[str, Any]:
    return {
        "epsilon": claim.epsilon,
        "delta": claim.delta,
        "trust": str(claim.trust_asked),
        "organisations": {
            name: {
                "epsilon": _finite(cost.epsilon),
                "epsilon_if_all_collude": _finite(cost.epsilon_if_all_collude),
                "releases": [asdict(release) for release in cost.releases],
            }
            for name, cost in costs[model_name(claim)].items()
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
