"""Run a prepared simulation, and write its result.json."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from client.compute.memory import keep_freed_memory
from server.app import Observer
from server.runs.recommender import build_recommender
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditLog
from server.state.checkpoint import Checkpoint
from server.state.status import RunStatus
from shared.config import RunConfig
from shared.evaluation.ranking import Ranking
from shared.models.gates import named_gate_shares
from shared.models.social import SocialRecommender
from shared.system.files import UMASK, write_atomically
from simulations.experiment.baselines import recommender, validation_loss
from simulations.experiment.evaluate import (
    evaluated_users,
    evaluation_section,
    rank_models,
    reranking_section,
)
from simulations.experiment.federation import ledger_costs, run_federation, sites_in
from simulations.experiment.groups import groups_section
from simulations.experiment.kept_rankings import KeptRankings
from simulations.experiment.result_json import Result, versions, write
from simulations.experiment.result_sections import (
    cost_section,
    data_section,
    friends_section,
    plan_section,
    privacy_section,
    rounds_section,
)
from simulations.experiment.simulation import (
    LOCAL_BASELINES,
    SITES,
    Reporter,
    RoundFigures,
    Simulation,
    write_site,
)
from simulations.experiment.user_ranks import write_evaluation

__all__ = ["simulate"]

EPSILONS = "epsilons.json"


def simulate(
    simulation: Simulation,
    reporter: Reporter,
    app: ClientApp | None = None,
    *,
    baselines: Path | None = None,
) -> dict[str, Any]:
    """Run or resume a prepared simulation, and write its result.json.

    Args:
        simulation: what to run.
        reporter: gets the progress.
        app: runs on every node of the federation instead of the node's own ClientApp.
        baselines: folder that keeps the rankings of baselines that do not depend on ε.

    Returns:
        The result, as written.
    """
    keep_freed_memory()
    start = time.monotonic()
    reporter.stage("training together")
    final = _federate(simulation, simulation.folder, reporter, app)
    local_baselines = (
        _train_local_baselines(simulation, reporter) if simulation.config.lab.alone else None
    )
    reporter.stage("measuring")
    evaluation_start = time.monotonic()
    kept = None if baselines is None else KeptRankings(baselines, simulation)
    rankings = rank_models(simulation, final, local_baselines, kept)
    rankings, reranking = reranking_section(simulation, rankings)
    now = time.monotonic()
    status = RunStatus.load(simulation.folder)
    optional = _optional_sections(simulation, final, rankings, status)
    if reranking:
        optional["rerank"] = reranking
    result = Result(
        schema_=2,
        data=data_section(
            simulation.dataset,
            dict(zip(simulation.names, simulation.populations, strict=True)),
        ),
        privacy=privacy_section(
            simulation.config.privacy,
            ledger_costs(sites_in(simulation.folder / SITES)),
            simulation.config.home.epsilon if simulation.config.home.private else None,
        ),
        evaluation=evaluation_section(simulation, rankings),
        rounds=rounds_section(
            AuditLog(simulation.folder / AUDIT).entries(), _Epsilons(simulation.folder).by_round
        ),
        cost=cost_section(status, total=now - start, evaluate=now - evaluation_start),
        seed=simulation.config.seed,
        versions=versions(),
        **optional,
    ).document()
    # The result comes last, so that a folder with a result is complete.
    write_evaluation(simulation.folder, evaluated_users(simulation), rankings)
    write(simulation.folder, result)
    return result


def _optional_sections(
    simulation: Simulation,
    final: Checkpoint,
    rankings: dict[str, Ranking],
    status: RunStatus,
) -> dict[str, Any]:
    """Return the sections that a result has only with some settings or kinds of model, by name."""
    sections: dict[str, Any] = {}
    run, dataset = simulation.run_config(simulation.folder), simulation.dataset
    model = build_recommender(final, run, dataset.catalogue)
    if groups := groups_section(simulation, rankings, model, status.groups):
        sections["groups"] = groups
    blocks = [block.name for block in dataset.catalogue.blocks]
    if gates := named_gate_shares(blocks, final.weights):
        sections["gates"] = gates
    if isinstance(model, SocialRecommender) and dataset.friends is not None:
        own = [simulation.friends(number) for number in range(len(simulation.parts))]
        sections["friends"] = friends_section(
            model.alpha,
            model.beta,
            dataset.friends,
            [table for table in own if table is not None],
            run.model.friends,
        )
    if plan := simulation.plan:
        sections["plan"] = plan_section(plan)
    return sections


def _federate(
    simulation: Simulation, folder: Path, reporter: Reporter, app: ClientApp | None = None
) -> Checkpoint:
    """Run what is left of the federation below `folder`, and return its last checkpoint."""
    sites, config = sites_in(folder / SITES), simulation.run_config(folder)
    run_federation(
        config,
        sites,
        engine=simulation.config.lab.engine,
        observer=_round_observer(simulation, config, sites, reporter),
        app=app,
    )
    return Checkpoint.load(folder)


def _round_observer(
    simulation: Simulation, config: RunConfig, sites: list[Path], reporter: Reporter
) -> Observer:
    catalogue, window = simulation.dataset.catalogue, config.model.max_length
    epsilons = _Epsilons(Path(config.paths.out))

    def observe(checkpoint: Checkpoint) -> None:
        model = build_recommender(checkpoint, config, catalogue)
        epsilon = max(cost.epsilon for cost in ledger_costs(sites).values())
        epsilons.record(checkpoint.round, epsilon)
        status = RunStatus.load(Path(config.paths.out))
        reporter.round(
            checkpoint.round,
            config.training.number_of_rounds,
            RoundFigures(
                loss=validation_loss(recommender(model), simulation.split, window),
                epsilon=epsilon,
                seconds=status.round_seconds if checkpoint.round else status.warm_start_seconds,
                bytes_up=status.round_bytes_up,
            ),
        )

    return observe


class _Epsilons:
    """The highest ε of an organisation after each round, in a file of the run.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / EPSILONS

    @property
    def by_round(self) -> dict[int, float]:
        """Return what was written down; infinite values, without privacy, are left out."""
        if not self._file.is_file():
            return {}
        return {int(n): value for n, value in json.loads(self._file.read_text("utf-8")).items()}

    def record(self, number: int, epsilon: float) -> None:
        """Write down the ε after a round."""
        if number and math.isfinite(epsilon):
            text = json.dumps(self.by_round | {number: epsilon})
            write_atomically(self._file, text.encode(), mode=UMASK)


def _train_local_baselines(simulation: Simulation, reporter: Reporter) -> list[Checkpoint]:
    """Train each organisation by itself, under its own ε, with as many steps."""
    checkpoints = []
    for number, name in enumerate(simulation.names):
        reporter.stage(f"training {name} alone")
        folder = simulation.folder / LOCAL_BASELINES / name
        if not sites_in(folder / SITES):
            write_site(simulation, number, folder, local_baseline=True)
        checkpoints.append(_federate(simulation, folder, reporter))
    return checkpoints
