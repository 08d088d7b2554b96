"""A whole experiment: one model an ε, beside baselines, over several splits of the users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.compute.over_use import Examples
from shared.config import PrivacyConfig
from shared.evaluation.classification import auroc
from shared.over_use.calibration import fit_platt, platt
from shared.over_use.model import OverUseConfig, OverUseModel
from shared.sections import flatten
from simulations.experiment.result_json import versions, write
from simulations.over_use.baselines import BASELINES, baseline_features, fit_logistic
from simulations.over_use.federation import (
    Cost,
    Organisation,
    Training,
    initial_model,
    train_alone,
    train_together,
)
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
        claims: one for each model that is trained together.
        organisations: how many.
        splits: how many divisions of the users; one model each.
        seed: of the first one; the next have the next seeds.
        training: how the model is trained.
    """

    claims: Sequence[PrivacyConfig]
    organisations: int = 4
    splits: int = 3
    seed: int = 0
    training: Training = field(default_factory=Training)


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
    outcomes, costs = Outcomes(task), dict[str, dict[str, Cost]]()
    for number in range(experiment.splits):
        seed = experiment.seed + number
        split = split_users(len(task), experiment.organisations, seed)
        notify(f"split {number + 1} of {experiment.splits}: models without noise")
        _measure_without_noise(task, experiment, split, outcomes, seed)
        for claim in experiment.claims:
            name = model_name(claim)
            notify(f"split {number + 1} of {experiment.splits}: {name}")
            place = folder / f"split-{number}" / name.replace(" = ", "-").replace(" ", "-")
            model, costs[name] = _train(task, experiment, split, claim, place, seed)
            slope, offset = outcomes.add(name, split, model.logits(task.sessions))
            model.config = replace(model.config, slope=slope, offset=offset)
            model.save_pretrained(place / "model")
    result = {
        "task": "over-use",
        "data": _data(task),
        "training": dict(flatten(experiment.training)),
        "organisations": experiment.organisations,
        "splits": experiment.splits,
        "seed": experiment.seed,
        "privacy": {model_name(claim): _claim(claim, costs) for claim in experiment.claims},
        "models": outcomes.table(),
        "versions": versions(),
    }
    write(folder, result, FILE)
    return result


def _measure_without_noise(
    task: Task, experiment: Experiment, split: Split, outcomes: Outcomes, seed: int
) -> None:
    """Add baselines, and each organisation's own model on its own users."""
    for name in BASELINES:
        columns = baseline_features(task, name)
        outcomes.add(name, split, fit_logistic(columns, task.labels, split.trained.tolist()))
    outcomes.add_risk(ALONE, split, _alone(task, experiment, split, seed))
    if task.ceiling is not None:
        outcomes.add(CEILING, split, np.log(task.ceiling))


def _alone(task: Task, experiment: Experiment, split: Split, seed: int) -> NDArray[np.float64]:
    """Return each user's risk by the model of one organisation alone; held-out users are dealt."""
    risk, count = np.zeros(len(task)), experiment.organisations
    for place, users in enumerate(split.training):
        model = initial_model(OverUseConfig(rule=task.rule, label=task.label), seed)
        own = Examples(task.sessions.of(users), task.labels[users])
        train_alone(own, model, experiment.training, seed)
        fitted, shown = split.calibration[place::count], split.test[place::count]
        logits = model.logits(task.sessions)
        slope, offset = fit_platt(logits[fitted], task.labels[fitted])
        for rows in (fitted, shown):
            risk[rows] = platt(logits[rows], slope, offset)
    return risk


def _train(
    task: Task,
    experiment: Experiment,
    split: Split,
    claim: PrivacyConfig,
    folder: Path,
    seed: int,
) -> tuple[OverUseModel, dict[str, Cost]]:
    organisations = [
        Organisation(
            name=f"organisation-{place + 1}",
            examples=Examples(task.sessions.of(users), task.labels[users]),
            folder=folder / "sites" / f"organisation-{place + 1}",
        )
        for place, users in enumerate(split.training)
    ]
    model = initial_model(OverUseConfig(rule=task.rule, label=task.label), seed)
    cost = train_together(organisations, model, experiment.training, claim, seed)
    return model, cost


def _data(task: Task) -> dict[str, Any]:
    labels = task.labels
    ceiling = None if task.ceiling is None else auroc(task.ceiling, labels)
    return {
        "name": task.name,
        "users": len(task),
        "positives": int(labels.sum()),
        "label": task.label,
        "sessions": asdict(task.rule),
        "mean_sessions": float(task.sessions.mask.sum(1).mean()),
        "left_out": task.left_out,
        "ceiling_auroc": ceiling,
    }


def _claim(claim: PrivacyConfig, costs: dict[str, dict[str, Cost]]) -> dict[str, Any]:
    return {
        "epsilon": claim.epsilon,
        "delta": claim.delta,
        "trust": str(claim.trust_asked),
        "organisations": {name: asdict(cost) for name, cost in costs[model_name(claim)].items()},
    }
