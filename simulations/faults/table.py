"""How a federation of real processes reacts to kills, cut links, false replies and full disks.

    python -m simulations.faults.table FOLDER [--only WORD ...] [--list]

Prints a line of JSON for each fault: the observation, what was lost, and the seconds until the next
finished round. Linux; a minute or more for each. The full disk is a tmpfs, which takes root to
mount.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from server.state.status import RunState
from shared.errors import SottoError
from simulations.faults.admission_faults import (
    request_forbidden_paths,
    revoke_key,
    start_unregistered_node,
)
from simulations.faults.certificate_faults import expire_certificate
from simulations.faults.deployment import EPSILON, Deployment
from simulations.faults.false_replies import FALSE_REPLIES
from simulations.faults.injection import Fault, inject, run_status, start_federation
from simulations.faults.node_faults import change_bundle, fill_disk, send_false_replies
from simulations.faults.process_faults import (
    cut_network,
    kill_coordinator,
    kill_during_round,
    stop_node,
)
from simulations.faults.processes import NODE_PROCESSES, SERVER_PROCESSES

__all__ = ["faults"]

PARTNERS = ("alpha", "beta", "gamma")
ROUNDS = 400


def faults() -> list[Fault]:
    """Return every fault; the last ones exclude a node for good."""
    kills = []
    for share in (0.2, 0.7):
        when = f"at {share:.0%} of a round"
        for name, pattern in NODE_PROCESSES.items():
            kills.append(Fault(f"{name} killed {when}", kill_during_round("alpha", pattern, share)))
        for name, pattern in SERVER_PROCESSES.items():
            kill = kill_during_round("server", pattern, share)
            kills.append(Fault(f"{name} killed {when}", kill))
    return [
        *kills,
        *(Fault(f"a node that answers {kind}", send_false_replies(kind)) for kind in FALSE_REPLIES),
        Fault("the coordinator's whole machine killed", kill_coordinator),
        Fault("network cut for 90 s", cut_network),
        Fault("one node away for two rounds", stop_node),
        Fault("a request to a path that partners may not reach", request_forbidden_paths),
        Fault("an unregistered node", start_unregistered_node),
        Fault("a bundle changed by one byte at a node", change_bundle),
        Fault("a full disk at a node", fill_disk),
        Fault("an expired certificate", expire_certificate),
        Fault("a revoked key", revoke_key),
    ]


def main() -> None:
    """Inject the chosen faults in turn, and print the observations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        help="faults whose name contains a word, in the order of the words",
    )
    parser.add_argument("--list", action="store_true", help="print the names, and inject nothing")
    arguments = parser.parse_args()
    chosen = [fault for word in arguments.only for fault in faults() if word in fault.name]
    if arguments.list or not chosen:
        sys.stdout.writelines(f"{fault.name}\n" for fault in chosen or faults())
        return
    deployment = start_federation(arguments.folder, PARTNERS, ROUNDS)
    try:
        failed = [fault.name for fault in chosen if not _inject(deployment, fault)]
        state = run_status(deployment).state
        spent = {name: deployment.spent(name) for name in PARTNERS}
        assert all(epsilon <= EPSILON for epsilon, _ in spent.values())
        _print({"state": str(state), "spent": spent})
        assert state in (RunState.RUNNING, RunState.RETRYING)
    finally:
        deployment.close()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _inject(deployment: Deployment, fault: Fault) -> bool:
    """Inject a fault and print the observation; a failure does not stop the other faults."""
    try:
        _print(dataclasses.asdict(inject(deployment, fault)))
    except (AssertionError, TimeoutError, RuntimeError, SottoError) as error:
        _print({"fault": fault.name, "failed": f"{type(error).__name__}: {error}"})
        return False
    return True


def _print(row: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the link's threads still wait for connections
