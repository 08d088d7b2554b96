"""Kill nodes at a stated step of a sum under secure aggregation.

`simulations.faults.changed_code` makes a copy of the packages in which a node answers each request
with `die_at_step`. The file `POINTS_FILE` in that copy says which node dies where, once each.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message

from shared.messages import AGGREGATE, AggregateRequest

if TYPE_CHECKING:
    from simulations.faults.changed_code import App

__all__ = ["KillPoint", "die_at_step", "reached", "write_points"]

POINTS_FILE = Path(__file__).with_name("kill_points.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class KillPoint:
    """Where a node dies.

    Attributes:
        step: of a sum, 1 to 5.
        answered: whether the answer is computed, charged and kept by then; it never leaves.
        whole: whether the node waits there until all of its processes are killed from outside;
            otherwise the process that answers the request kills itself.
    """

    step: int
    answered: bool
    whole: bool


def write_points(folder: Path, points: Mapping[str, KillPoint]) -> None:
    """Write where nodes die, by the names of their sites' folders, into a copy's folder."""
    text = json.dumps({name: asdict(point) for name, point in points.items()})
    (folder / POINTS_FILE.name).write_text(text)


def reached(folder: Path, name: str) -> bool:
    """Return whether a node has come to its point."""
    return _marker(folder, name).exists()


def die_at_step(app: App, message: Message, context: Context) -> Message:
    """Answer a request, unless this node is to die at it."""
    name = Path(str(context.node_config["site"])).name
    point = _point_at(name, message)
    if point is None:
        return app(message, context)
    if point.answered:
        app(message, context)
    _marker(POINTS_FILE.parent, name).touch()
    while point.whole:
        signal.pause()
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit  # it is not reached


def _point_at(name: str, message: Message) -> KillPoint | None:
    if message.metadata.message_type != AGGREGATE or reached(POINTS_FILE.parent, name):
        return None
    points = json.loads(POINTS_FILE.read_text())
    step = AggregateRequest.from_content(message.content).step
    if name not in points or points[name]["step"] != step:
        return None
    return KillPoint(**points[name])


def _marker(folder: Path, name: str) -> Path:
    return folder / f"{name}.reached"
