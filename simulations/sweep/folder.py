"""A sweep on disk: what was asked, one folder a run, and how far each run is.

| in runs/NAME                     | the run is                                                    |
|----------------------------------|---------------------------------------------------------------|
| result.json                      | finished: never started again                                 |
| config.toml, no result.json      | begun: goes on with `sotto-lab simulate --resume`             |
| less                             | not begun: whatever is there goes, and it starts              |
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import CheckpointError, ConfigError
from shared.system.files import UMASK, exclusive_lock, write_atomically
from simulations.experiment import results
from simulations.experiment.simulation import SETTINGS
from simulations.sweep.plan import Asked, Keep, Plan, PlannedRun
from simulations.sweep.workers import Job

__all__ = ["SweepFolder", "settled_plan"]

PLAN, LOCK = "sweep.toml", ".lock"
_BULKY = ("alone", "catalogue", "model", "sites/*/interactions.parquet")
"""What a report does not read: most of a run's bytes. The ledgers stay, and the checkpoint."""


class SweepFolder:
    """Where a sweep lies.

    Args:
        path: the folder; need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def plan_file(self) -> Path:
        """What was asked."""
        return self.path / PLAN

    def run(self, name: str) -> Path:
        """The folder of one run."""
        return self.path / "runs" / name

    def log(self, name: str) -> Path:
        """What the run's process said."""
        return self.path / "logs" / f"{name}.log"

    def result(self, name: str) -> dict[str, Any] | None:
        """A finished run's result.json; None before.

        Raises:
            CheckpointError: the file is damaged.
        """
        file = self.run(name) / results.FILE
        if not file.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"{file} is damaged ({error}): remove the run's folder, and it is run again."
            ) from error
        return found

    def write_plan(self, plan: Plan) -> None:
        """Begins the sweep; an existing plan stays."""
        for name in ("runs", "logs", "settings"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        if not self.plan_file.exists():
            write_atomically(self.plan_file, plan.to_toml().encode(), mode=UMASK)

    def job(self, run: PlannedRun) -> Job:
        """The `sotto-lab simulate` that begins the run, or goes on with it."""
        folder, settings = self.run(run.name), self.path / "settings" / f"{run.name}.toml"
        if (folder / SETTINGS).is_file():
            arguments = ["--resume"]
        else:
            if folder.exists():
                shutil.rmtree(folder)  # its process ended before it was whole
            settings.write_text(run.config.to_toml(), encoding="utf-8")
            arguments = ["--config", str(settings.resolve())]
        command = [sys.executable, "-m", "simulations", "simulate", "--out", str(folder.resolve())]
        return Job(name=run.name, command=[*command, *arguments], log=self.log(run.name))

    def slim(self, name: str, keep: Keep) -> None:
        """Drops what a finished run does not need any more."""
        for pattern in _BULKY if keep is Keep.RESULTS else ():
            for path in self.run(name).glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def reason(self, name: str, code: int) -> str:
        """Why a run's process failed, as far as its log tells; one line."""
        try:
            lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        said = [line.strip() for line in lines if line.strip()]
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        if errors:
            return errors[-1]
        if code < 0:
            return f"its process was ended by signal {-code}" + " (out of memory?)" * (code == -9)
        return said[-1] if said else f"its process left with exit code {code}, and no word"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process from running the same sweep.

        Raises:
            ConfigError: one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)

        def conflict(holder: str) -> ConfigError:
            return ConfigError(
                f"the sweep in {self.path} is being run by another process ({holder}): wait for "
                "it, or end it first."
            )

        with exclusive_lock(self.path / LOCK, conflict):
            yield


def settled_plan(
    folder: SweepFolder, asked: Asked, search: Mapping[str, Any], *, resume: bool
) -> Plan:
    """The plan of a new sweep, or of the one that is there, if nothing else is asked for now.

    Raises:
        CheckpointError: there is none to resume, or it was begun with other arguments.
        ConfigError: the folder holds something else, or settings do not fit.
    """
    there = folder.plan_file.is_file()
    if resume and not there:
        raise CheckpointError(f"{folder.path} holds no sweep: start it without --resume.")
    if not there:
        path = folder.path
        if path.exists() and (not path.is_dir() or _used(path)):
            raise ConfigError(f"{path} is neither empty nor a sweep: name another with --out.")
        return Plan.of(asked, search)
    began = Plan.from_toml(folder.plan_file)
    if asked.nothing and not search:
        return began
    differing = began.differences(Plan.of(asked, search))
    if differing:
        raise CheckpointError(
            f"the sweep in {folder.path} was begun with other arguments: {'; '.join(differing)}. "
            f"Go on without them (sotto-lab sweep --out {folder.path} --resume), or name another "
            "folder."
        )
    return began


def _used(folder: Path) -> bool:
    return any(path.name not in (LOCK, f".{PLAN}") for path in folder.iterdir())
