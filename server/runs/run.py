"""The coordinator's runs: a folder each, with what was asked for and how it stands.

| file          | what it holds                                                           |
|---------------|-------------------------------------------------------------------------|
| `run.json`    | the record below                                                        |
| `config.toml` | every parameter, as Flower is given them                                |
| `app/`        | the app bundle, unpacked: a resumed run is of the same code             |
| `out/`        | checkpoint and model, unless `paths.out` says otherwise                 |

A run is `wanted` until its last round is done, somebody stops it, or it can go on no more: as long
as it is wanted, the keeper resumes it whenever it breaks off.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from server.runs.bundle import Bundle
from server.service.certificates import write_private
from server.settings import Settings
from server.state.status import RunStatus, now
from shared.config import RunConfig, Value, flat_tables
from shared.errors import CheckpointError, ConfigError, ServerError

__all__ = ["Fate", "Run", "all_runs", "create_run", "find_run", "read_config"]

_RECORD, _CONFIG, _APP, _OUT, _LOCK = "run.json", "config.toml", "app", "out", "run.lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Fate(StrEnum):
    """What is to become of a run, and what has become of it."""

    WANTED = "wanted"
    FINISHED = "finished"
    FAILED = "failed"
    PAUSED = "paused"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run.

    Attributes:
        name: the coordinator's, and its folder's.
        folder: where it lies.
        state: what is to become of it.
        bundle: SHA-256 of the app bundle.
        starts: Flower's numbers of its starts, in order.
        created: when, ISO 8601, UTC.
        since: when it was last started; "" before.
        reason: why it is neither wanted nor finished.
    """

    name: str
    folder: Path
    state: Fate
    bundle: str
    starts: tuple[str, ...]
    created: str
    since: str = ""
    reason: str = ""

    @property
    def config(self) -> RunConfig:
        """Its parameters; raises ConfigError where the file was changed into nonsense."""
        return RunConfig.from_flat(tomllib.loads(self.config_file.read_text(encoding="utf-8")))

    @property
    def config_file(self) -> Path:
        """The parameters' file."""
        return self.folder / _CONFIG

    @property
    def app(self) -> Path:
        """The unpacked bundle."""
        return self.folder / _APP

    @property
    def out(self) -> Path:
        """Where checkpoint and model lie."""
        return Path(self.config.paths.out)

    @contextmanager
    def alone(self) -> Iterator[Run]:
        """The run as it stands on disk, while no other process changes it."""
        handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(handle) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield _read(self.folder)

    @property
    def status(self) -> RunStatus | None:
        """What the run itself tells; None before its coordinator has begun."""
        try:
            return RunStatus.load(self.out)
        except CheckpointError:
            return None

    @property
    def fresh(self) -> bool:
        """Whether the status is of the last start, and not of one before."""
        status = self.status
        if status is None or not status.updated or not self.since:
            return False
        return datetime.fromisoformat(status.updated) >= datetime.fromisoformat(self.since)

    def changed(self, state: Fate, reason: str = "") -> Run:
        """The same run in another state, on disk too."""
        return self._saved(replace(self, state=state, reason=reason))

    def started(self, number: str, since: str) -> Run:
        """The same run after another start at `since`, wanted, on disk too."""
        starts = (*self.starts, number)
        return self._saved(replace(self, starts=starts, state=Fate.WANTED, since=since, reason=""))

    def write_config(self, *, resume: bool) -> None:
        """Writes the parameters as Flower reads them."""
        flat = self.config.to_flat() | {"paths.resume": resume}
        write_private(self.config_file, _toml(flat))

    @staticmethod
    def _saved(run: Run) -> Run:
        row = {key: value for key, value in asdict(run).items() if key != "folder"}
        write_private(run.folder / _RECORD, (json.dumps(row, indent=1) + "\n").encode())
        return run


def read_config(file: Path) -> dict[str, Value]:
    """A run's parameters by `section.key`; relative paths are meant from the file's folder.

    Raises:
        ConfigError: it cannot be read, or holds what concerns a simulation alone.
    """
    try:
        flat = flat_tables(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): check the path.") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not valid TOML ({error}): mend that line.") from error
    if lab := [key for key in flat if key.startswith("lab.")]:
        raise ConfigError(
            f"{file}: '{lab[0]}' belongs to a simulation: leave the [lab] table out. A real run "
            "has its partners' data, and server.organisations says how many must be there."
        )
    for key in ("paths.catalogue", "paths.out"):
        if flat.get(key):
            flat[key] = str(Path(file.resolve().parent, Path(str(flat[key])).expanduser()))
    return flat | {"paths.resume": False, "paths.sites": ""}


def create_run(settings: Settings, name: str, flat: Mapping[str, Value], bundle: Bundle) -> Run:
    """Makes a run's folder, and checks its parameters first.

    Raises:
        ConfigError: a parameter does not fit.
        ServerError: the name does not fit or is taken, or the catalogue is not there.
    """
    if not _NAME.fullmatch(name):
        raise ServerError(f"name = '{name}': letters, digits, '.', '_' and '-', at most 64.")
    folder = settings.runs / name
    config = RunConfig.from_flat({"paths.out": str(folder / _OUT), **flat})
    if not Path(config.paths.catalogue, "items.parquet").is_file():
        raise ConfigError(
            f"paths.catalogue = '{config.paths.catalogue}' is no catalogue's folder: name the one "
            "that partners were given, from where the file lies."
        )
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise ServerError(
            f"there is a run '{name}' already: sotto-server resume {name}, or --name another."
        ) from None
    write_private(folder / _CONFIG, _toml(config.to_flat()))
    bundle.unpack(folder / _APP)
    run = Run(
        name=name,
        folder=folder,
        state=Fate.STOPPED,
        bundle=bundle.fingerprint,
        starts=(),
        created=now(),
        reason="never started",
    )
    return run.changed(Fate.STOPPED, run.reason)


def find_run(settings: Settings, name: str) -> Run:
    """The run of that name.

    Raises:
        ServerError: there is none, or its record is damaged.
    """
    try:
        return _read(settings.runs / name)
    except FileNotFoundError:
        known = ", ".join(run.name for run in all_runs(settings)) or "there are none"
        raise ServerError(f"there is no run '{name}': {known}.") from None


def all_runs(settings: Settings) -> list[Run]:
    """Every run, the oldest first; raises ServerError as `find_run`."""
    found = [_read(file.parent) for file in settings.runs.glob(f"*/{_RECORD}")]
    return sorted(found, key=lambda run: run.created)


def _read(folder: Path) -> Run:
    try:
        row = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        fields = row | {"state": Fate(row["state"]), "starts": tuple(row["starts"])}
        return Run(**fields, folder=folder)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ServerError(f"{folder / _RECORD} is damaged: put a copy of it back.") from error


def _toml(flat: Mapping[str, Value]) -> bytes:
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in flat.items()]
    return ("\n".join(lines) + "\n").encode()
