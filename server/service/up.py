"""The processes that `sotto-server up` keeps running on one machine.

| process    | what it does                                             | where it listens         |
|------------|----------------------------------------------------------|--------------------------|
| superlink  | Flower's SuperLink: nodes, runs, messages, in a database | `listen.superlink`       |
| executor   | starts each run's ServerApp; authenticates with a secret | nowhere                  |
| proxy      | TLS listeners that pass on known paths alone             | the others of [listen]   |
| supervisor | resumes runs whose process ended                         | nowhere                  |

`up` itself answers at `listen.metrics`, if that is set (`server.service.health`). A ServerApp
survives the end of its executor: a new executor takes over, and the run goes on.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from server.runs.flower import find_program, flower_environment
from server.service.certificates import days_left
from server.service.health import serve_coordinator_health
from server.service.listeners import bind_socket
from server.settings import Settings
from shared.errors import ServerError
from shared.system.locks import inheritable_lock
from shared.system.supervise import (
    Patience,
    Processes,
    Program,
    Restart,
    Start,
    keep_running,
)

__all__ = [
    "check_startup",
    "is_ready",
    "lock_coordinator",
    "run_services",
    "service_programs",
    "wait_until_ready",
]

_LOCK = "server.lock"
_PYTHON = (sys.executable, "-P", "-m")
_PATIENCE = Patience(first=1.0, longest=60.0, settled=300.0, brief=10.0, starts=8, end=15.0)


def service_programs(settings: Settings) -> list[Program]:
    """Return the programs to run, in the order in which they start; no argument is a secret.

    Raises:
        ServerError: Flower is not installed.
    """
    variables = flower_environment(settings)
    commands = {
        "superlink": _superlink(settings),
        "executor": _executor(settings),
        "proxy": [*_PYTHON, "server.service.listeners", settings.folder],
        "supervisor": [*_PYTHON, "server.cli", "supervise", "--server", settings.folder],
    }
    return [
        Program(
            name=name,
            command=command,
            variables=variables,
            advice="Its own messages are above.",
            children_stay=name == "executor",
        )
        for name, command in commands.items()
    ]


def check_startup(settings: Settings) -> list[str]:
    """Check that every process could start.

    Returns:
        Warnings, a sentence each.

    Raises:
        ServerError: an address is in use, a certificate has expired, or a file is missing or
            readable by other users.
    """
    for key, address in settings.listeners.items():
        bind_socket(key, address).close()
    for file in (settings.executor_secret, *_keys(settings)):
        _check_private(file)
    public = settings.path(settings.tls.certificate)
    warnings = []
    for certificate in (settings.internal_certificate[0], public):
        days = days_left(certificate)
        if days < 0:
            raise ServerError(f"{certificate} has expired: sotto-server renew, or bring a new one.")
        if days < 30:
            warnings.append(f"{certificate} expires in {days} days: sotto-server renew.")
    return warnings


@contextmanager
def lock_coordinator(folder: Path) -> Iterator[int]:
    """Hold the folder's lock, and give its descriptor so that child processes can hold it too.

    Raises:
        ServerError: another `sotto-server up` holds it.
    """

    def conflict(holder: str) -> ServerError:
        return ServerError(
            f"{folder}: a coordinator is up already (process {holder}): stop that one first."
        )

    with inheritable_lock(folder / _LOCK, conflict) as handle:
        yield handle


def run_services(settings: Settings, lock: int, notify: Callable[[Start | Restart], None]) -> None:
    """Keep every process running until SIGTERM or SIGINT.

    Args:
        settings: the coordinator's.
        lock: the descriptor that `lock_coordinator` gave.
        notify: called when a process starts, or ended and will start again.

    Raises:
        ProcessError: the named process cannot be kept running; all have been stopped.
        ServerError: `listen.metrics` cannot be listened on.
    """
    os.umask(0o077)  # the database that Flower makes is for its owner alone
    programs = service_programs(settings)
    processes = Processes(running=dict.fromkeys((program.name for program in programs), False))

    def record(change: Start | Restart) -> None:
        processes.record(change)
        notify(change)

    with serve_coordinator_health(settings, processes, lambda: is_ready(settings)):
        keep_running(programs, patience=_PATIENCE, notify=record, pass_fds=(lock,))


def is_ready(settings: Settings) -> bool:
    """Return whether the proxy and the SuperLink behind it answer."""
    context = ssl.create_default_context(cafile=settings.internal_authority)
    with suppress(httpx.HTTPError):
        url = f"https://{settings.administrators}/readyz"
        return httpx.get(url, verify=context, trust_env=False).status_code == 200
    return False


def wait_until_ready(settings: Settings, seconds: float = 120.0) -> bool:
    """Wait until everything answers, and notify systemd where it started this process.

    Returns:
        False where `seconds` were not enough.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_ready(settings):
            _notify_systemd("READY=1")
            return True
        time.sleep(0.2)
    return False


def _notify_systemd(state: str) -> None:
    """Do what sd_notify does, where systemd started this process with Type=notify."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        place = "\0" + address[1:] if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, suppress(OSError):
            channel.sendto(state.encode(), place)


def _superlink(settings: Settings) -> list[str]:
    certificate, key = settings.internal_certificate
    address = settings.superlink
    return [
        find_program("flower-superlink"),
        *("--host", address.host),
        *("--port", str(address.port)),
        *("--ssl-ca-certfile", str(settings.internal_authority)),
        *("--ssl-certfile", str(certificate)),
        *("--ssl-keyfile", str(key)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", str(settings.database)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(settings.executor_secret)),
    ]


def _executor(settings: Settings) -> list[str]:
    return [
        *_PYTHON,
        "server.service.superexec",
        *("--runtime-api-address", str(settings.superlink)),
        *("--root-certificates", str(settings.internal_authority)),
        *("--superexec-auth-secret-file", str(settings.executor_secret)),
    ]


def _keys(settings: Settings) -> list[Path]:
    return [settings.internal_certificate[1], settings.path(settings.tls.key)]


def _check_private(file: Path) -> None:
    try:
        mode = file.stat().st_mode & 0o777
    except OSError as error:
        raise ServerError(
            f"{file}: not readable ({error.strerror}). Put it back, or make a new coordinator's "
            "folder: sotto-server init"
        ) from error
    if mode & 0o077:
        raise ServerError(f"{file} is open to other users ({mode:o}): chmod 600 {file}")
