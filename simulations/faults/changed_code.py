"""A copy of the packages in which a function stands between a node and the app that it runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import Context, Message

import client.node.supernode
import client.node.worker
from simulations.faults.deployment import SOURCE

__all__ = ["ANSWER_LINE", "FIRST_LINE", "LEASE_SECONDS", "App", "change_packages"]

App = Callable[[Message, Context], Message]
ANSWER_LINE = "            return app(message, context)\n"
"""The line of client/node/worker.py that answers a request."""
FIRST_LINE = "from __future__ import annotations\n"
LEASE_SECONDS = 30.0
"""Longest time until the coordinator sees that a node of a copy with short leases is gone."""
_SHORT_LEASES = f"""
import flwr.common.constant

flwr.common.constant.HEARTBEAT_DEFAULT_INTERVAL = {LEASE_SECONDS / 2:.0f}
"""


def change_packages(
    copy: Path, answer: Callable[[App, Message, Context], Message], *, short_leases: bool = False
) -> Path:
    """Copy the packages, so that nodes that run from there answer each request with a function.

    Args:
        copy: the new folder; an older one is replaced.
        answer: called with the vetted app and what it would be called with. It lies in the package
            `simulations`, and may read files beside its module, which are then the copy's.
        short_leases: whether a node that is killed counts as gone after 30 s at most, not 60 s.

    Returns:
        The folder of the copy's `simulations.faults`.
    """
    shutil.rmtree(copy, ignore_errors=True)
    for package in ("client", "server", "shared", "simulations"):
        shutil.copytree(SOURCE / package, copy / package, ignore=shutil.ignore_patterns("data"))
    name = answer.__name__
    new = ANSWER_LINE.replace("app(message, context)", f"{name}(app, message, context)")
    imported = f"\n\nfrom {answer.__module__} import {name}\n"
    _edit(copy, client.node.worker.__file__, {ANSWER_LINE: new}, end=imported)
    if short_leases:
        _edit(copy, client.node.supernode.__file__, {FIRST_LINE: FIRST_LINE + _SHORT_LEASES})
    return copy / Path(__file__).parent.relative_to(SOURCE)


def _edit(copy: Path, source: str, lines: Mapping[str, str], end: str = "") -> None:
    file = copy / Path(source).relative_to(SOURCE)
    text = file.read_text()
    for line, new in lines.items():
        assert text.count(line) == 1
        text = text.replace(line, new)
    file.write_text(text + end)
