"""Call Flower's command line, read its JSON, and turn its failures into errors of Sotto.

Flower 1.41 exits with 0 where a command failed, so every answer is checked for `"success"`.
`FLWR_HOME` is the coordinator's folder: the user's own Flower configuration stays as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import tomli_w

from server.settings import Settings
from shared.errors import ServerError
from shared.system.files import write_atomically
from shared.system.supervise import program_path

__all__ = [
    "Flower",
    "FlowerRun",
    "FlowerState",
    "find_program",
    "flower_environment",
    "without_proxy",
]

_CONNECTION = "sotto"
_SECONDS = 120.0
_AWAY = ("unavailable", "connect", "Connection")
_KEY_IN_USE = "ublic key already in use"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
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
        number: Flower's number of it.
        state: what it is doing.
        details: why it failed, in Flower's words; "" otherwise.
        bytes_in: that the SuperLink received for it.
        bytes_out: that the SuperLink sent for it.
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
        """Register a node's key, and return Flower's number of the node.

        Raises:
            ServerError: the coordinator is not up, or Flower declines.
        """
        file = str(key.absolute())
        try:
            answer = self._ask("supernode", "register", file, _CONNECTION, "--name", name)
        except ServerError as error:
            if _KEY_IN_USE not in str(error):
                raise
            raise ServerError(
                "Flower knows this key already: it is registered, or was revoked, and Flower "
                "registers no key twice. The partner makes a new one (A new node key in "
                "docs/node-reference.md) and sends its line."
            ) from error
        return str(answer["node-id"])

    def unregister(self, node: str) -> None:
        """Remove a node, so that it cannot connect; raises ServerError as `register`."""
        self._ask("supernode", "unregister", node, _CONNECTION)

    def nodes(self) -> dict[str, str]:
        """Return each registered node's number and status, such as "online"; raises ServerError."""
        answer = self._ask("supernode", "list", _CONNECTION)
        return {str(node["node-id"]): str(node["status"]) for node in answer["nodes"]}

    def start(self, app: Path, config: Path) -> tuple[str, str]:
        """Start a run.

        Args:
            app: folder of the app.
            config: TOML of the run's parameters.

        Returns:
            Flower's number of the run, and the first characters of the bundle's SHA-256.

        Raises:
            ServerError: the coordinator is not up, or Flower declines.
        """
        paths = str(app.absolute()), _CONNECTION, "--run-config", str(config.absolute())
        answer = self._ask("run", *paths)
        return str(answer["run-id"]), str(answer["fab-hash"])

    def run(self, number: str) -> FlowerRun:
        """Return one run as Flower sees it; raises ServerError."""
        return _run(self._ask("list", _CONNECTION, "--run-id", number)["runs"][0])

    def runs(self) -> list[FlowerRun]:
        """Return every run; raises ServerError."""
        return [_run(row) for row in self._ask("list", _CONNECTION)["runs"]]

    def stop(self, number: str) -> None:
        """Stop a run; raises ServerError."""
        self._ask("stop", number, _CONNECTION)

    def log(self, number: str) -> str:
        """Return what a run's ServerApp has logged so far; "" where Flower does not say."""
        done = self._call("log", number, _CONNECTION, "--show")
        return done.stdout if done.returncode == 0 else ""

    def _ask(self, *arguments: str) -> Mapping[str, Any]:
        done = self._call(*arguments, "--format", "json")
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {"error-message": done.stderr or done.stdout}
        if done.returncode == 0 and isinstance(answer, dict) and answer.get("success") is True:
            return answer
        message = " ".join(str(answer.get("error-message", "")).split())[-500:]
        if any(word in message for word in _AWAY) and not self._is_listening():
            raise ServerError(
                f"no coordinator answers at {self._settings.listen.administrators}: start it with "
                f"sotto-server up --server {self._settings.folder}"
            )
        raise ServerError(
            f"Flower declined `{' '.join(arguments[:2])}`: {message or 'no reason given'}"
        )

    def _is_listening(self) -> bool:
        """Return whether something listens where administrators connect to."""
        address = self._settings.administrators
        try:
            socket.create_connection((address.host, address.port), timeout=5.0).close()
        except OSError:
            return False
        return True

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self._connect()
        try:
            return subprocess.run(
                [find_program("flwr"), *arguments],
                # Flower takes a folder called like the connection, here, for an app.
                cwd=self._settings.flower_home,
                env=flower_environment(self._settings) | {"COLUMNS": "1000", "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"Flower's `{arguments[0]}` did not answer within {_SECONDS:g} s: see the "
                "coordinator's log."
            ) from None

    def _connect(self) -> None:
        """Write the coordinator's address where Flower looks for it."""
        settings, file = self._settings, self._settings.flower_home / "config.toml"
        connection = {
            "address": str(settings.administrators),
            "root-certificates": str(settings.internal_authority),
        }
        tables = {"superlink": {"default": _CONNECTION, _CONNECTION: connection}}
        text = tomli_w.dumps(tables).encode()
        if not file.exists() or file.read_bytes() != text:
            write_atomically(file, text)


def flower_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of Flower's processes, with its home in the coordinator's folder.

    They connect to each other on loopback, and no proxy reaches that.
    """
    home = str(settings.flower_home)
    return (
        os.environ | _OFF | without_proxy(os.environ) | {"FLWR_HOME": home, "PATH": program_path()}
    )


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep connections on loopback away from a proxy.

    >>> without_proxy({"no_proxy": "example.org"})["NO_PROXY"]
    'example.org,localhost,127.0.0.1,::1'
    """
    names = ("no_proxy", "NO_PROXY")
    given = [part for name in names for part in environment.get(name, "").split(",")]
    hosts = ",".join(dict.fromkeys([*filter(None, map(str.strip, given)), *_LOOPBACK]))
    return dict.fromkeys(names, hosts)


def find_program(name: str) -> str:
    """Return the path of one of Flower's programs: beside this Python, or on PATH.

    Raises:
        ServerError: it is not installed.
    """
    file = shutil.which(name, path=program_path())
    if file is None:
        raise ServerError(f"{name} is not installed: pip install 'flwr==1.41.*'.")
    return file


def _run(row: Mapping[str, Any]) -> FlowerRun:
    status = str(row["status"])
    return FlowerRun(
        number=str(row["run-id"]),
        state=FlowerState(status) if status in list(FlowerState) else FlowerState.PENDING,
        details=str(row.get("status-details") or "").replace("N/A", ""),
        bytes_in=int(row["network-traffic"]["inbound-bytes"]),
        bytes_out=int(row["network-traffic"]["outbound-bytes"]),
    )
