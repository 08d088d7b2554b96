"""The Flower ServerApp: the stages of a run, with a checkpoint after each round."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from torch import nn

from server import logs
from server.aggregation.natural_gradient import NaturalQueries, noise_in_change
from server.aggregation.quorum import minimum_organisations, with_secure_quorum
from server.aggregation.records import to_arrays, to_weights
from server.aggregation.robust import check_aggregation, credible_populations
from server.noise_plan import (
    check_masking,
    most_own_items,
    plan_noise,
    popularity_fade,
    popularity_share,
    statistics_noise,
    statistics_part,
)
from server.rounds.affordability import ask_whether_all_can_pay
from server.rounds.collection import Memory
from server.rounds.grid import PatientGrid
from server.rounds.group_weights import reweighed
from server.rounds.groups import GroupMeasurement
from server.rounds.participants import Participants, Partner
from server.rounds.requests import Terms, groups_request, plan_request
from server.rounds.statistics import StatisticsCollector
from server.rounds.strategy import FederatedStrategy, Step
from server.runs.recommender import build_model, with_own_items
from server.runs.reporter import RunReporter
from server.state.attempts import Attempts
from server.state.checkpoint import Checkpoint
from server.state.early_stop import after_metrics
from server.state.partners import PartnerRegistry
from server.state.run_lock import coordinator_lock
from server.warm_start.denoise import Prior
from server.warm_start.public import read_public
from server.warm_start.synthetic import draw_histories, popularity_of
from server.warm_start.warm_start import OwnItemsChoice, compute_first_weights
from shared.config import RunConfig
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.errors import CheckpointError, ConfigError, ServerError
from shared.messages import Weights
from shared.models.attention import AttentionRecommender, trainable
from shared.models.registry import Examples, build, examples_of
from shared.secure_aggregation.signing import public_to_text

__all__ = ["MODEL", "Observer", "app", "make_app"]

log = logging.getLogger("sotto.server")
MODEL = "model"
"""Folder, below `paths.out`, of the finished model."""
Observer = Callable[[Checkpoint], None]
"""Called with the state before the first round and after each one."""


def make_app(config: RunConfig | None = None, observer: Observer | None = None) -> ServerApp:
    """Return a ServerApp.

    Args:
        config: the run's parameters; None reads Flower's run config.
        observer: for the lab, which runs the server in its own process.
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        if config is None:  # a process of its own
            logs.set_up()
        run = config or RunConfig.from_flat(context.run_config)
        coordinate(grid, run, observer or (lambda _: None))

    return server_app


app = make_app()


def coordinate(grid: Grid, config: RunConfig, observer: Observer) -> None:
    """Run a federation, or what is left of it, to its end.

    Raises:
        ConfigError: a path is missing, or an aggregation rule cannot keep its guarantee.
        CheckpointError: the folder holds a run that is not to be resumed, or another run than is
            to be resumed; another coordinator works in it; or a checkpoint cannot be saved.
        QuorumError: too few organisations are connected or answer; finished rounds are saved.
        AuditError: the audit log cannot be written, or was changed.
        ServerError: the record of partners is damaged.
    """
    out, catalogue = _output_folder(config), _load_catalogue(config)
    check_aggregation(config.server)
    check_masking(config, simulated=not config.paths.partners)
    config = with_secure_quorum(config)
    record = _record_of_partners(config)
    with coordinator_lock(out):
        checkpoint = load_or_create_checkpoint(config, catalogue, out)
        reporter = RunReporter(out, config, run=checkpoint.run, finished_rounds=checkpoint.round)
        with reporter.report_run():
            federation = Federation(
                grid=PatientGrid(grid),
                config=config,
                catalogue=catalogue,
                out=out,
                participants=Participants(
                    config,
                    checkpoint.catalogue,
                    partial(_partner_changed, reporter, record),
                    reporter.partner_declined,
                    None if record is None else record.names_by_node,
                ),
                reporter=reporter,
                attempts=Attempts(out, checkpoint.run) if config.privacy.masked else None,
            )
            checkpoint = run_stages(federation, checkpoint, observer)
            model = build_model(checkpoint, config, catalogue)
            model.save_pretrained(out / MODEL)
            measure_groups(federation, checkpoint, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What every stage of a run uses.

    Attributes:
        grid: Flower's, with the coordinator's way of waiting.
        config: the run's parameters.
        catalogue: that all partners hold.
        out: folder of the checkpoint.
        participants: the organisations that take part.
        reporter: reports to status file and audit log.
        attempts: counts the attempts at sums, under secure aggregation; None without masks.
    """

    grid: Grid
    config: RunConfig
    catalogue: Catalogue
    out: Path
    participants: Participants
    reporter: RunReporter
    attempts: Attempts | None = None


def run_stages(federation: Federation, checkpoint: Checkpoint, observer: Observer) -> Checkpoint:
    """Wait for organisations, compute the warm start and train; return the last checkpoint.

    Stages that the checkpoint has behind it are left out.
    """
    config, memory = federation.config, Memory(answers=checkpoint.answers)
    needed = minimum_organisations(config.server, resumed=checkpoint.round > 0)
    partners = federation.participants.wait_for(federation.grid, needed)
    federation.reporter.organisations_ready()
    if not checkpoint.warm_started:
        checkpoint = choose_popularity_share(federation, checkpoint, partners)
        if not Checkpoint.exists(federation.out):  # nothing was asked for yet
            check_all_can_pay(federation, checkpoint)
        if config.warm_start.share:
            checkpoint.save(federation.out)
        checkpoint, memory = compute_warm_start(federation, checkpoint)
    return run_training_rounds(federation, checkpoint, memory, observer)


def choose_popularity_share(
    federation: Federation, checkpoint: Checkpoint, partners: Sequence[Partner]
) -> Checkpoint:
    """Divide the statistics' budget; the caller saves the choice before a statistic is asked for.

    A request must stay the same when it is repeated, whichever partners are connected by then: so
    its noise is chosen once. The run's name, which identifies a repeated request, is saved as well.
    """
    config = federation.config
    if not config.warm_start.share or checkpoint.popularity_share is not None:
        return checkpoint
    declared = [partner.population for partner in partners]
    populations = credible_populations(declared, config.server)
    noise = plan_noise(config).statistics
    share = popularity_share(noise, populations, len(federation.catalogue))
    return replace(checkpoint, popularity_share=share)


def check_all_can_pay(federation: Federation, checkpoint: Checkpoint) -> None:
    """Ask every organisation whether it can pay for the whole run; nobody is charged.

    Raises:
        QuorumError: too few can.
    """
    config, share, noise = federation.config, checkpoint.popularity_share, None
    if share is not None:
        noise = statistics_noise(plan_noise(config).statistics, share)
    report = ask_whether_all_can_pay(
        federation.grid,
        federation.participants.look_up,
        plan_request(
            config,
            _terms(config, checkpoint),
            noise,
            checkpoint.weights,
            len(federation.catalogue),
            most_own_items(config.warm_start.own_items, share, statistics_part(config)),
        ),
        config.server,
        federation.reporter.plan_missed,
    )
    federation.reporter.plan_admitted(report)


def compute_warm_start(federation: Federation, checkpoint: Checkpoint) -> tuple[Checkpoint, Memory]:
    """Compute the weights that training begins with.

    Returns:
        The checkpoint with these weights, and what the first round must know of the statistics.
    """
    config, catalogue, started = federation.config, federation.catalogue, time.monotonic()
    if examples_of(config.model.kind) is not Examples.HISTORIES:
        return replace(checkpoint, warm_started=True), Memory()
    public = read_public(Path(config.paths.catalogue).expanduser(), catalogue)
    collector = None
    if checkpoint.popularity_share is not None:
        collector = _statistics_collector(federation, checkpoint, checkpoint.popularity_share)
    elif public is None or not config.model.items.uses_features:
        return replace(checkpoint, warm_started=True), Memory()

    def save_own_items(own_items: tuple[int, ...]) -> None:
        # The second request names these items: it must be the same when it is repeated.
        replace(checkpoint, own_items=own_items).save(federation.out)

    most = most_own_items(
        config.warm_start.own_items, checkpoint.popularity_share, statistics_part(config)
    )
    choice = OwnItemsChoice(most, checkpoint.own_items, save_own_items)
    first = compute_first_weights(collector, config, catalogue, Prior(public), choice)
    seconds = time.monotonic() - started
    federation.reporter.warm_started(seconds=seconds, bytes_up=first.bytes_up)
    checkpoint = replace(
        checkpoint, warm_started=True, own_items=first.own_items, weights=first.weights
    )
    return checkpoint, collector.memory if collector else Memory()


def _statistics_collector(
    federation: Federation, checkpoint: Checkpoint, share: float
) -> StatisticsCollector:
    reporter = federation.reporter
    return StatisticsCollector(
        grid=federation.grid,
        look_up=federation.participants.look_up,
        run=checkpoint.run,
        catalogue=checkpoint.catalogue,
        config=federation.config,
        noise_multipliers=statistics_noise(plan_noise(federation.config).statistics, share),
        fade=popularity_fade(share),
        on_begin=lambda name: reporter.warm_start_step(f"warm start: asking for {name}"),
        on_miss=reporter.attempt_missed,
        on_finish=reporter.statistic_collected,
        attempts=federation.attempts,
    )


def run_training_rounds(
    federation: Federation, checkpoint: Checkpoint, memory: Memory, observer: Observer
) -> Checkpoint:
    """Run the rounds that are left, and save a checkpoint after each; return the last one."""
    config = with_own_items(federation.config, checkpoint)
    reporter, done = federation.reporter, checkpoint.round
    strategy = FederatedStrategy(
        config,
        _terms(config, checkpoint),
        federation.participants.look_up,
        names=list(checkpoint.weights),
        rounds_done=done,
        on_miss=reporter.attempt_missed,
        attempts=federation.attempts,
    )
    strategy.restore(checkpoint.optimiser, memory)

    def weigh(number: int, weights: Weights) -> str | None:
        nonlocal checkpoint
        checkpoint = weigh_groups(federation, checkpoint, number, weights)
        return checkpoint.group_weights or None

    strategy.weigh = weigh
    if NaturalQueries.applies(config):
        strategy.refine = _natural_steps(federation, config)

    def after_round(rounds: int, arrays: ArrayRecord) -> MetricRecord | None:
        nonlocal checkpoint
        if rounds:
            report = strategy.report
            checkpoint = replace(
                checkpoint,
                round=done + rounds,
                answers=strategy.memory.answers,
                weights=to_weights(arrays),
                optimiser=strategy.state,
            )
            checkpoint = after_metrics(checkpoint, strategy.metrics, config.training.patience)
        checkpoint.save(federation.out)
        if federation.attempts is not None:
            federation.attempts.sums.drop(checkpoint.round)
        if rounds:
            reporter.round_finished(report, strategy.metrics)
        observer(checkpoint)
        if rounds and checkpoint.stopped:
            reporter.training_stopped(checkpoint)
            raise _StoppedEarlyError
        return None

    with suppress(_StoppedEarlyError):
        strategy.start(
            federation.grid,
            to_arrays(checkpoint.weights),
            num_rounds=0 if checkpoint.stopped else config.training.number_of_rounds - done,
            timeout=config.server.deadline_seconds,
            evaluate_fn=after_round,
        )
    return checkpoint


class _StoppedEarlyError(Exception):
    """Leaves Flower's loop, which has no other way out, before its last round."""


def _natural_steps(federation: Federation, config: RunConfig) -> Step:
    """Return what turns a round's weights into those with a natural step of the queries."""
    public = read_public(Path(config.paths.catalogue).expanduser(), federation.catalogue)

    def histories(model: AttentionRecommender, seed: int) -> Histories:
        return draw_histories(model, popularity_of(model), seed) if public is None else public

    natural = NaturalQueries(config, federation.catalogue, histories)
    return lambda request, moved, users, shares: natural(
        request, moved, noise_in_change(request, users, shares)
    )


def measure_groups(federation: Federation, checkpoint: Checkpoint, model: nn.Module) -> None:
    """Ask once how well the finished model serves each public group, where the run measures it."""
    reporter = federation.reporter
    if not federation.config.groups.share:
        return
    if checkpoint.groups is None:
        weights = {name: p.detach().cpu().numpy() for name, p in trainable(model).items()}
        figures = _ask_for_groups(federation, checkpoint, weights)
        checkpoint = replace(checkpoint, groups=figures)
        checkpoint.save(federation.out)  # decided, whatever came of it: a resumed run does not ask
    reporter.groups_measured(checkpoint.groups or {})


def weigh_groups(
    federation: Federation, checkpoint: Checkpoint, number: int, weights: Weights
) -> Checkpoint:
    """Measure groups before a round that weighs them anew; return the checkpoint with the weights.

    It is saved before the round is asked for: a request must stay the same when it is repeated.
    """
    settings = federation.config.groups
    rounds = federation.config.training.number_of_rounds
    if number not in settings.measured_before(rounds) or checkpoint.weighed >= number:
        return checkpoint
    figures = _ask_for_groups(federation, checkpoint, weights, number)
    before = checkpoint.group_weights or settings.first_weights
    after = reweighed(settings, before, figures)
    checkpoint = replace(checkpoint, group_weights=after, weighed=number)
    checkpoint.save(federation.out)
    federation.reporter.groups_weighed(number, after)
    return checkpoint


def _ask_for_groups(
    federation: Federation, checkpoint: Checkpoint, weights: Weights, before: int = 0
) -> Mapping[str, Any]:
    reporter, config = federation.reporter, with_own_items(federation.config, checkpoint)
    measurement = GroupMeasurement(
        grid=federation.grid,
        look_up=federation.participants.look_up,
        config=config,
        attempts=federation.attempts,
        on_finish=reporter.groups_collected,
    )
    request = groups_request(config, _terms(config, checkpoint), weights, before)
    return measurement.ask(request, before)


def _terms(config: RunConfig, checkpoint: Checkpoint) -> Terms:
    noise = plan_noise(config)
    return Terms(
        run=checkpoint.run,
        catalogue=checkpoint.catalogue,
        noise_multiplier=noise.training,
        groups_noise=noise.groups,
    )


def load_or_create_checkpoint(config: RunConfig, catalogue: Catalogue, out: Path) -> Checkpoint:
    """Return the checkpoint to resume, or that of a new run with weights drawn from the seed.

    Raises:
        CheckpointError: there is none to resume, it belongs to another run, or a new run would
            overwrite it.
    """
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


def _output_folder(config: RunConfig) -> Path:
    if not config.paths.out:
        raise ConfigError("paths.out is not set: name a folder for the checkpoint and the model.")
    return Path(config.paths.out).expanduser()


def _record_of_partners(config: RunConfig) -> PartnerRegistry | None:
    """Return the coordinator's record of partners; None where there is none, as in the lab."""
    if not config.paths.partners:
        return None
    return PartnerRegistry(Path(config.paths.partners).parent)


def _partner_changed(
    reporter: RunReporter, record: PartnerRegistry | None, partner: Partner
) -> None:
    """Report a partner that joined or left, and keep its aggregation key with its record."""
    reporter.partner_changed(partner)
    if record is None or not partner.aggregation_key:
        return
    try:
        record.keep_aggregation_key(partner.organisation, public_to_text(partner.aggregation_key))
    except (ServerError, OSError) as error:  # it is shown to people, and no run needs it
        log.warning("the aggregation key of %s is not kept: %s", partner.organisation, error)


def _load_catalogue(config: RunConfig) -> Catalogue:
    if not config.paths.catalogue:
        raise ConfigError("paths.catalogue is not set: name the catalogue's folder.")
    return Catalogue.load(Path(config.paths.catalogue).expanduser())
