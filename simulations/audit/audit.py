"""An audit of the whole pipeline, as it is run: one training run with canaries, and who finds them.

What it asks, each at its share of the error, so that an honest pipeline is called violated with a
chance of at most 1 - confidence:

| evidence     | violated if                                                                     |
|--------------|---------------------------------------------------------------------------------|
| observers    | what their guesses prove is above the ledger's ε, or the interval of their      |
|              | Gaussian estimate is                                                            |
| sensitivity  | one user adds more to a sum than the clip norm                                  |
| books        | an accountant of another make, reading off what left, finds more than the ledger|
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.app import model_with
from server.state.checkpoint import Checkpoint
from shared.errors import ConfigError
from shared.messages import TrainRequest
from shared.models.attention import AttentionRecommender
from simulations.audit.canaries import Experiment, planting
from simulations.audit.independent_accounting import books
from simulations.audit.judge import Claim, limits, observer, reasons
from simulations.audit.observers import (
    BETWEEN_ORGANISATIONS,
    BETWEEN_ROUNDS,
    WHITE_BOX,
    Party,
    look,
)
from simulations.audit.published import Attack, familiarity, roc_of
from simulations.audit.replay import can_replay
from simulations.audit.tap import Tap
from simulations.experiment.config import Engine, SimulationConfig
from simulations.experiment.federation import sites_in, spent
from simulations.experiment.results import write
from simulations.experiment.simulate import SITES, Reporter, Simulation, prepare, simulate

__all__ = ["FILE", "AuditPlan", "audit"]

FILE = "audit.json"
BLACK_BOX = "black-box"
ROUNDS_STUDIED = 8
"""Rounds of training that are looked at, evenly spread: each takes a pass for every canary."""
SLACK = 1e-3
"""How far float32 may take one user's share beyond the clip norm, of the clip norm."""
RATES = (0.001, 0.01)
"""False positive rates at which membership inference is reported."""

Floats = NDArray[np.float64]

_SEES = {
    WHITE_BOX: "every answer of every organisation, as the coordinator does, and all users but the "
    "canaries' coins",
    BETWEEN_ORGANISATIONS: "each answer less the next organisation's to the same request",
    BETWEEN_ROUNDS: "each answer less the same organisation's answer before it",
    BLACK_BOX: "the published model alone",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlan:
    """How hard to look.

    Attributes:
        canaries: made-up users at all organisations together; half of them are in, >= 20.
        held_out: share of the real users that is left out, in [0, .5].
        confidence: that an honest pipeline passes, in (0, 1).
        seed: of coins and canaries; the run's noise has the run's seed.
    """

    canaries: int = 2000
    held_out: float = 0.15
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("canaries", self.canaries, self.canaries >= 20, "20 or more"),
            ("held-out", self.held_out, 0 <= self.held_out <= 0.5, "a share from 0 to .5"),
            ("confidence", self.confidence, 0 < self.confidence < 1, "a chance, such as .95"),
            ("audit-seed", self.seed, self.seed >= 0, "0 or more"),
        )
        for name, value, holds, wanted in checks:
            if not holds:
                raise ConfigError(f"--{name} {value}: give {wanted}.")


def audit(
    config: SimulationConfig, plan: AuditPlan, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    """Runs the pipeline with canaries and writes what was found, beside the run's own result.

    Args:
        config: of the run; organisations are not trained alone.
        plan: how hard to look.
        folder: for all of it; empty, or not there yet.
        reporter: told how it goes.

    Returns:
        audit.json, as written: docs/privacy.md describes it.

    Raises:
        ConfigError: the run cannot be audited; nothing was run.
    """
    _check(config)
    experiments: list[Experiment] = []
    plant = planting(experiments, canaries=plan.canaries, held_out=plan.held_out, seed=plan.seed)
    simulation = prepare(config, folder, plant)
    [experiment] = experiments
    tap = Tap(_studied(config.training.rounds))
    simulate(simulation, reporter, tap)
    reporter.stage("looking for canaries")
    found = _findings(simulation, experiment, tap, plan)
    write(folder, found, FILE)
    return found


def _check(config: SimulationConfig) -> None:
    if not config.privacy.private:
        raise ConfigError("privacy.epsilon = 'none' claims nothing that could be audited: state ε.")
    refused = {
        f"lab.engine = '{config.lab.engine}'": config.lab.engine is not Engine.INPROCESS,
        f"server.evaluate_every = {config.server.evaluate_every}": config.server.evaluate_every > 0,
        "lab.alone = true": config.lab.alone,
    }
    for setting, given in refused.items():
        if given:
            key = setting.split(" ")[0]
            wanted = {"lab.engine": "inprocess", "lab.alone": "false"}.get(key, "0")
            raise ConfigError(
                f"{setting}, which an audit cannot follow: leave it out, or --set {key}={wanted}."
            )


def _studied(rounds: int) -> set[int]:
    return {round(place) for place in np.linspace(1, rounds, min(rounds, ROUNDS_STUDIED))}


def _findings(
    simulation: Simulation, experiment: Experiment, tap: Tap, plan: AuditPlan
) -> dict[str, Any]:
    ledgers = spent(sites_in(simulation.folder / SITES))
    worst = max(ledgers, key=lambda name: ledgers[name][0])
    claim = Claim(ledgers[worst][0], simulation.config.privacy.delta, worst)
    sight = look(_parties(simulation, experiment, tap), simulation.dataset.catalogue)
    scores: dict[str, list[Floats | None]] = {**sight.scores}
    scores[BLACK_BOX] = _black_box(simulation, experiment, plan.seed)
    observers = _observers(scores, experiment, claim, plan.confidence)
    sensitivity = {
        "largest": sight.largest_share,
        "allowed": 1.0,
        "violated": sight.largest_share > 1 + SLACK,
    }
    accounts = books(tap.releases, {name: cost for name, (cost, _) in ledgers.items()}, claim.delta)
    found = reasons(observers, sensitivity, accounts, claim)
    attack = _membership(simulation, experiment, plan)
    return {
        "schema": 1,
        "claim": asdict(claim),
        "verdict": "violated" if found else "consistent",
        "reasons": found,
        "confidence": plan.confidence,
        "observers": observers,
        "sensitivity": sensitivity,
        "books": accounts,
        "membership": attack,
        "blind_spots": _blind_spots(simulation.config, observers, claim, tap),
    }


def _parties(simulation: Simulation, experiment: Experiment, tap: Tap) -> list[Party]:
    planted = simulation.planted
    assert planted is not None
    return [
        Party(
            others=simulation.split.train.select(planted.kept[number]),
            canaries=experiment.canaries[number],
            population=planted.populations[number],
            seen=tap.seen.get(name, []),
        )
        for number, name in enumerate(simulation.names)
    ]


def _black_box(simulation: Simulation, experiment: Experiment, seed: int) -> list[Floats | None]:
    model = _published(simulation)
    return [familiarity(model, own.histories, seed) for own in experiment.canaries]


def _published(simulation: Simulation) -> AttentionRecommender:
    checkpoint = Checkpoint.load(simulation.folder)
    run = simulation.config.run(
        organisations=len(simulation.parts),
        catalogue=simulation.folder,
        out=simulation.folder,
        resume=False,
    )
    return model_with(checkpoint, run, simulation.dataset.catalogue)


def _observers(
    scores: Mapping[str, Sequence[Floats | None]],
    experiment: Experiment,
    claim: Claim,
    confidence: float,
) -> list[dict[str, Any]]:
    seeing = {name: each for name, each in scores.items() if any(s is not None for s in each)}
    others = max(1, len(seeing) - 1)
    errors = {name: (1 - confidence) / (2 if name == WHITE_BOX else 2 * others) for name in seeing}
    return [
        {"name": name, "sees": _SEES[name]}
        | observer(parts, experiment.canaries, claim, 1 - errors[name] / 2)
        for name, parts in seeing.items()
    ]


def _membership(
    simulation: Simulation, experiment: Experiment, plan: AuditPlan
) -> dict[str, Any] | None:
    if min(len(experiment.members), len(experiment.held_out)) < 2:
        return None
    model, train = _published(simulation), simulation.split.train
    rows = np.concatenate([experiment.members, experiment.held_out])
    scores = familiarity(model, train.select(rows), plan.seed)
    members, others = np.split(scores, [len(experiment.members)])
    attack = roc_of(members, others, plan.confidence)
    return {
        "members": attack.members,
        "non_members": attack.others,
        "auc": attack.area,
        "auc_low": attack.area_interval[0],
        "auc_high": attack.area_interval[1],
        "tpr_at_fpr": {f"{rate:g}": _at(attack, rate, plan.confidence) for rate in RATES},
        "roc": {
            "fpr": attack.false_positives.tolist(),
            "tpr": attack.true_positives.tolist(),
        },
    }


def _at(attack: Attack, rate: float, confidence: float) -> dict[str, float]:
    found, low, high = attack.at(rate, confidence)
    return {"tpr": found, "low": low, "high": high}


def _blind_spots(
    config: SimulationConfig, observers: Sequence[Mapping[str, Any]], claim: Claim, tap: Tap
) -> list[str]:
    """What could have been wrong without being seen here."""
    training = config.training
    kept = [seen.request for each in tap.seen.values() for seen in each]
    several = any(isinstance(request, TrainRequest) for request in kept)
    white = next((each for each in observers if each["name"] == WHITE_BOX), None)
    provable = max(each["largest_provable"] for each in observers)
    conditions = {
        f"{ROUNDS_STUDIED} of {training.rounds} rounds were looked at; the others were not.": (
            training.rounds > ROUNDS_STUDIED
        ),
        "Local steps other than plain SGD were not looked at.": (
            not all(can_replay(request) for request in kept)
        ),
        "Local steps after a round's first one were taken to be like the first.": (
            training.local_steps > 1 and several
        ),
        "The observers do not know who was sampled when; one who could find out learns more in "
        "that round.": training.rounds > 0 and training.sample_rate < 1,
    }
    return [
        *limits(white, provable, claim),
        *(sentence for sentence, holds in conditions.items() if holds),
        "Canaries are made-up users, in directions of their own; a user whom some fault singles "
        "out otherwise was not there.",
        "Simulated noise is seeded: the generator of real sites, its last bits, and how long "
        "answers take were not looked at.",
    ]
