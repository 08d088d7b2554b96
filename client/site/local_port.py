"""The port of 127.0.0.1 at which the node's own processes meet: one for each node of a machine."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from shared.errors import SiteError
from shared.system.address import PORTS

__all__ = ["check_port", "find_free_port", "port_is_free", "port_remedy"]

_HOST = "127.0.0.1"
_RANGE = 100
"""Ports that are tried, from the first."""


def port_is_free(port: int) -> bool:
    """Return whether the node could listen on a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def find_free_port(first: int, taken: Iterable[int] = ()) -> int:
    """Return the first free port from `first` on that is not in `taken`; `first` if none is."""
    ports = range(first, min(first + _RANGE, PORTS.stop))
    return next((port for port in ports if port not in taken and port_is_free(port)), first)


def port_remedy(port: int) -> str:
    """Return what to do about a port that is in use."""
    free = find_free_port(port + 1)
    return (
        f"Set local_port = {free} below [coordinator] in site.toml, or any other free port: each "
        "node of a machine has its own."
    )


def check_port(port: int) -> None:
    """Refuse a port that is in use.

    Raises:
        SiteError: it is.
    """
    if not port_is_free(port):
        raise SiteError(f"127.0.0.1:{port} is in use by another program. {port_remedy(port)}")
