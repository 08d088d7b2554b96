"""Run a prepared simulation, and write its result.json."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from client.compute.memory import keep_freed_memory
from server.app import Observer
from server.runs.recommender import build_recommender
from server.state.checkpoint import Checkpoint
from server.state.status import RunStatus
from shared.config import RunConfig
from simulations.experiment import baselines, result_json
from simulations.experiment.evaluate import evaluated_users, evaluation_section, rank_models
from simulations.experiment.federation import ledger_costs, run_federation, sites_in
from simulations.experiment.simulation import (
    LOCAL_BASELINES,
    SITES,
    Reporter,
    Simulation,
    write_site,
)
from simulations.experiment.user_ranks import write_evaluation

__all__ = ["simulate"]


def simulate(
    simulation: Simulation, reporter: Reporter, app: ClientApp | None = None
) -> dict[str, Any]:
    """Run or resume a prepared simulation, and write its result.json.

    Args:
        simulation: what to run.
        reporter: gets the progress.
        app: runs on every node of the federation instead of the node's own ClientApp.

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
    rankings = rank_models(simulation, final, local_baselines)
    now = time.monotonic()
    result = result_json.Result(
        schema_=1,
        data=result_json.data_section(
            simulation.dataset,
            dict(zip(simulation.names, simulation.populations, strict=True)),
        ),
        privacy=result_json.privacy_section(
            simulation.config.privacy, ledger_costs(sites_in(simulation.folder / SITES))
        ),
        evaluation=evaluation_section(simulation, rankings),
        cost=result_json.cost(
            RunStatus.load(simulation.folder), total=now - start, evaluate=now - evaluation_start
        ),
        seed=simulation.config.seed,
        versions=result_json.versions(),
    ).document()
    # The result comes last, so that a folder with a result is complete.
    write_evaluation(simulation.folder, evaluated_users(simulation), rankings)
    result_json.write(simulation.folder, result)
    return result


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

    def observe(checkpoint: Checkpoint) -> None:
        model = build_recommender(checkpoint, config, catalogue)
        reporter.round(
            checkpoint.round,
            config.training.rounds,
            loss=baselines.validation_loss(baselines.recommender(model), simulation.split, window),
            epsilon=max(cost.epsilon for cost in ledger_costs(sites).values()),
        )

    return observe


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
