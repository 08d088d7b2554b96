"""A run of real processes in which a random one is killed every few seconds.

    python -m simulations.benchmarks.chaos FOLDER [--rounds 50] [--nodes 5] [--every 8]

Prints what was killed, and at the end how long it took, and each partner's ε and steps. It fails
if the run does not finish, if a partner's ε is above its cap, or if its ledger shows less than what
it released.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from client.site import Site
from server.audit import FILE, AuditEvent, AuditLog
from server.progress import RunState, RunStatus
from shared.errors import CheckpointError, Outcome
from simulations.benchmarks.deployment import EPSILON, Deployment
from simulations.benchmarks.faults import started

__all__ = ["main"]

KILLED = {
    "server": (
        *("flower-superlink", r"shared\.superexec", "flwr-serverapp"),
        *(r"server\.listeners", r"server\.cli keep"),
    ),
    "node": ("flower-supernode", r"client\.executor", r"multiprocessing\.forkserver"),
}


def main() -> None:
    """Kills until the run is finished."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between two kills")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds until it gives up")
    arguments = parser.parse_args()
    partners = tuple(f"org-{number}" for number in range(1, arguments.nodes + 1))
    deployment = started(arguments.folder, partners, arguments.rounds)
    try:
        began = time.monotonic()
        killed = _rage(deployment, arguments.every, arguments.limit)
        _tell(deployment, killed, time.monotonic() - began)
    finally:
        deployment.close()


def _rage(deployment: Deployment, every: float, limit: float) -> Counter[str]:
    draw = random.Random(0)  # noqa: S311 the same kills in every run
    killed, end = Counter[str](), time.monotonic() + limit
    while time.monotonic() < end:
        with suppress(CheckpointError):
            status = deployment.status
            if status.state in (RunState.FINISHED, RunState.PAUSED):
                break
        time.sleep(draw.uniform(0.5, 1.5) * every)
        owner = draw.choice(["server", *deployment.partners])
        pattern = draw.choice(KILLED["server" if owner == "server" else "node"])
        if found := deployment.found(owner, pattern):
            with suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
            killed[pattern.replace("\\", "")] += 1
    return killed


def _tell(deployment: Deployment, killed: Counter[str], seconds: float) -> None:
    status = deployment.status
    partners = {name: _partner(deployment, name, status) for name in deployment.partners}
    replies = Counter[str]()
    for organisation in status.organisations.values():
        replies.update(organisation.replies)
    told = {
        "state": str(status.state),
        "rounds": status.round,
        "starts": status.starts,
        "missed attempts": status.missed,
        "seconds": round(seconds),
        "killed": dict(killed),
        "replies": dict(replies),
        "partners": partners,
    }
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    if status.state is not RunState.FINISHED:
        raise SystemExit(f"the run is {status.state}: {status.reason}")


def _partner(deployment: Deployment, name: str, status: RunStatus) -> dict[str, float]:
    """ε, steps and answers by the partner's own ledger, against what the coordinator counted."""
    epsilon, steps = deployment.spent(name)
    answers = len(Site.load(deployment.folder / name).open_ledger().outbox())
    used = sum(
        entry["outcomes"].get(name) == Outcome.VALID
        for entry in AuditLog(deployment.out / FILE).entries()
        if entry["event"] == AuditEvent.ROUND_FINISHED
    )
    assert epsilon <= EPSILON, f"{name} spent more than its cap"
    assert steps <= status.rounds, f"{name} was charged twice for a round"
    assert steps >= answers >= used, f"{name} released more than its ledger says"
    return {"epsilon": round(epsilon, 4), "steps": steps, "answers": answers, "used": used}


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the wire's threads wait for connections
