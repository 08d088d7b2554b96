"""Publish a finished run: a folder with model, catalogue and model card."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from server.runs.model_card import Participation, Published, claimed_epsilon, write_card
from server.runs.run import Run
from server.settings import Settings
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from server.state.status import RunState
from shared.data.catalogue import Catalogue
from shared.errors import ServerError
from shared.system.files import move_durably

__all__ = ["CARD", "publish"]

CARD = "README.md"
_MODEL, _CATALOGUE = "model", "catalogue"


def publish(settings: Settings, run: Run, out: Path) -> Published:
    """Write a finished run's model folder; no file is overwritten.

    Raises:
        ServerError: the run is not finished, or `out` exists.
        DataError: the catalogue cannot be read.
    """
    if run.state is not RunState.FINISHED:
        raise ServerError(
            f"run '{run.name}' is {run.status.state}: only a finished run can be published. To "
            f"finish it: sotto-server resume {run.name}"
        )
    if out.exists():
        raise ServerError(f"{out} exists already: name a new folder.")
    catalogue = Catalogue.load(Path(run.config.paths.catalogue))
    published = _card_contents(run, catalogue)
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    shutil.copytree(run.out / _MODEL, new / _MODEL)
    catalogue.save(new / _CATALOGUE)
    (new / CARD).write_text(write_card(published), encoding="utf-8")
    move_durably(new, out)
    AuditLog(settings.path(AUDIT)).record(
        AuditEvent.PUBLISHED,
        run=run.name,
        bundle=run.bundle,
        epsilon=str(claimed_epsilon(published)),
    )
    return published


def _card_contents(run: Run, catalogue: Catalogue) -> Published:
    status = run.reported
    if status is None:
        raise ServerError(f"{run.out} holds no progress.json: put a copy of it back.")
    parts = [
        Participation(
            organisation=name,
            population=part.population,
            answered=part.answered_rounds,
        )
        for name, part in sorted(status.organisations.items())
    ]
    return Published(
        name=run.name,
        config=run.config,
        rounds=status.round,
        parts=parts,
        bundle=run.bundle,
        catalogue=catalogue.fingerprint,
        items=len(catalogue),
        version=version("sotto"),
    )
