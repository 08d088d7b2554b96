"""The processes of a node: their commands, users and environment.

Flower's telemetry, update checks and installation of an app's dependencies are off.
"""

from __future__ import annotations

import os
import sys

from client.site.proxies import bypass_loopback
from client.site.site import Site
from shared.errors import SiteError
from shared.system.supervise import Account, Program, program_path

__all__ = ["accounts", "environment", "executor", "supernode"]

_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
_PYTHON = (sys.executable, "-P", "-m")  # -P: what lies in the current folder is not imported
_SUPERNODE = (*_PYTHON, "client.node.supernode")
_HOST = "127.0.0.1"
_STDIN = "/dev/stdin"


def accounts(site: Site) -> tuple[Account | None, Account | None]:
    """Return the users of SuperNode and executor; None is the user of this process.

    Raises:
        SiteError: the key is not there.
        ProcessError: this machine has no such user.
    """
    name = site.node.executor_user
    if not name or os.geteuid() != 0:
        return None, None
    try:
        owner = site.key_file.stat().st_uid
    except OSError as error:
        raise SiteError(f"{site.key_file}: not readable ({error.strerror}).") from error
    return Account.of(owner), Account.of(name)


def supernode(site: Site, secret: bytes) -> Program:
    """Return the SuperNode's program. It runs no app itself; see `client.node.supernode`.

    Args:
        site: whose node it is.
        secret: authenticates the executor.

    Raises:
        SiteError: the folder's name cannot be passed on.
        ConfigError: no coordinator is named.
    """
    roots = site.root_certificates_file
    _ = site.coordinator.address
    command = [
        *_SUPERNODE,
        *("--superlink", site.coordinator.superlink),
        *(() if roots is None else ("--root-certificates", str(roots))),
        *("--auth-supernode-private-key", str(site.key_file)),
        *("--host", _HOST),
        *("--port", str(site.coordinator.local_port)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", _STDIN),
        *("--node-config", f"site={_quoted(site.folder)}"),
    ]
    return Program(
        name="SuperNode",
        command=command,
        variables=environment(site),
        secret=secret,
        account=accounts(site)[0],
        advice=(
            "Read its messages above, and run `sotto-node check`: it tells whether the coordinator "
            "has accepted this node's key."
        ),
    )


def executor(site: Site, secret: bytes) -> Program:
    """Return the executor's program; see `client.node.executor`."""
    command = [*_PYTHON, "client.node.executor", "--site", site.folder]
    return Program(
        name="executor",
        command=[*command, "--runtime", f"{_HOST}:{site.coordinator.local_port}"],
        variables=environment(site),
        secret=secret,
        account=accounts(site)[1],
    )


def environment(site: Site) -> dict[str, str]:
    """Return their environment: ours, with Flower's home in the site's folder.

    Loopback, where the two processes meet, is excluded from HTTP proxies.
    """
    own = {"FLWR_HOME": str(site.flower_home), "PATH": program_path()}
    return os.environ | _OFF | bypass_loopback(os.environ) | own


def _quoted(folder: str) -> str:
    """Quote a text as TOML that Flower's parsing of --node-config does not split."""
    for mark in "'\"":
        if mark not in folder and (mark == "'" or "\\" not in folder):
            return f"{mark}{folder}{mark}"
    raise SiteError(f"{folder}: move the site to a folder without quotation marks in its name.")
