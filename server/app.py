"""The Flower ServerApp: builds the parts, starts the strategy, saves after every round."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from transformers.utils.logging import disable_progress_bar

from server import logs
from server.aggregation.quorum import minimum_organisations
from server.aggregation.records import to_arrays, to_weights
from server.aggregation.robust import check_aggregation, credible_populations
from server.noise_plan import plan_noise, popularity_fade, popularity_share, statistics_noise
from server.rounds.grid import PatientGrid
from server.rounds.participants import Participants, Partner
from server.rounds.statistics import Asker
from server.rounds.strategy import FederatedStrategy, Terms
from server.runs.reporter import RunReporter
from server.state.checkpoint import Checkpoint
from server.state.run_lock import coordinator_lock
from server.warm_start.denoise import Prior
from server.warm_start.public import read_public
from server.warm_start.warm_start import Choice, warm_start
from shared.config import RunConfig
from shared.data.catalogue import Catalogue
from shared.errors import CheckpointError, ConfigError
from shared.models.attention import AttentionRecommender, build, trainable

__all__ = ["MODEL", "Observer", "app", "make_app", "model_with"]

log = logging.getLogger("sotto.server")
MODEL = "model"
"""Folder, below `paths.out`, of the finished model."""
Observer = Callable[[Checkpoint], None]
"""Called with the state before the first round and after each one."""


def make_app(config: RunConfig | None = None, observer: Observer | None = None) -> ServerApp:
    """A ServerApp.

    Args:
        config: the run; None reads Flower's run config.
        observer: for the lab, which runs the server in its own process.
    """
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        if config is None:  # a process of its own
            logs.set_up()
        run = config or RunConfig.from_flat(context.run_config)
        coordinate(grid, run, observer or (lambda _: None))

    return made


app = make_app()


def coordinate(grid: Grid, config: RunConfig, observer: Observer) -> None:
    """Runs the federation, or what is left of it, to its end.

    Raises:
        ConfigError: a path is missing, an aggregation rule cannot be kept, or δ is not below
            1 / population at some partner.
        CheckpointError: there is a run already, or another one than is to be resumed; another
            coordinator is at work; or what is finished cannot be saved.
        QuorumError: too few organisations are there or answer a round; what is finished is saved.
        AuditError: the audit log cannot be written, or was changed.
    """
    out, catalogue = _out(config), _catalogue(config)
    check_aggregation(config.server)
    with coordinator_lock(out):
        checkpoint = _first_checkpoint(config, catalogue, out)
        reporter = RunReporter(out, config, run=checkpoint.run, finished_rounds=checkpoint.round)
        with reporter.report_run():
            checkpoint = _federate(PatientGrid(grid), config, checkpoint, reporter, observer)
            disable_progress_bar()
            model_with(checkpoint, config, catalogue).save_pretrained(out / MODEL)


def _federate(
    grid: Grid, config: RunConfig, checkpoint: Checkpoint, reporter: RunReporter, observer: Observer
) -> Checkpoint:
    """All that is left of a run; the state after its last round."""
    participants = Participants(config, checkpoint.catalogue, reporter.partner_changed)
    resumed = checkpoint.round > 0
    partners = participants.wait_for(grid, minimum_organisations(config.server, resumed=resumed))
    reporter.organisations_ready()
    if not checkpoint.warm_started:
        checkpoint = _decided(checkpoint, config, partners)
        checkpoint = _warmed(checkpoint, grid, participants, config, reporter)
    config = with_own_items(config, checkpoint)
    return _trained(grid, config, checkpoint, participants, reporter, observer)


def _trained(
    grid: Grid,
    config: RunConfig,
    checkpoint: Checkpoint,
    participants: Participants,
    reporter: RunReporter,
    observer: Observer,
) -> Checkpoint:
    out, done = _out(config), checkpoint.round
    terms = Terms(
        run=checkpoint.run,
        catalogue=checkpoint.catalogue,
        noise_multiplier=plan_noise(config).training,
    )
    strategy = FederatedStrategy(
        config,
        terms,
        participants.look_up,
        names=list(checkpoint.weights),
        rounds_done=done,
        on_miss=reporter.attempt_missed,
    )
    strategy.restore(checkpoint.optimiser, checkpoint.answers)

    def after_round(rounds: int, arrays: ArrayRecord) -> MetricRecord | None:
        nonlocal checkpoint
        if rounds:
            report = strategy.report
            checkpoint = replace(
                checkpoint,
                round=done + rounds,
                answers=strategy.answers,
                weights=to_weights(arrays),
                optimiser=strategy.state,
            )
        checkpoint.save(out)
        if rounds:
            reporter.round_finished(report, strategy.metrics)
        observer(checkpoint)
        return None

    strategy.start(
        grid,
        to_arrays(checkpoint.weights),
        num_rounds=config.training.rounds - done,
        timeout=config.server.deadline_seconds,
        evaluate_fn=after_round,
    )
    return checkpoint


def model_with(
    checkpoint: Checkpoint, config: RunConfig, catalogue: Catalogue
) -> AttentionRecommender:
    """The run's recommender with a checkpoint's weights, in evaluation mode."""
    model = build(with_own_items(config, checkpoint).model, catalogue)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(torch.tensor(checkpoint.weights[name]))
    model.train(mode=False)
    return model


def _out(config: RunConfig) -> Path:
    if not config.paths.out:
        raise ConfigError("paths.out is not set: name a folder for the checkpoint and the model.")
    return Path(config.paths.out).expanduser()


def _catalogue(config: RunConfig) -> Catalogue:
    if not config.paths.catalogue:
        raise ConfigError("paths.catalogue is not set: name the catalogue's folder.")
    return Catalogue.load(Path(config.paths.catalogue).expanduser())


def _first_checkpoint(config: RunConfig, catalogue: Catalogue, out: Path) -> Checkpoint:
    if config.paths.resume:
        checkpoint = Checkpoint.load(out)
        checkpoint.check(config=config.fingerprint, catalogue=catalogue.fingerprint)
        return checkpoint
    if Checkpoint.exists(out):
        raise CheckpointError(
            f"{out} holds a run already: resume it (--resume), or name another folder."
        )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build(config.model, catalogue)
    return Checkpoint(
        run=secrets.token_hex(8),
        round=0,
        config=config.fingerprint,
        catalogue=catalogue.fingerprint,
        weights={name: p.detach().numpy() for name, p in trainable(model).items()},
    )


def with_own_items(config: RunConfig, checkpoint: Checkpoint) -> RunConfig:
    """The run's parameters with the items that its warm start chose."""
    own = checkpoint.own_items
    return replace(config, model=replace(config.model, own_items=own or ()))


def _decided(checkpoint: Checkpoint, config: RunConfig, partners: Sequence[Partner]) -> Checkpoint:
    """The checkpoint with how the statistics' budget is divided, saved before anything is asked.

    A round is one request for ever: its noise stays as it is, whoever joins later. So does the
    run's name, by which partners know a request that is repeated.
    """
    if not config.warm_start.share:
        return checkpoint
    if checkpoint.popularity_share is None:
        populations = credible_populations(
            [partner.population for partner in partners], config.server
        )
        items = len(_catalogue(config))
        part = popularity_share(plan_noise(config).statistics, populations, items)
        checkpoint = replace(checkpoint, popularity_share=part)
    checkpoint.save(_out(config))
    return checkpoint


def _warmed(
    checkpoint: Checkpoint,
    grid: Grid,
    participants: Participants,
    config: RunConfig,
    reporter: RunReporter,
) -> Checkpoint:
    """The checkpoint with the weights that training begins with."""
    began, share = time.monotonic(), checkpoint.popularity_share
    catalogue = _catalogue(config)
    public = read_public(Path(config.paths.catalogue).expanduser(), catalogue)
    asker = None
    if share is not None:
        asker = Asker(
            grid=grid,
            look_up=partial(participants.look_up, grid),
            run=checkpoint.run,
            noise_multipliers=statistics_noise(plan_noise(config).statistics, share),
            fade=popularity_fade(share),
            config=config,
            catalogue=catalogue.fingerprint,
        )
    elif public is None or not config.model.items.uses_features:
        return replace(checkpoint, warm_started=True)

    def chosen(own: tuple[int, ...]) -> None:
        # The second request names these items, whoever answers.
        replace(checkpoint, own_items=own).save(_out(config))

    choice = Choice(checkpoint.own_items, chosen)
    first = warm_start(asker, config, catalogue, Prior(public), choice)
    reporter.warm_started(seconds=time.monotonic() - began, bytes_up=first.bytes_up)
    return replace(checkpoint, warm_started=True, own_items=first.own_items, weights=first.weights)
