"""Audit the whole pipeline: train once with canaries, and test whether they can be detected.

What a hostile coordinator finds out is `simulations.audit.hostile`'s; the evidence is the same.

There are three kinds of evidence. Each gets a share of the error, so that an honest pipeline is
called violated with probability at most 1 - confidence:

| evidence     | violated if                                                                     |
|--------------|---------------------------------------------------------------------------------|
| observers    | the bound from their guesses is above the ledger's ε, or the whole interval of  |
|              | their Gaussian estimate is                                                      |
| sensitivity  | one user adds more to a sum than the clip norm                                  |
| books        | an independent accountant computes more for what left than the ledger states    |
| masks        | under secure aggregation: what should be hidden is not uniform, or comes out    |

Under secure aggregation the observers see sums (`simulations.audit.sums`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.runs.recommender import build_recommender
from server.state.checkpoint import Checkpoint
from shared.messages import Request, TrainRequest
from shared.models.attention import AttentionRecommender
from simulations.audit.canaries import Experiment, canary_planter
from simulations.audit.hostile import audit_hostile
from simulations.audit.independent_accounting import compare_with_ledgers
from simulations.audit.membership import RocCurve, familiarity, roc_of
from simulations.audit.observers import (
    BETWEEN_ORGANISATIONS,
    BETWEEN_ROUNDS,
    WHITE_BOX,
    AuditedSite,
    observe,
)
from simulations.audit.plan import Adversary, AuditPlan, check_auditable
from simulations.audit.recorder import Recorder
from simulations.audit.replay import can_replay
from simulations.audit.sums import ALL_OTHERS, Roles, SumsSeen, examine_sums, roles_in
from simulations.audit.transcripts import Transcript, transcripts_of
from simulations.audit.verdict import (
    SEEDED_NOISE,
    Claim,
    audit_record,
    confidence_of_each,
    limitations,
    observer_figures,
    sensitivity_section,
)
from simulations.experiment.config import SimulationConfig
from simulations.experiment.federation import ledger_costs, sites_in
from simulations.experiment.prepare import prepare
from simulations.experiment.result_json import write
from simulations.experiment.simulate import simulate
from simulations.experiment.simulation import SITES, Reporter, Simulation

__all__ = ["FILE", "audit"]

FILE = "audit.json"
BLACK_BOX = "black-box"
EXAMINED_ROUNDS = 8
"""Training rounds that are examined, evenly spread: each takes a pass for every canary."""
RATES = (0.001, 0.01)
"""False positive rates at which membership inference is reported."""

Floats = NDArray[np.float64]

_SEES = {
    WHITE_BOX: "every answer of every organisation, as the coordinator does, and all users except "
    "the canaries' coins",
    BETWEEN_ORGANISATIONS: "each answer minus the next organisation's answer to the same request",
    BETWEEN_ROUNDS: "each answer minus the same organisation's previous answer",
    BLACK_BOX: "only the published model",
}
_SEES_OF_SUMS = {
    WHITE_BOX: "every message of secure aggregation, all that the colluding organisations know, "
    "and all users except the canaries' coins",
    BETWEEN_ROUNDS: "the honest organisations' sum minus their previous one",
    ALL_OTHERS: "the same where all other organisations collude: the answer of the canaries' own "
    "organisation",
}


def audit(
    config: SimulationConfig, plan: AuditPlan, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    """Run the pipeline with canaries, and write audit.json.

    An honest run's own result lies beside it.

    Args:
        config: of the run; `lab.alone` must be false.
        plan: the size of the audit.
        folder: for all files; empty, or absent.
        reporter: gets the progress.

    Returns:
        audit.json, as written: docs/formats.md describes it.

    Raises:
        ConfigError: the run cannot be audited; nothing was run.
    """
    check_auditable(config, plan.adversary)
    if plan.adversary is Adversary.HOSTILE:
        record = audit_hostile(config, plan, folder, reporter)
    else:
        record = _audit_run(config, plan, folder, reporter)
    write(folder, record, FILE)
    return record


def _audit_run(
    config: SimulationConfig, plan: AuditPlan, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    experiments: list[Experiment] = []
    plant = canary_planter(
        experiments,
        canaries=plan.canaries,
        held_out=plan.held_out,
        seed=plan.seed,
        at=0 if config.privacy.secure else None,
    )
    simulation = prepare(config, folder, plant)
    [experiment] = experiments
    roles = roles_in(simulation.names, config.privacy) if config.privacy.secure else None
    rounds = simulation.config.training.number_of_rounds  # that a plan may have chosen
    recorder = Recorder(_select_rounds(rounds), roles.lost if roles else ())
    with transcripts_of() as transcripts:
        simulate(simulation, reporter, recorder)
    reporter.stage("looking for canaries")
    return _collect_evidence(simulation, experiment, recorder, plan, roles, transcripts)


def _select_rounds(rounds: int) -> set[int]:
    return {round(place) for place in np.linspace(1, rounds, min(rounds, EXAMINED_ROUNDS))}


def _collect_evidence(
    simulation: Simulation,
    experiment: Experiment,
    recorder: Recorder,
    plan: AuditPlan,
    roles: Roles | None,
    transcripts: Sequence[Transcript],
) -> dict[str, Any]:
    ledgers = ledger_costs(sites_in(simulation.folder / SITES))
    sums: SumsSeen | None = None
    if roles is None:
        worst = max(ledgers, key=lambda name: ledgers[name].epsilon)
        claim = Claim(ledgers[worst].epsilon, simulation.config.privacy.delta, worst)
        sites = _audited_sites(simulation, experiment, recorder)
        observed, releases = observe(sites, simulation.dataset.catalogue), recorder.releases
    else:
        own = ledgers[roles.target]
        delta, everybody = simulation.config.privacy.delta, own.epsilon_if_all_collude
        claim = Claim(own.epsilon, delta, roles.target, everybody)
        rounds = _examined_rounds(recorder, transcripts)
        sums = examine_sums(simulation, experiment.canaries[0], roles, rounds)
        observed, releases = sums.observed, sums.releases(recorder.releases)
    scores: dict[str, list[Floats | None]] = {**observed.scores}
    scores[BLACK_BOX] = _black_box(simulation, experiment, plan.seed)
    observers = _observers(scores, experiment, claim, plan.confidence)
    accounts = compare_with_ledgers(
        releases, {name: cost.epsilon for name, cost in ledgers.items()}, claim.delta
    )
    return audit_record(
        plan,
        claim,
        observers=observers,
        sensitivity=sensitivity_section(observed.largest_share),
        books=accounts,
        masks=sums.masks if sums else None,
        membership=_membership(simulation, experiment, plan),
        blind_spots=_blind_spots(simulation.config, observers, claim, recorder),
    )


def _examined_rounds(
    recorder: Recorder, transcripts: Sequence[Transcript]
) -> list[tuple[Request, Transcript]]:
    """Return what was asked for and the messages of each sum, where its answers are examined."""
    summed = [heard for heard in transcripts if heard.opened]
    pairs = list(zip(recorder.asked, summed, strict=True))
    kept = {id(seen.request) for each in recorder.seen.values() for seen in each}
    return [(question, heard) for question, heard in pairs if id(question) in kept]


def _audited_sites(
    simulation: Simulation, experiment: Experiment, recorder: Recorder
) -> list[AuditedSite]:
    planted = simulation.planted
    assert planted is not None
    return [
        AuditedSite(
            others=simulation.split.train.select(planted.kept[number]),
            canaries=experiment.canaries[number],
            population=planted.populations[number],
            seen=recorder.seen.get(name, []),
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
    return build_recommender(checkpoint, run, simulation.dataset.catalogue)


def _observers(
    scores: Mapping[str, Sequence[Floats | None]],
    experiment: Experiment,
    claim: Claim,
    confidence: float,
) -> list[dict[str, Any]]:
    active = {name: each for name, each in scores.items() if any(s is not None for s in each)}
    confidences = confidence_of_each(list(active), confidence)
    sees = _SEES | (_SEES_OF_SUMS if ALL_OTHERS in active else {})
    return [
        {"name": name, "sees": sees[name]}
        | observer_figures(
            parts,
            experiment.canaries,
            claim.if_all_collude if name == ALL_OTHERS else claim,
            confidences[name],
        )
        for name, parts in active.items()
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
    curve = roc_of(members, others, plan.confidence)
    return {
        "members": curve.members,
        "non_members": curve.others,
        "auc": curve.area,
        "auc_low": curve.area_interval[0],
        "auc_high": curve.area_interval[1],
        "tpr_at_fpr": {f"{rate:g}": _at(curve, rate, plan.confidence) for rate in RATES},
        "roc": {
            "fpr": curve.false_positives.tolist(),
            "tpr": curve.true_positives.tolist(),
        },
    }


def _at(curve: RocCurve, rate: float, confidence: float) -> dict[str, float]:
    tpr, low, high = curve.at(rate, confidence)
    return {"tpr": tpr, "low": low, "high": high}


def _blind_spots(
    config: SimulationConfig,
    observers: Sequence[Mapping[str, Any]],
    claim: Claim,
    recorder: Recorder,
) -> list[str]:
    """Return what could be wrong without this audit detecting it, in sentences."""
    training, rounds = config.training, config.training.number_of_rounds
    kept = [seen.request for each in recorder.seen.values() for seen in each]
    several = any(isinstance(request, TrainRequest) for request in kept)
    white = next((each for each in observers if each["name"] == WHITE_BOX), None)
    provable = max(each["largest_provable"] for each in observers)
    conditions = {
        f"{EXAMINED_ROUNDS} of {rounds} rounds were examined; the others were not.": (
            rounds > EXAMINED_ROUNDS
        ),
        "Local steps other than plain SGD were not examined.": (
            not all(can_replay(request) for request in kept)
        ),
        "A round's later local steps were assumed to be like its first one.": (
            training.local_steps > 1 and several
        ),
        "The observers do not know which users were sampled in a round; an attacker who does "
        "learns more in that round.": rounds > 0 and training.sample_rate < 1,
        "Noise that two organisations share was not looked for: audit with privacy.trust = "
        "'local', too.": config.privacy.secure,
    }
    return [
        *limitations(white, provable, claim),
        *(sentence for sentence, holds in conditions.items() if holds),
        "Canaries are synthetic users with directions of their own; a fault that affects other "
        "kinds of users was not tested.",
        SEEDED_NOISE,
    ]
