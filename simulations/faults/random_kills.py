"""A run of real processes in which a random one is killed every few seconds.

    python -m simulations.faults.random_kills FOLDER [--rounds 50] [--nodes 5] [--every 8]
        [--deadline 60]

A run that pauses because too few nodes are connected is resumed, as its operator would do. Each
kill is reported on stderr; at the end come the time, and each partner's ε and answers. It fails if
the run does not finish, if a partner's ε is above its limit, or if its ledger shows fewer releases,
or less ε by an independent accountant, than the distinct answers that left it.
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

from server.state.audit_log import FILE, AuditEvent, AuditLog
from server.state.status import RunState, RunStatus, now
from shared.errors import CheckpointError
from shared.outcomes import Outcome
from shared.privacy.release import Release
from simulations.faults.deployment import DELTA, EPSILON, RUN, Deployment
from simulations.faults.injection import start_federation
from simulations.faults.processes import NODE_PROCESSES, SERVER_PROCESSES

__all__ = ["main"]

TOLERANCE = 0.01
"""The independent accountant's grid is coarser than the ledger's."""


def main() -> None:
    """Kill random processes until the run is finished, and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between two kills")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds of a round")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds until it stops trying")
    arguments = parser.parse_args()
    partners = tuple(f"org-{number}" for number in range(1, arguments.nodes + 1))
    deployment = start_federation(
        arguments.folder,
        partners,
        arguments.rounds,
        deadline_seconds=arguments.deadline,
        retries=20,
    )
    try:
        began = time.monotonic()
        killed = _kill_randomly(deployment, arguments.every, arguments.limit)
        _print_outcome(deployment, killed, time.monotonic() - began)
    finally:
        deployment.close()


def _kill_randomly(deployment: Deployment, every: float, limit: float) -> Counter[str]:
    draw = random.Random(0)  # noqa: S311 the same kills in every run
    killed, end = Counter[str](), time.monotonic() + limit
    while time.monotonic() < end:
        with suppress(CheckpointError):
            status = deployment.status
            if status.state is RunState.FINISHED:
                break
            if status.state is RunState.PAUSED:
                killed["resumed"] += _resume(deployment, status.reason)
        time.sleep(draw.uniform(0.5, 1.5) * every)
        owner = draw.choice(["server", *deployment.partners])
        patterns = SERVER_PROCESSES if owner == "server" else NODE_PROCESSES
        pattern = draw.choice(list(patterns.values()))
        if running := deployment.find(owner, pattern):
            with suppress(ProcessLookupError):
                os.kill(draw.choice(running), signal.SIGKILL)
            killed[pattern.replace("\\", "")] += 1
            _log(f"{owner}: {pattern} killed, {_describe(deployment)}")
    return killed


def _resume(deployment: Deployment, reason: str) -> bool:
    """Resume the run as its operator would; return False if the coordinator does not answer."""
    _log(f"paused: {reason}")
    with suppress(RuntimeError):
        deployment.call("server", "resume", RUN, "--server", deployment.server, "--detach")
        return True
    return False


def _describe(deployment: Deployment) -> str:
    with suppress(CheckpointError):
        status = deployment.status
        connected = sum(partner.connected for partner in status.organisations.values())
        return f"{status.state} after round {status.round}, {connected} nodes connected"
    return "no status"


def _log(text: str) -> None:
    sys.stderr.write(f"{now()} {text}\n")
    sys.stderr.flush()


def _print_outcome(deployment: Deployment, killed: Counter[str], seconds: float) -> None:
    status = deployment.status
    partners = {name: _check_partner(deployment, name, status) for name in deployment.partners}
    replies = Counter[str]()
    for organisation in status.organisations.values():
        replies.update(organisation.replies)
    outcome = {
        "state": str(status.state),
        "rounds": status.round,
        "starts": status.starts,
        "missed attempts": status.missed,
        "seconds": round(seconds),
        "killed": dict(killed),
        "replies": dict(replies),
        "partners": partners,
    }
    sys.stdout.write(json.dumps(outcome, indent=1) + "\n")
    if status.state is not RunState.FINISHED:
        raise SystemExit(f"the run is {status.state}: {status.reason}")


def _check_partner(deployment: Deployment, name: str, status: RunStatus) -> dict[str, float]:
    """Compare a partner's ledger with the answers that left it and with those that were used."""
    epsilon, steps = deployment.spent(name)
    ledger = deployment.ledger(name)
    distinct = len({sent.sha256 for sent in ledger.outbox()})
    (release,) = ledger.releases()  # all rounds cost the same
    released = independent_epsilon(release, distinct)
    used = sum(
        entry["outcomes"].get(name) == Outcome.VALID
        for entry in AuditLog(deployment.out / FILE).entries()
        if entry["event"] == AuditEvent.ROUND_FINISHED
    )
    assert epsilon <= EPSILON, f"{name} spent more than its limit"
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
    """Return ε of so many such releases by dp-accounting."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    step = PoissonSampledDpEvent(release.sample_rate, GaussianDpEvent(release.noise_multiplier))
    accountant.compose(step, times)
    return float(accountant.get_epsilon(DELTA))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the link's threads still wait for connections
