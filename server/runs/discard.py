"""Discard a run: delete what it holds, and keep the record of what it asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

from server.runs.run import Run
from server.settings import Settings
from server.state.audit_log import FILE as AUDIT
from server.state.audit_log import AuditEvent, AuditLog
from server.state.run_lock import is_at_work
from server.state.status import RunState
from shared.errors import ServerError
from shared.system.files import move_durably

__all__ = ["discard"]

_FOLDER = "discarded"
_KEPT = ("run.json", "config.toml", AUDIT)


def discard(settings: Settings, run: Run) -> Path:
    """Delete a run's checkpoint, model and app; keep its record, parameters and audit log.

    Its name is free afterwards. What partners were charged stays charged.

    Returns:
        The folder of what is kept.

    Raises:
        ServerError: the run is running, or a file cannot be moved or deleted.
    """
    with run.exclusive() as current:
        if current.state is RunState.RUNNING or is_at_work(current.out):
            raise ServerError(f"run '{run.name}' is running: sotto-server stop {run.name} first.")
        stamp = current.created.replace(":", "").replace("+", "Z")[:19]
        kept = settings.path(_FOLDER) / f"{run.name}-{stamp}"
        log = current.out / AUDIT
        AuditLog(settings.path(AUDIT)).record(
            AuditEvent.RUN_DISCARDED,
            run=run.name,
            bundle=current.bundle,
            round=current.status.round,
            audit_log=AuditLog(log).head,
        )
        try:
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            if log.is_file():
                shutil.copy2(log, current.folder / AUDIT)
            move_durably(current.folder, kept)  # from here on there is no run of that name
            for entry in kept.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name not in _KEPT:
                    entry.unlink()
        except OSError as error:
            raise ServerError(
                f"run '{run.name}' cannot be deleted ({error}): correct the permissions of "
                f"{current.folder} or {kept}."
            ) from error
    return kept
