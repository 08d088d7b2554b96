"""A temporary PostgreSQL server on this machine, for benchmarks and tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Server", "binaries", "temporary_server"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server, with a superuser and an empty database `postgres`.

    Attributes:
        port: on 127.0.0.1.
        user: the superuser's name.
        password: the superuser's.
    """

    port: int
    user: str = "sotto"
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """Return the URL for `data.source`, without the password."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/postgres"


def binaries() -> Path | None:
    """Return the folder of initdb and pg_ctl of the newest PostgreSQL; None without one."""
    if program := shutil.which("initdb"):
        return Path(program).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    return folders[-1].parent if folders else None


def _version(path: Path) -> int:
    version = path.parents[1].name
    return int(version) if version.isdigit() else 0


@contextmanager
def temporary_server(password: str) -> Iterator[Server]:
    """Run a server until the block ends; as another user if this process is root.

    Raises:
        RuntimeError: PostgreSQL is not installed, or does not start.
    """
    tools = binaries()
    if tools is None:
        raise RuntimeError("PostgreSQL is not installed: there is no initdb.")
    server = Server(port=_free_port(), password=password)
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder, secret = Path(name), Path(name, "password")
        secret.write_text(password)
        options = _as_another(folder, secret)
        data, log = str(folder / "data"), str(folder / "log")
        listen = f"-p {server.port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        listen += " -c lock_timeout=10s"  # an open transaction must not block a test for ever
        control = [str(tools / "pg_ctl"), "-D", data, "-l", log, "-w"]
        create = [str(tools / "initdb"), "-D", data, "-U", server.user, "-E", "UTF8"]
        create += ["--no-locale", "--no-sync", "--auth=scram-sha-256", f"--pwfile={secret}"]
        _run(create, options)
        _run([*control, "-o", listen, "start"], options)
        try:
            yield server
        finally:
            _run([*control, "-m", "immediate", "stop"], options)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _as_another(folder: Path, *files: Path) -> dict[str, Any]:
    """Return options that run a program as another user, since PostgreSQL refuses root."""
    options: dict[str, Any] = {"cwd": folder, "env": os.environ | {"LC_ALL": "C"}}
    if os.geteuid():
        return options
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    for path in (folder, *files):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    return options | {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _run(command: list[str], options: dict[str, Any]) -> None:
    # Not a pipe: the server would inherit it and keep it open.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(command, stdout=output, stderr=output, check=False, **options)
        if done.returncode:
            output.seek(0)
            raise RuntimeError(f"{Path(command[0]).name} failed: {output.read().strip()}")
