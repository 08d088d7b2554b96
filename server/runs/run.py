"""The coordinator's runs: one folder each, with its parameters, its app and its record.

| file          | what it holds                                                           |
|---------------|-------------------------------------------------------------------------|
| `run.json`    | the record below                                                        |
| `config.toml` | every parameter, as Flower is given them                                |
| `app/`        | the app bundle, unpacked: a resumed run is of the same code             |
| `out/`        | checkpoint and model, unless `paths.out` says otherwise                 |

The record says `running` from the first start until the run is finished, paused, failed or stopped;
for as long the supervisor resumes it whenever its process ends. `Run.status` says what it is doing.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import tomli_w
from pyarrow.parquet import read_metadata

from server.runs.bundle import BuiltBundle
from server.settings import Settings
from server.state.status import RunState, RunStatus, now
from shared.config import RunConfig
from shared.errors import CheckpointError, ConfigError, ServerError, SottoError
from shared.sections import Value, flat_tables
from shared.system.files import write_atomically
from shared.system.locks import exclusive_lock

__all__ = ["Run", "all_runs", "all_statuses", "create_run", "find_run", "read_config"]

_RECORD, _CONFIG, _APP, _OUT, _LOCK = "run.json", "config.toml", "app", "out", "run.lock"
_OLD_STATES = {"wanted": "running"}
"""Words of records before release 0.2."""
_PATIENCE = 600.0
"""Seconds to wait for another command; submitting a run to Flower can take minutes."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, as its record has it.

    Attributes:
        name: the coordinator's name for it, and its folder's.
        folder: where it lies.
        state: RUNNING while the supervisor is to keep it going; otherwise how it ended.
        bundle: SHA-256 of the app bundle.
        starts: Flower's numbers of its starts, in order.
        created: when, ISO 8601, UTC.
        since: when it was last started, ISO 8601, UTC; "" before.
        reason: why it is paused, failed or stopped; "" otherwise.
    """

    name: str
    folder: Path
    state: RunState
    bundle: str
    starts: tuple[str, ...]
    created: str
    since: str = ""
    reason: str = ""

    @property
    def config(self) -> RunConfig:
        """Its parameters; raises ConfigError where the file was edited and does not fit."""
        return RunConfig.from_flat(tomllib.loads(self.config_file.read_text(encoding="utf-8")))

    @property
    def about_rounds(self) -> str:
        """What is to be expected of its rounds, in a sentence, or ""."""
        from server.training_plan import about_rounds  # noqa: PLC0415 all the accountants

        config = self.config
        return about_rounds(config, config.server.users, _items(config))

    @property
    def about_groups(self) -> str:
        """What its measurement of groups asks for and costs, in a sentence, or ""."""
        from server.noise_plan import about_groups  # noqa: PLC0415 as above

        config = self.config
        return "" if config.training.planned else about_groups(config)

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
    def exclusive(self) -> Iterator[Run]:
        """Keep other processes from changing the run; yield the run as it is stored.

        Raises:
            ServerError: another one does not let go.
        """

        def conflict(holder: str) -> ServerError:
            return ServerError(
                f"run '{self.name}': another command (process {holder}) has been changing it for "
                f"{_PATIENCE:g} s. End it if it hangs."
            )

        with exclusive_lock(self.folder / _LOCK, conflict, patience=_PATIENCE):
            yield _read(self.folder)

    @property
    def reported(self) -> RunStatus | None:
        """What the run's own process has reported; None before it has."""
        try:
            return RunStatus.load(self.out)
        except CheckpointError:
            return None

    @property
    def status(self) -> RunStatus:
        """What the run is doing: as reported while it is kept running, otherwise as recorded."""
        status = self.reported or RunStatus(
            run=self.name,
            state=RunState.WAITING,
            rounds=self.config.training.number_of_rounds,
            started=self.created,
        )
        if self.state is not RunState.RUNNING:
            return replace(status, state=self.state, reason=self.reason)
        if self.is_of_last_start(status):
            return status
        return replace(status, state=RunState.WAITING, reason="")

    def is_of_last_start(self, status: RunStatus) -> bool:
        """Return whether the last start has reported `status`, and not one before."""
        if not status.updated or not self.since:
            return False
        return datetime.fromisoformat(status.updated) >= datetime.fromisoformat(self.since)

    def save_state(self, state: RunState, reason: str = "") -> Run:
        """Record another state on disk, and return the run in it."""
        return self._save(replace(self, state=state, reason=reason))

    def save_start(self, number: str, since: str) -> Run:
        """Record another start on disk, and return the run as it is running.

        Args:
            number: Flower's number of it.
            since: when, ISO 8601, UTC.
        """
        return self._save(
            replace(
                self,
                starts=(*self.starts, number),
                state=RunState.RUNNING,
                since=since,
                reason="",
            )
        )

    def write_config(
        self, *, resume: bool, partners: Path, changes: Mapping[str, Value] | None = None
    ) -> None:
        """Write the parameters as Flower reads them.

        Flower refuses a parameter that the run's app does not declare. An app of an earlier release
        lacks the newer ones, and goes on without them.

        Args:
            resume: whether to go on from the checkpoint.
            partners: the coordinator's record of its partners.
            changes: parameters to change, by `section.key`.

        Raises:
            ConfigError: a changed parameter does not fit.
        """
        flat = RunConfig.from_flat(self.config.to_flat() | dict(changes or {})).to_flat()
        flat |= {"paths.resume": resume, "paths.partners": str(partners)}
        declared = _declared_parameters(self.app)
        flat = {key: value for key, value in flat.items() if not declared or key in declared}
        write_atomically(self.config_file, tomli_w.dumps(flat).encode())

    @staticmethod
    def _save(run: Run) -> Run:
        row = {key: value for key, value in asdict(run).items() if key != "folder"}
        write_atomically(run.folder / _RECORD, (json.dumps(row, indent=1) + "\n").encode())
        return run


def read_config(file: Path) -> dict[str, Value]:
    """Return a run's parameters by `section.key`; relative paths start at the file's folder.

    Raises:
        ConfigError: it cannot be read, or holds settings of a simulation.
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
    return flat | {"paths.resume": False, "paths.sites": "", "paths.partners": ""}


def create_run(
    settings: Settings, name: str, flat: Mapping[str, Value], bundle: BuiltBundle
) -> Run:
    """Check a run's parameters, then make its folder.

    Raises:
        ConfigError: a parameter does not fit.
        ServerError: the name does not fit or is taken, or the catalogue is missing.
    """
    if not _NAME.fullmatch(name):
        raise ServerError(f"name = '{name}': letters, digits, '.', '_' and '-', at most 64.")
    folder = settings.runs / name
    config = RunConfig.from_flat({"paths.out": str(folder / _OUT), **flat})
    # With the noise come all the accountants.
    from server.noise_plan import check_masking  # noqa: PLC0415
    from server.training_plan import with_plan  # noqa: PLC0415

    check_masking(config, simulated=False)
    config = with_plan(config, config.server.users, _items(config))
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise ServerError(
            f"there is a run '{name}' already: sotto-server resume {name}, or --name another."
        ) from None
    write_atomically(folder / _CONFIG, tomli_w.dumps(config.to_flat()).encode())
    bundle.unpack(folder / _APP)
    run = Run(
        name=name,
        folder=folder,
        state=RunState.STOPPED,
        bundle=bundle.fingerprint,
        starts=(),
        created=now(),
        reason="never started",
    )
    return run.save_state(RunState.STOPPED, run.reason)


def _items(config: RunConfig) -> int:
    """Return the catalogue's size; raises ConfigError where it is missing."""
    items = Path(config.paths.catalogue, "items.parquet")
    if not items.is_file():
        raise ConfigError(
            f"paths.catalogue = '{config.paths.catalogue}' is no catalogue's folder: name the one "
            "that partners were given, from where the file lies."
        )
    return int(read_metadata(items).num_rows)


def find_run(settings: Settings, name: str) -> Run:
    """Return the run of that name.

    Raises:
        ServerError: there is none, or its record is damaged.
    """
    try:
        return _read(settings.runs / name)
    except FileNotFoundError:
        names = ", ".join(run.name for run in all_runs(settings)) or "none"
        raise ServerError(f"there is no run '{name}'. The runs are: {names}.") from None


def all_runs(settings: Settings) -> list[Run]:
    """Return every run, the oldest first; raises ServerError as `find_run`."""
    runs = [_read(file.parent) for file in settings.runs.glob(f"*/{_RECORD}")]
    return sorted(runs, key=lambda run: run.created)


def all_statuses(settings: Settings) -> tuple[list[RunStatus], int]:
    """Return the status of every run that can be read, by its name, and how many cannot."""
    statuses, unreadable = [], 0
    for file in sorted(settings.runs.glob(f"*/{_RECORD}")):
        try:
            run = _read(file.parent)
            damaged = run.reported is None and RunStatus.exists(run.out)
            statuses += [] if damaged else [replace(run.status, run=run.name)]
            unreadable += damaged
        except FileNotFoundError:
            continue  # discarded meanwhile
        except (SottoError, OSError, ValueError):
            unreadable += 1
    return statuses, unreadable


def _declared_parameters(app: Path) -> set[str]:
    """Return the parameters that an unpacked app declares; none where they cannot be read."""
    try:
        project = tomllib.loads((app / "pyproject.toml").read_text(encoding="utf-8"))
        return set(flat_tables(project["tool"]["flwr"]["app"]["config"]))
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return set()


def _read(folder: Path) -> Run:
    try:
        row = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        state = RunState(_OLD_STATES.get(row["state"], row["state"]))
        fields = row | {"state": state, "starts": tuple(row["starts"])}
        return Run(**fields, folder=folder)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ServerError(f"{folder / _RECORD} is damaged: put a copy of it back.") from error
