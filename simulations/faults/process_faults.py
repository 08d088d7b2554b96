"""Faults of processes and of the network: kills, a cut link, a node that is away."""

from __future__ import annotations

import time
from collections.abc import Callable

from simulations.faults.deployment import Deployment
from simulations.faults.injection import finished_rounds, round_seconds, wait_for_round

__all__ = ["cut_network", "kill_coordinator", "kill_during_round", "stop_node"]


def kill_during_round(owner: str, pattern: str, share: float) -> Callable[[Deployment], str]:
    """Return a fault: kill processes of `owner` after this share of a round.

    Args:
        owner: the coordinator ("server") or a partner.
        pattern: of the command line.
        share: in (0, 1).
    """

    def cause(deployment: Deployment) -> str:
        seconds = share * round_seconds(deployment)
        started = finished_rounds(deployment) + 1
        wait_for_round(deployment, started)
        time.sleep(seconds)
        killed = deployment.kill(owner, pattern)
        # A ServerApp that outlived its executor does not descend from `owner` any more.
        assert killed, "no such process was running: run this fault by itself (--only)"
        late = "" if finished_rounds(deployment) == started else ", after its end"
        return f"{len(killed)} killed {seconds:.1f} s into round {started + 1}{late}"

    return cause


def kill_coordinator(deployment: Deployment) -> str:
    """Kill all of the coordinator's processes at once, and start it again."""
    killed = deployment.kill("server", r".")
    deployment.processes["server"].kill()
    deployment.processes["server"].join()
    deployment.up_server()
    return f"{len(killed) + 1} killed; started again"


def cut_network(deployment: Deployment) -> str:
    """Cut every connection to the coordinator for 90 s."""
    with deployment.link.cut():
        time.sleep(90)
    return "no connection for 90 s"


def stop_node(deployment: Deployment) -> str:
    """Stop one node for two rounds."""
    deployment.down("beta")
    wait_for_round(deployment, finished_rounds(deployment) + 2)
    deployment.up_node("beta")
    return "stopped, and started two rounds later"
