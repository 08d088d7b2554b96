"""Everything that `sotto-server up` keeps running on one machine.

| process   | what it does                                             | where it listens          |
|-----------|----------------------------------------------------------|---------------------------|
| superlink | Flower's SuperLink: nodes, runs, messages, in a database | `listen.superlink`        |
| executor  | starts each run's ServerApp; known by a secret in a file | nowhere                   |
| proxy     | TLS listeners that let known paths through               | the other two of [listen] |
| keeper    | resumes runs that broke off                              | nowhere                   |

The executor's own death does not end a ServerApp that runs: a new executor takes its place, and
the run goes on.
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

from server.runs.flower import environment, program
from server.service.certificates import days_left
from server.service.listeners import bound
from server.settings import Settings
from shared.errors import ServerError
from shared.system.files import inheritable_lock
from shared.system.supervise import Patience, Program, Restart, Start, keep_running

__all__ = ["check", "is_ready", "keep_up", "only_server", "programs", "until_ready"]

_LOCK = "server.lock"
_PYTHON = (sys.executable, "-P", "-m")
_PATIENCE = Patience(first=1.0, longest=60.0, settled=300.0, brief=10.0, starts=8, end=15.0)


def programs(settings: Settings) -> list[Program]:
    """What runs, in the order in which it starts; no argument of any of it is a secret.

    Raises:
        ServerError: Flower is not installed.
    """
    variables = environment(settings)
    commands = {
        "superlink": _superlink(settings),
        "executor": _executor(settings),
        "proxy": [*_PYTHON, "server.service.listeners", settings.folder],
        "keeper": [*_PYTHON, "server.cli", "keep", "--server", settings.folder],
    }
    return [
        Program(
            name=name,
            command=command,
            variables=variables,
            advice="See what it said above.",
            children_stay=name == "executor",
        )
        for name, command in commands.items()
    ]


def check(settings: Settings) -> list[str]:
    """Looks whether everything could start.

    Returns:
        What is doubtful, a sentence each.

    Raises:
        ServerError: what is wrong: an address is taken, a certificate has expired, a file is open
            to others or missing.
    """
    for key, address in (
        ("partners", settings.partners),
        ("administrators", settings.administrators),
        ("superlink", settings.superlink),
    ):
        bound(key, address).close()
    for file in (settings.executor_secret, *_keys(settings)):
        _check_private(file)
    public = settings.path(settings.tls.certificate)
    doubts = []
    for certificate in (settings.internal_certificate[0], public):
        days = days_left(certificate)
        if days < 0:
            raise ServerError(f"{certificate} has expired: sotto-server renew, or a new one.")
        if days < 30:
            doubts.append(f"{certificate} expires in {days} days: sotto-server renew.")
    return doubts


@contextmanager
def only_server(folder: Path) -> Iterator[int]:
    """Holds the folder's lock; gives its descriptor, so that children can hold it too.

    Raises:
        ServerError: another `sotto-server up` has it.
    """

    def conflict(holder: str) -> ServerError:
        return ServerError(
            f"{folder}: a coordinator is up already (process {holder}): end that one first."
        )

    with inheritable_lock(folder / _LOCK, conflict) as handle:
        yield handle


def keep_up(settings: Settings, lock: int, told: Callable[[Start | Restart], None]) -> None:
    """Keeps everything running until SIGTERM or SIGINT.

    Args:
        settings: the coordinator's.
        lock: what `only_server` gave.
        told: of every process that ended and starts again.

    Raises:
        ProcessError: one cannot be kept running; says which. Everything has ended.
    """
    os.umask(0o077)  # the database that Flower makes is for its owner alone
    keep_running(programs(settings), patience=_PATIENCE, told=told, pass_fds=(lock,))


def is_ready(settings: Settings) -> bool:
    """Whether the proxy and the SuperLink behind it answer."""
    context = ssl.create_default_context(cafile=settings.internal_authority)
    with suppress(httpx.HTTPError):
        url = f"https://{settings.administrators}/readyz"
        return httpx.get(url, verify=context, trust_env=False).status_code == 200
    return False


def until_ready(settings: Settings, seconds: float = 120.0) -> bool:
    """Waits until everything answers, and tells systemd, if it asked."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_ready(settings):
            _notify("READY=1")
            return True
        time.sleep(0.2)
    return False


def _notify(state: str) -> None:
    """What sd_notify(3) does, where systemd started us with Type=notify."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        place = "\0" + address[1:] if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, suppress(OSError):
            told.sendto(state.encode(), place)


def _superlink(settings: Settings) -> list[str]:
    certificate, key = settings.internal_certificate
    address = settings.superlink
    return [
        program("flower-superlink"),
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
        "shared.system.superexec",
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
        raise ServerError(f"{file} is open to others ({mode:o}): chmod 600 {file}")
