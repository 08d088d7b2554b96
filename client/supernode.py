"""Flower's SuperNode as a process of ours: its command and its surroundings.

Telemetry, update checks and the installation of what an app asks for are off.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from client.site import Site
from shared.errors import SiteError

__all__ = ["command", "environment", "executable"]

_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def executable() -> str | None:
    """Where flower-supernode is: beside this Python, or on PATH."""
    return shutil.which("flower-supernode", path=_path())


def command(site: Site) -> list[str]:
    """What starts the site's SuperNode.

    Raises:
        SiteError: flower-supernode is not installed, or the folder's name cannot be passed on.
        ConfigError: no coordinator is named.
    """
    found, roots = executable(), site.root_certificates_file
    if found is None:
        raise SiteError("flower-supernode is not installed: pip install 'flwr==1.41.*'.")
    _ = site.coordinator.address
    return [
        found,
        *("--superlink", site.coordinator.superlink),
        *(() if roots is None else ("--root-certificates", str(roots))),
        *("--auth-supernode-private-key", str(site.key_file)),
        *("--host", "127.0.0.1"),
        *("--port", str(site.coordinator.local_port)),
        *("--node-config", f"site={_quoted(site.folder)}"),
    ]


def environment(site: Site) -> dict[str, str]:
    """The variables that it gets: ours, with Flower's home in the site's folder."""
    return os.environ | _OFF | {"FLWR_HOME": str(site.flower_home), "PATH": _path()}


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _quoted(folder: str) -> str:
    """A TOML text that Flower's own splitting of --node-config leaves whole."""
    for mark in "'\"":
        if mark not in folder and (mark == "'" or "\\" not in folder):
            return f"{mark}{folder}{mark}"
    raise SiteError(f"{folder}: move the site to a folder without quotation marks in its name.")
