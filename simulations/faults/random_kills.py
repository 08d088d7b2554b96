"""A run of real processes in which a random one is killed every few seconds.

    python -m simulations.faults.random_kills FOLDER [--rounds 50] [--nodes 5] [--every 8]
        [--deadline 60]

A run that pauses, because too few nodes were there, is resumed as its operator would. Tells each
kill on stderr, and at the end how long it took, and each partner's ε and answers. It fails if the
run does not finish, if a partner's ε is above its cap, or if its ledger shows fewer releases, or
less ε by an accountant that is not ours, than the distinct answers that left it.
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

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from client.site.site import Site
from server.state.audit_log import FILE, AuditEvent, AuditLog
from server.state.status import RunState, RunStatus, now
from shared.errors import CheckpointError, Outcome
from shared.privacy.release import Release
from simulations.faults.deployment import DELTA, EPSILON, RUN, Deployment
from simulations.faults.measure import started

__all__ = ["main"]

TOLERANCE = 0.01
"""The independent accountant's own grid is coarser than ours."""
KILLED = {
    "server": (
        *("flower-superlink", r"shared\.superexec", "flwr-serverapp"),
        *(r"server\.listeners", r"server\.cli keep"),
    ),
    "node": (r"client\.supernode", r"client\.executor", r"multiprocessing\.forkserver"),
}


def main() -> None:
    """Kills until the run is finished."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between two kills")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds of a round")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds until it gives up")
    arguments = parser.parse_args()
    partners = tuple(f"org-{number}" for number in range(1, arguments.nodes + 1))
    deployment = started(
        arguments.folder,
        partners,
        arguments.rounds,
        deadline_seconds=arguments.deadline,
        retries=20,
    )
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
            if status.state is RunState.FINISHED:
                break
            if status.state is RunState.PAUSED:
                killed["resumed by hand"] += _resumed(deployment, status.reason)
        time.sleep(draw.uniform(0.5, 1.5) * every)
        owner = draw.choice(["server", *deployment.partners])
        pattern = draw.choice(KILLED["server" if owner == "server" else "node"])
        if found := deployment.found(owner, pattern):
            with suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
            killed[pattern.replace("\\", "")] += 1
            _note(f"{owner}: {pattern} killed, {_standing(deployment)}")
    return killed


def _resumed(deployment: Deployment, reason: str) -> bool:
    """As an operator would, who reads why the run was paused; who can't be told yet tries again."""
    _note(f"paused: {reason}")
    with suppress(RuntimeError):
        deployment.call("server", "resume", RUN, "--server", deployment.server, "--detach")
        return True
    return False


def _standing(deployment: Deployment) -> str:
    with suppress(CheckpointError):
        status = deployment.status
        here = sum(partner.connected for partner in status.organisations.values())
        return f"{status.state} after round {status.round}, {here} nodes connected"
    return "no status"


def _note(text: str) -> None:
    sys.stderr.write(f"{now()} {text}\n")
    sys.stderr.flush()


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
    """What a partner's ledger says, against what left it and what the coordinator counted."""
    epsilon, steps = deployment.spent(name)
    ledger = Site.load(deployment.folder / name).open_ledger()
    distinct = len({sent.sha256 for sent in ledger.outbox()})
    (release,) = ledger.releases()  # all rounds cost the same
    released = independent_epsilon(release, distinct)
    used = sum(
        entry["outcomes"].get(name) == Outcome.VALID
        for entry in AuditLog(deployment.out / FILE).entries()
        if entry["event"] == AuditEvent.ROUND_FINISHED
    )
    assert epsilon <= EPSILON, f"{name} spent more than its cap"
    assert steps <= status.rounds, f"{name} was charged twice for a round"
    assert steps >= distinct >= used, f"{name} released more than its ledger says"
    assert epsilon >= released * (1 - TOLERANCE), f"{name}'s ε is below what it released"
    return {
        "epsilon": round(epsilon, 4),
        "cap": EPSILON,
        "charged": steps,
        "distinct answers": distinct,
        "their epsilon": round(released, 4),
        "used": used,
    }


def independent_epsilon(release: Release, times: int) -> float:
    """ε of so many such releases by another accountant than the product's."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    step = PoissonSampledDpEvent(release.sample_rate, GaussianDpEvent(release.noise_multiplier))
    accountant.compose(step, times)
    return float(accountant.get_epsilon(DELTA))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the wire's threads wait for connections
