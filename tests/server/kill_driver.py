"""Runs a coordinator again and again, kills it at a stated point, and resumes it.

    python kill_driver.py TEMPLATE CONFIG

TEMPLATE holds sites and catalogue, CONFIG the run's parameters as JSON; each point has a copy of
its own. Prints one JSON object a point. One process that forks: importing the model takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import client.app
import server.app
import server.state.checkpoint
from client.site.site import Site
from server.rounds.collection import Collection
from server.rounds.participants import Participants
from server.rounds.strategy import FederatedStrategy
from server.runs.reporter import RunReporter
from server.state.audit_log import AuditLog
from server.state.checkpoint import Checkpoint
from server.state.status import RunStatus
from shared.config import RunConfig
from shared.models.attention import AttentionRecommender
from shared.system.files import write_atomically
from simulations.experiment.federation import InProcessGrid, sites_in
from tests.kills import Arm, Send, after_call, at_call, die, finish, forked


def torn() -> None:
    """Dies with half of the second round's checkpoint written."""
    left = 3

    def half(file: Path, content: bytes, **options: Any) -> None:  # noqa: ANN401
        nonlocal left
        left -= file.name.startswith("checkpoint")
        if left == 0 and file.name.startswith("checkpoint"):
            file.with_name(f".{file.name}.0.new").write_bytes(content[: len(content) // 2])
            die()
        write_atomically(file, content, **options)

    vars(server.state.checkpoint)["write_atomically"] = half


# Before the first round, the checkpoint is written once, and each node answers twice: who it is,
# and whether it can pay.
POINTS: dict[str, Arm] = {
    "before anybody is met": at_call(Participants, "wait_for", 1),
    "before the first checkpoint": at_call(Checkpoint, "save", 1),
    "before a round is asked for": at_call(FederatedStrategy, "configure_train", 2),
    "when one partner has answered": after_call(client.app.NodeApp, "__call__", 2 + 2 + 2 + 1),
    "when all have answered": at_call(Collection, "take", 4),
    "between aggregation and checkpoint": after_call(FederatedStrategy, "aggregate_train", 2),
    "with half a checkpoint written": torn,
    "between checkpoint and report": at_call(RunReporter, "round_finished", 2),
    "between audit log and status": after_call(AuditLog, "record", 1 + 2 + 2),
    "after the last round": after_call(RunReporter, "round_finished", 3),
    "while the model is saved": at_call(AttentionRecommender, "save_pretrained", 1),
    "with the model saved": after_call(AttentionRecommender, "save_pretrained", 1),
}


def coordinated(folder: Path, config: RunConfig, arm: Arm | None = None) -> int:
    """How a coordinator's process ended."""

    def run(_: Send) -> None:
        if arm is not None:
            arm()
        coordinate(folder, config)

    return finish(*forked(run))[1]


def coordinate(folder: Path, config: RunConfig) -> None:
    """Begins or resumes a run, and ends it."""
    out = folder / "run"
    paths = replace(
        config.paths,
        catalogue=str(folder / "catalogue"),
        out=str(out),
        resume=Checkpoint.exists(out),
    )
    grid = InProcessGrid(client.app.app, sites_in(folder))
    server.app.coordinate(grid, replace(config, paths=paths), lambda _: None)


def charged(folder: Path) -> list[int]:
    """Steps that each site's ledger says were released."""
    ledgers = [Site.load(site).open_ledger() for site in sites_in(folder)]
    return [sum(release.steps for release in ledger.releases()) for ledger in ledgers]


def result(folder: Path) -> dict[str, Any]:
    """What a run has come to."""
    out = folder / "run"
    checkpoint, digest = Checkpoint.load(out), hashlib.sha256()
    for part in (checkpoint.weights, checkpoint.optimiser):
        for name in sorted(part):
            digest.update(name.encode() + part[name].tobytes())
    return {
        "bits": digest.hexdigest(),
        "round": checkpoint.round,
        "charged": charged(folder),
        "state": RunStatus.load(out).state,
        "entries": AuditLog(out / "audit.jsonl").verify(),
        "left over": sorted(path.name for path in out.glob("*.new")),
        "model": (out / "model" / "model.safetensors").is_file(),
    }


Found = Callable[[Path], dict[str, Any]]


def kill_at(points: Mapping[str, Arm], found: Found = lambda _: {}) -> None:
    """Kills at every point, and resumes; first, at none. `found` looks at more of what is left."""
    template = Path(sys.argv[1])
    config = RunConfig.from_flat(json.loads(sys.argv[2]))
    # Once in this process: those that it forks then have what the accountant has computed.
    coordinate(Path(shutil.copytree(template, template.with_name("first"))), config)
    for number, (point, arm) in enumerate({"": None, **points}.items()):
        folder = template.with_name(f"{template.name}-{number}")
        shutil.copytree(template, folder)
        outcome = {"point": point, "status": coordinated(folder, config, arm)}
        if arm is not None:
            outcome["killed"] = {
                "state": RunStatus.load(folder / "run").state,
                "charged": charged(folder),
                **found(folder),
            }
            outcome["resumed"] = coordinated(folder, config)
        sys.stdout.write(json.dumps(outcome | result(folder) | found(folder)) + "\n")


if __name__ == "__main__":
    kill_at(POINTS)
