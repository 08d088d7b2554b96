"""Find and wait for the processes of a federation on this machine. Linux: reads /proc."""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import client.node.executor
import client.node.supernode
import server.cli
import server.service.listeners
import server.service.superexec

__all__ = [
    "NODE_PROCESSES",
    "SERVER_PROCESSES",
    "all_processes",
    "command_line",
    "descendants",
    "free_port",
    "wait_for",
]

_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_returned: set[int] = set()
SERVER_PROCESSES = {
    "SuperLink": "flower-superlink",
    "coordinator's executor": re.escape(server.service.superexec.__name__),
    "ServerApp": "flwr-serverapp",
    "proxy": re.escape(server.service.listeners.__name__),
    "run supervisor": re.escape(f"{server.cli.__name__} supervise"),
}
"""Processes of a coordinator: a pattern of each one's command line."""
NODE_PROCESSES = {
    "SuperNode": re.escape(client.node.supernode.__name__),
    "node's executor": re.escape(client.node.executor.__name__),
    "ClientApp": r"multiprocessing\.forkserver",
}
"""Processes of a partner's node: a pattern of each one's command line."""


def wait_for(what: str, condition: Callable[[], Any], seconds: float) -> Any:  # noqa: ANN401
    """Wait for a condition, and return its first value that is true.

    Args:
        what: what is waited for, for the error.
        condition: asked every 0.2 s.
        seconds: the limit.

    Raises:
        TimeoutError: the condition did not become true within the limit.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {seconds:g} s")


def free_port() -> int:
    """Return a local port that is free now, below those that outgoing connections take.

    This process returns none twice.

    Raises:
        OSError: none was found.
    """
    end = int(_OUTGOING.read_text().split()[0])
    draw = random.SystemRandom()
    for _ in range(100):
        port = draw.randrange(end // 2, end)
        if port in _returned:
            continue
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _returned.add(port)
            return port
    raise OSError("no local port is free")


def all_processes() -> list[int]:
    """Return the ids of all processes of this machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for child in all_processes():
        with suppress(OSError, ValueError, IndexError):
            parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(child)
    below, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        below += children
        queue += children
    return below


def command_line(pid: int) -> str:
    """Return the arguments of a process, separated by spaces; "" where it has ended."""
    with suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return ""
