"""The Flower ServerApp: builds the parts, starts the strategy, saves after every round."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from transformers.utils.logging import disable_progress_bar

from server.checkpoint import Checkpoint, Progress
from server.posterior import Prior
from server.pretrain import read_public
from server.replies import refusal_reason
from server.strategy import FederatedStrategy, Partner, to_arrays, to_weights
from server.warm_start import Asker, warm_start
from shared.catalogue import Catalogue
from shared.config import RunConfig
from shared.errors import CheckpointError, ConfigError, QuorumError, WireError
from shared.models.attention import AttentionRecommender, build, trainable
from shared.privacy.planning import NoisePlan, noise_plan
from shared.wire import DESCRIBE, DescribeReply, DescribeRequest

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
        run = config or RunConfig.from_flat(context.run_config)
        coordinate(grid, run, observer or (lambda _: None))

    return made


app = make_app()


def coordinate(grid: Grid, config: RunConfig, observer: Observer) -> None:
    """Runs the federation, or what is left of it, to its end.

    Raises:
        ConfigError: a path is missing, or δ is not below 1 / population at some partner.
        CheckpointError: there is a run already, or another one than is to be resumed.
        QuorumError: too few organisations are there or answer a round; what is finished is saved.
    """
    out, catalogue = _out(config), _catalogue(config)
    checkpoint = _first_checkpoint(config, catalogue, out)
    partners = _meet(grid, config, catalogue.fingerprint)
    _check_delta(config, partners)
    noise = _noise_plan(config)
    if not checkpoint.progress.warm:
        checkpoint.save(out)  # its name, by which partners know a repeated request
        checkpoint = _warmed(checkpoint, grid, partners, noise, config, catalogue)
    training, done = config.training, checkpoint.progress.round
    config = with_own_items(config, checkpoint)
    strategy = FederatedStrategy(
        config,
        partners,
        run=checkpoint.progress.run,
        catalogue=catalogue.fingerprint,
        noise_multiplier=noise.training,
        rounds_done=done,
    )
    strategy.restore(checkpoint.state, list(checkpoint.weights))
    started = time.monotonic() - checkpoint.progress.seconds

    def after_round(rounds: int, arrays: ArrayRecord) -> MetricRecord | None:
        nonlocal checkpoint
        if rounds:
            checkpoint = Checkpoint(
                progress=replace(
                    checkpoint.progress,
                    round=done + rounds,
                    seconds=time.monotonic() - started,
                    bytes_up=strategy.traffic.up,
                    bytes_down=strategy.traffic.down,
                ),
                weights=to_weights(arrays),
                state=strategy.state,
            )
        checkpoint.save(out)
        observer(checkpoint)
        return None

    strategy.start(
        grid,
        to_arrays(checkpoint.weights),
        num_rounds=training.rounds - done,
        timeout=config.server.deadline_seconds,
        evaluate_fn=after_round,
    )
    disable_progress_bar()
    model_with(checkpoint, config, catalogue).save_pretrained(out / MODEL)


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
    progress = Progress(
        run=secrets.token_hex(8),
        round=0,
        config=config.fingerprint,
        catalogue=catalogue.fingerprint,
    )
    weights = {name: p.detach().numpy() for name, p in trainable(model).items()}
    return Checkpoint(progress=progress, weights=weights, state={})


def with_own_items(config: RunConfig, checkpoint: Checkpoint) -> RunConfig:
    """The run's parameters with the items that its warm start chose."""
    own = checkpoint.progress.own_items
    return replace(config, model=replace(config.model, own_items=own))


def _warmed(
    checkpoint: Checkpoint,
    grid: Grid,
    partners: Sequence[Partner],
    noise: NoisePlan,
    config: RunConfig,
    catalogue: Catalogue,
) -> Checkpoint:
    """The checkpoint with the weights that training begins with."""
    public = read_public(Path(config.paths.catalogue).expanduser(), catalogue)
    progress = replace(checkpoint.progress, warm=True)
    if not config.warm_start.share and (public is None or not config.model.items.uses_features):
        return replace(checkpoint, progress=progress)
    asker = Asker(
        grid=grid,
        partners=partners,
        run=checkpoint.progress.run,
        noise_multiplier=noise.statistics,
        config=config,
        catalogue=catalogue.fingerprint,
    )
    first = warm_start(asker if config.warm_start.share else None, config, catalogue, Prior(public))
    return replace(
        checkpoint,
        progress=replace(progress, own_items=first.own_items),
        weights=first.weights,
    )


def _noise_plan(config: RunConfig) -> NoisePlan:
    if config.privacy.epsilon is None:
        return NoisePlan()
    return noise_plan(
        config.privacy.epsilon,
        config.privacy.delta,
        share=config.warm_start.share,
        sample_rate=config.training.sample_rate,
        steps=config.noised_sums,
    )


def _check_delta(config: RunConfig, partners: list[Partner]) -> None:
    for partner in partners:
        if config.privacy.private and config.privacy.delta >= 1 / partner.population:
            raise ConfigError(
                f"privacy.delta = {config.privacy.delta:g} is not below 1 / {partner.population}, "
                f"the population of {partner.organisation}: at such a δ a mechanism may publish "
                f"a user outright. Choose one below {1 / partner.population:.2g}."
            )


def _meet(grid: Grid, config: RunConfig, catalogue: str) -> list[Partner]:
    """Waits for the organisations and asks each for its public constants."""
    wanted, deadline = config.server.organisations, config.server.deadline_seconds
    end = time.monotonic() + deadline
    while len(nodes := list(grid.get_node_ids())) < wanted:
        if time.monotonic() > end:
            raise QuorumError(
                f"{len(nodes)} organisations are connected after {deadline:g} s, {wanted} are "
                "wanted: start their nodes, or lower server.organisations."
            )
        time.sleep(0.2)
    content = DescribeRequest().to_content()
    requests = [Message(content, node, DESCRIBE) for node in nodes]
    partners: dict[str, Partner] = {}
    problems: list[str] = []
    for reply in grid.send_and_receive(requests, timeout=deadline):
        try:
            partner = _partner(reply, catalogue)
        except WireError as error:
            problems.append(str(error))
            continue
        if partner.organisation in partners:
            raise ConfigError(
                f"two nodes call themselves '{partner.organisation}': give each its own name."
            )
        partners[partner.organisation] = partner
    if len(partners) < wanted:
        raise QuorumError(
            f"{len(partners)} of {wanted} organisations can take part "
            f"({'; '.join(problems) or 'the others did not answer'})."
        )
    for problem in problems:
        log.warning("an organisation cannot take part: %s", problem)
    return list(partners.values())


def _partner(reply: Message, catalogue: str) -> Partner:
    if not reply.has_content():
        raise WireError(refusal_reason(reply))
    described = DescribeReply.from_content(reply.content)
    if described.catalogue != catalogue:
        raise WireError(f"{described.organisation} holds another version of the catalogue")
    return Partner(
        node_id=reply.metadata.src_node_id,
        organisation=described.organisation,
        population=described.population,
    )
