"""Publish a run: a folder with model, catalogue and model card."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from server.runs.model_card import Participation, Published, claimed_epsilon, write_card
from server.runs.run import Run
from server.runs.transparency import popularity_shares
from server.settings import Settings
from server.state.attempts import Attempts, Charges
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from server.state.checkpoint import Checkpoint
from server.state.status import RunState
from shared.data.catalogue import Catalogue
from shared.errors import ServerError
from shared.models.gates import GATES, named_gate_shares
from shared.models.offsets import OFFSET_SCALE
from shared.system.files import move_durably

__all__ = ["CARD", "publish"]

CARD = "README.md"
_MODEL, _CATALOGUE = "model", "catalogue"
_WEIGHTS, _OFFSET = "model.safetensors", "item_scores.offset"


def publish(settings: Settings, run: Run, out: Path) -> Published:
    """Write a run's model folder; no file is overwritten.

    A run that is paused, failed or stopped is published as it was after its last finished round,
    and the card says so.

    Raises:
        ServerError: the run is running or has finished no round, or `out` exists or cannot be
            written.
        CheckpointError: the checkpoint of an unfinished run cannot be read, or the record of its
            attempts at sums.
        DataError: the catalogue cannot be read.
    """
    if run.state is RunState.RUNNING:
        raise ServerError(
            f"run '{run.name}' is {run.status.state}: wait until it is finished, or stop it "
            f"(sotto-server stop {run.name}) to publish its last finished round."
        )
    catalogue = Catalogue.load(Path(run.config.paths.catalogue))
    checkpoint = None if run.state is RunState.FINISHED else _last_round(run, catalogue)
    published = _card_contents(run, catalogue, checkpoint)
    try:
        if out.exists():
            raise ServerError(f"{out} exists already: name a new folder.")
        new = out.with_name(f".{out.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        if checkpoint is None:
            shutil.copytree(run.out / _MODEL, new / _MODEL)
        else:
            # With them comes torch, which a finished run's model does without.
            from server.runs.recommender import build_model  # noqa: PLC0415

            model = build_model(checkpoint, run.config, catalogue)
            model.save_pretrained(new / _MODEL)
        catalogue.save(new / _CATALOGUE)
        (new / CARD).write_text(write_card(published), encoding="utf-8")
        move_durably(new, out)
    except OSError as error:
        raise ServerError(
            f"{out} cannot be written ({error.strerror or error}): name a new folder, in one that "
            "you may write to, on a disk with room."
        ) from error
    AuditLog(settings.path(AUDIT)).record(
        AuditEvent.PUBLISHED,
        run=run.name,
        bundle=run.bundle,
        round=published.rounds,
        epsilon=str(claimed_epsilon(published)),
    )
    return published


def _last_round(run: Run, catalogue: Catalogue) -> Checkpoint:
    """Return the checkpoint of a run that did not reach its end."""
    checkpoint = Checkpoint.load(run.out) if Checkpoint.exists(run.out) else None
    if checkpoint is None or not checkpoint.round:
        raise ServerError(
            f"run '{run.name}' is {run.status.state} and has finished no round: there is no model "
            f"to publish. Continue it (sotto-server resume {run.name}) or give it up (sotto-server "
            f"discard {run.name})."
        )
    checkpoint.check(config=run.config.fingerprint, catalogue=catalogue.fingerprint)
    return checkpoint


def _card_contents(run: Run, catalogue: Catalogue, checkpoint: Checkpoint | None) -> Published:
    status = run.reported
    if status is None:
        raise ServerError(f"{run.out} holds no progress.json: put a copy of it back.")
    attempts = Attempts(run.out, status.run)
    charges = attempts.charges
    parts = [
        Participation(
            organisation=name,
            population=part.population,
            answered=part.answered_rounds,
            charges=charges.get(name, Charges()),
        )
        for name, part in sorted(status.organisations.items())
    ]
    return Published(
        name=run.name,
        config=run.config,
        rounds=checkpoint.round if checkpoint else status.round,
        asked_rounds=min(checkpoint.round + 1, status.rounds) if checkpoint else status.round,
        parts=parts,
        bundle=run.bundle,
        catalogue=catalogue.fingerprint,
        items=len(catalogue),
        version=version("sotto"),
        attempts=attempts.last,
        stopped_early=checkpoint is None and status.round < run.config.training.number_of_rounds,
        groups={} if checkpoint else status.groups,
        measurements=status.measurements,
        popularity=_popularity(run) if checkpoint is None else (),
        modalities=_modalities(run, catalogue) if checkpoint is None else {},
    )


def _popularity(run: Run) -> tuple[float, ...]:
    """Return how a finished model would choose before any event; () where it has no popularity."""
    offsets = _weights(run, _OFFSET)
    return () if offsets is None else popularity_shares(OFFSET_SCALE * offsets[:, 0])


def _modalities(run: Run, catalogue: Catalogue) -> dict[str, float]:
    """Return what each block of features weighs; {} where a model has no gates or one block."""
    gates = _weights(run, GATES) if catalogue.blocks else None
    names = [block.name for block in catalogue.blocks]
    return named_gate_shares(names, {} if gates is None else {GATES: gates})


def _weights(run: Run, name: str) -> NDArray[np.float32] | None:
    """Return the weights of a finished model that have a name; None where it has none of it."""
    file = run.out / _MODEL / _WEIGHTS
    try:
        with safe_open(file, framework="numpy") as opened:
            if name not in opened.keys():  # noqa: SIM118 it is no mapping
                return None
            weights: NDArray[np.float32] = opened.get_tensor(name)
            return weights
    except (OSError, SafetensorError) as error:
        raise ServerError(f"{file} cannot be read ({error}): put a copy of it back.") from error
