"""A sweep on disk: its plan, one folder for each run, and the state of each run.

| in runs/NAME                     | state of the run                                              |
|----------------------------------|---------------------------------------------------------------|
| result.json                      | finished: not started again                                   |
| config.toml, no result.json      | begun: resumed by `sotto-lab simulate --resume`               |
| neither                          | waiting: the folder is deleted, and the run starts            |
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
from shared.system.files import UMASK, write_atomically
from shared.system.locks import exclusive_lock
from simulations.experiment import result_json
from simulations.experiment.config import SETTINGS
from simulations.sweep.plan import Keep, Plan, PlannedRun, SweepOptions
from simulations.sweep.workers import Job

__all__ = ["BEST", "SweepFolder", "resolve_plan"]

PLAN, LOCK, BASELINES = "sweep.toml", ".lock", "baselines"
BEST = "best.toml"
"""The settings of the best trial of a search."""
_BULKY = ("alone", "catalogue", "model", "sites/*/interactions.parquet")
"""Files that a report does not read: most of a run's bytes."""


class SweepFolder:
    """The folder of a sweep.

    Args:
        path: the folder; may be absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def plan_file(self) -> Path:
        """Return the file of the plan."""
        return self.path / PLAN

    def run(self, name: str) -> Path:
        """Return the folder of one run."""
        return self.path / "runs" / name

    def log(self, name: str) -> Path:
        """Return the log of the run's process."""
        return self.path / "logs" / f"{name}.log"

    def result(self, name: str) -> dict[str, Any] | None:
        """Return a finished run's result.json; None before it is finished.

        Raises:
            CheckpointError: the file is damaged.
        """
        file = self.run(name) / result_json.FILE
        if not file.is_file():
            return None
        try:
            result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"{file} is damaged ({error}): remove the run's folder, and the run is repeated."
            ) from error
        return result

    def write_plan(self, plan: Plan) -> None:
        """Create the folder and write the plan; an existing plan is kept."""
        for name in ("runs", "logs", "settings"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        if not self.plan_file.exists():
            write_atomically(self.plan_file, plan.to_toml().encode(), mode=UMASK)

    def job(self, run: PlannedRun) -> Job:
        """Return the `sotto-lab simulate` that starts or resumes the run."""
        folder, settings = self.run(run.name), self.path / "settings" / f"{run.name}.toml"
        if (folder / SETTINGS).is_file():
            arguments = ["--resume"]
        else:
            if folder.exists():
                shutil.rmtree(folder)  # its process ended while it prepared the run
            settings.write_text(run.config.to_toml(), encoding="utf-8")
            arguments = ["--config", str(settings.resolve())]
        command = [sys.executable, "-m", "simulations", "simulate", "--out", str(folder.resolve())]
        arguments += ["--baselines", str((self.path / BASELINES).resolve())]
        return Job(name=run.name, command=[*command, *arguments], log=self.log(run.name))

    def slim(self, name: str, keep: Keep) -> None:
        """Delete the files of a finished run that are not kept."""
        for pattern in _BULKY if keep is Keep.RESULTS else ():
            for path in self.run(name).glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def reason(self, name: str, code: int) -> str:
        """Return why a run's process failed, from its log; one line."""
        try:
            lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        printed = [line.strip() for line in lines if line.strip()]
        errors = [line.removeprefix("error: ") for line in printed if line.startswith("error: ")]
        if errors:
            return errors[-1]
        if code < 0:
            return f"its process was ended by signal {-code}" + " (out of memory?)" * (code == -9)
        return printed[-1] if printed else f"its process ended with exit code {code} and no output"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from running the same sweep.

        Raises:
            ConfigError: another process runs it.
        """
        self.path.mkdir(parents=True, exist_ok=True)

        def conflict(holder: str) -> ConfigError:
            return ConfigError(
                f"the sweep in {self.path} is being run by another process ({holder}): wait for "
                "it, or end it first."
            )

        with exclusive_lock(self.path / LOCK, conflict):
            yield


def resolve_plan(
    folder: SweepFolder, options: SweepOptions, search: Mapping[str, Any], *, resume: bool
) -> Plan:
    """Return the plan of a new sweep, or the stored one if the options do not differ from it.

    Raises:
        CheckpointError: there is no sweep to resume, or the options differ from its plan.
        ConfigError: the folder holds something else, or settings do not fit.
    """
    exists = folder.plan_file.is_file()
    if resume and not exists:
        raise CheckpointError(f"{folder.path} holds no sweep: start it without --resume.")
    if not exists:
        path = folder.path
        if path.exists() and (not path.is_dir() or _used(path)):
            raise ConfigError(f"{path} is neither empty nor a sweep: name another with --out.")
        return Plan.of(options, search)
    stored = Plan.from_toml(folder.plan_file)
    if options.empty and not search:
        return stored
    differing = stored.differences(Plan.of(options, search))
    if differing:
        raise CheckpointError(
            f"the sweep in {folder.path} was started with other arguments: {'; '.join(differing)}. "
            f"Continue without them (sotto-lab sweep --out {folder.path} --resume), or name "
            "another folder."
        )
    return stored


def _used(folder: Path) -> bool:
    return any(path.name not in (LOCK, f".{PLAN}") for path in folder.iterdir())
