"""Flower's own command line, asked by programs: JSON in, errors of ours out.

Flower 1.41 ends with 0 where a command failed, so every answer is read for `"success"`. Nothing of
the user's own Flower configuration is touched: `FLWR_HOME` lies in the coordinator's folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from server.settings import Settings
from shared.errors import ServerError
from shared.system.files import write_atomically

__all__ = ["Flower", "FlowerRun", "FlowerState", "environment", "program"]

_CONNECTION = "sotto"
_SECONDS = 120.0
_AWAY = ("unavailable", "connect", "Connection")
_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


class FlowerState(StrEnum):
    """Flower's own words for what a start of a run is doing."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    COMPLETED = "finished:completed"
    FAILED = "finished:failed"
    STOPPED = "finished:stopped"

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self.value.startswith("finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowerRun:
    """A run as Flower sees it.

    Attributes:
        number: Flower's own.
        state: what it is doing.
        details: why it failed, in Flower's words.
        bytes_in: what the SuperLink received for it, in bytes.
        bytes_out: what it sent.
    """

    number: str
    state: FlowerState
    details: str
    bytes_in: int
    bytes_out: int


class Flower:
    """The `flwr` command, connected to a coordinator's administrators' listener.

    Args:
        settings: the coordinator's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def register(self, key: Path, name: str) -> str:
        """Lets a node in; gives its number.

        Raises:
            ServerError: the coordinator is not up, or Flower declines.
        """
        file = str(key.absolute())
        found = self._asked("supernode", "register", file, _CONNECTION, "--name", name)
        return str(found["node-id"])

    def unregister(self, node: str) -> None:
        """Lets a node in no more; raises ServerError as `register`."""
        self._asked("supernode", "unregister", node, _CONNECTION)

    def nodes(self) -> dict[str, str]:
        """Each registered node's number and status, such as "online"; raises ServerError."""
        found = self._asked("supernode", "list", _CONNECTION)
        return {str(node["node-id"]): str(node["status"]) for node in found["nodes"]}

    def start(self, app: Path, config: Path) -> tuple[str, str]:
        """Starts a run.

        Args:
            app: folder of the app.
            config: TOML of the run's parameters.

        Returns:
            Flower's number of the run, and the first characters of the bundle's SHA-256.

        Raises:
            ServerError: the coordinator is not up, or Flower declines.
        """
        paths = str(app.absolute()), _CONNECTION, "--run-config", str(config.absolute())
        found = self._asked("run", *paths)
        return str(found["run-id"]), str(found["fab-hash"])

    def run(self, number: str) -> FlowerRun:
        """How a run stands; raises ServerError."""
        return _run(self._asked("list", _CONNECTION, "--run-id", number)["runs"][0])

    def runs(self) -> list[FlowerRun]:
        """Every run; raises ServerError."""
        return [_run(row) for row in self._asked("list", _CONNECTION)["runs"]]

    def stop(self, number: str) -> None:
        """Stops a run; raises ServerError."""
        self._asked("stop", number, _CONNECTION)

    def log(self, number: str) -> str:
        """What a run's ServerApp has written so far; "" where it cannot be had."""
        done = self._called("log", number, _CONNECTION, "--show")
        return done.stdout if done.returncode == 0 else ""

    def _asked(self, *arguments: str) -> Mapping[str, Any]:
        done = self._called(*arguments, "--format", "json")
        try:
            found = json.loads(done.stdout)
        except ValueError:
            found = {"error-message": done.stderr or done.stdout}
        if done.returncode == 0 and isinstance(found, dict) and found.get("success") is True:
            return found
        said = " ".join(str(found.get("error-message", "")).split())[-500:]
        if any(word in said for word in _AWAY):
            raise ServerError(
                f"no coordinator answers at {self._settings.listen.administrators}: start it with "
                f"sotto-server up --server {self._settings.folder}"
            )
        raise ServerError(
            f"Flower declined `{' '.join(arguments[:2])}`: {said or 'no reason given'}"
        )

    def _called(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self._connect()
        try:
            return subprocess.run(
                [program("flwr"), *arguments],
                # Flower takes a folder called like the connection, here, for an app.
                cwd=self._settings.flower_home,
                env=environment(self._settings) | {"COLUMNS": "1000", "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"Flower's `{arguments[0]}` did not answer within {_SECONDS:g} s: see what the "
                "coordinator's log says."
            ) from None

    def _connect(self) -> None:
        """Writes down for Flower where the coordinator is; the same each time."""
        settings, file = self._settings, self._settings.flower_home / "config.toml"
        text = (
            f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
            f"address = {json.dumps(str(settings.administrators))}\n"
            f"root-certificates = {json.dumps(str(settings.internal_authority))}\n"
        ).encode()
        if not file.exists() or file.read_bytes() != text:
            write_atomically(file, text)


def environment(settings: Settings) -> dict[str, str]:
    """The variables of Flower's processes: ours, with its home in the coordinator's folder."""
    home = str(settings.flower_home)
    return os.environ | _OFF | {"FLWR_HOME": home, "PATH": _path()}


def program(name: str) -> str:
    """Where one of Flower's programs is: beside this Python, or on PATH.

    Raises:
        ServerError: it is not installed.
    """
    found = shutil.which(name, path=_path())
    if found is None:
        raise ServerError(f"{name} is not installed: pip install 'flwr==1.41.*'.")
    return found


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _run(row: Mapping[str, Any]) -> FlowerRun:
    status = str(row["status"])
    return FlowerRun(
        number=str(row["run-id"]),
        state=FlowerState(status) if status in list(FlowerState) else FlowerState.PENDING,
        details=str(row.get("status-details") or "").replace("N/A", ""),
        bytes_in=int(row["network-traffic"]["inbound-bytes"]),
        bytes_out=int(row["network-traffic"]["outbound-bytes"]),
    )
