"""Inject one fault into a federation of real processes, and observe its consequences."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from server.state.audit_log import FILE, AuditEvent, AuditLog
from server.state.status import RunStatus
from shared.errors import CheckpointError
from shared.outcomes import Outcome
from simulations.faults.deployment import Deployment
from simulations.faults.processes import wait_for

__all__ = [
    "PATIENCE",
    "Fault",
    "Observation",
    "finished_rounds",
    "inject",
    "round_seconds",
    "run_status",
    "start_federation",
    "wait_for_reply",
    "wait_for_round",
]

PATIENCE = 600.0
"""Seconds until a wait fails."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: in the printed table.
        cause: causes the fault, reverts it where it does not end by itself, and returns a
            description.
    """

    name: str
    cause: Callable[[Deployment], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """The consequences of a fault.

    Attributes:
        fault: its name.
        description: what exactly happened.
        outcomes: counts of the replies that were not used since then, by outcome.
        resumed: how often the run was started again.
        seconds: from the end of the fault until the next finished round.
        usual: seconds of an undisturbed round.
        lost: finished rounds that were lost, plus charges beyond one a round.
    """

    fault: str
    description: str
    outcomes: dict[str, int]
    resumed: int
    seconds: float
    usual: float
    lost: int


def inject(deployment: Deployment, fault: Fault) -> Observation:
    """Inject a fault, and wait until the next round is finished."""
    wait_for(f"every partner, before: {fault.name}", lambda: _is_undisturbed(deployment), PATIENCE)
    before, usual = run_status(deployment), round_seconds(deployment)
    description = fault.cause(deployment)
    started, at = time.monotonic(), run_status(deployment)
    wait_for_round(deployment, at.round + 1)
    seconds, after = time.monotonic() - started, run_status(deployment)
    return Observation(
        fault=fault.name,
        description=description,
        outcomes=_new_outcomes(before, after),
        resumed=after.starts - before.starts,
        seconds=round(seconds, 1),
        usual=round(usual, 1),
        lost=max(0, before.round - after.round) + _excess_charges(deployment),
    )


def start_federation(
    folder: Path, partners: tuple[str, ...], rounds: int, **settings: object
) -> Deployment:
    """Start a federation, and a run that has reached its second round.

    Args:
        folder: for all files.
        partners: names of organisations.
        rounds: of the run.
        settings: of the section `server`.
    """
    deployment = Deployment(folder, partners)
    try:
        deployment.init_server()
        deployment.up_server()
        for name in partners:
            deployment.init_node(name)
            deployment.join(name)
            deployment.up_node(name)
        deployment.run(rounds, server=settings)
        wait_for_round(deployment, 1)
    except BaseException:
        deployment.close()
        raise
    return deployment


def run_status(deployment: Deployment) -> RunStatus:
    """Return the state of the run, as soon as it can be read."""

    def read() -> RunStatus | None:
        with suppress(CheckpointError):
            return deployment.status
        return None

    status = wait_for("the run's status", read, PATIENCE)
    assert isinstance(status, RunStatus)
    return status


def finished_rounds(deployment: Deployment) -> int:
    """Return the number of the last finished round."""
    return run_status(deployment).round


def wait_for_round(deployment: Deployment, number: int) -> None:
    """Wait until so many rounds are finished."""
    wait_for(f"round {number}", lambda: finished_rounds(deployment) >= number, PATIENCE)


def wait_for_reply(deployment: Deployment, name: str, *, valid: bool) -> None:
    """Wait for a round that begins now in which the partner's reply is used, or is not."""
    number = finished_rounds(deployment)

    def observed() -> bool:
        status = run_status(deployment)
        used = status.organisations[name].outcome == Outcome.VALID
        return status.round > number and used == valid

    wait_for(f"{name}, {valid=}", observed, PATIENCE)


def round_seconds(deployment: Deployment) -> float:
    """Return the seconds of an undisturbed round: the first quartile of all so far."""
    ends = [
        datetime.fromisoformat(str(entry["at"])).timestamp()
        for entry in AuditLog(deployment.out / FILE).entries()
        if entry["event"] == AuditEvent.ROUND_FINISHED
    ]
    durations = [after - before for before, after in pairwise(ends)]
    return statistics.quantiles(durations, n=4)[0] if len(durations) > 1 else sum(durations)


def _is_undisturbed(deployment: Deployment) -> bool:
    """Return whether the last round used every reply and took no longer than usual."""
    status = run_status(deployment)
    organisations = [status.organisations.get(name) for name in deployment.partners]
    all_valid = all(part is not None and part.outcome == Outcome.VALID for part in organisations)
    quick = status.round_seconds <= 2 * round_seconds(deployment)
    return all_valid and quick and status.round > 1


def _excess_charges(deployment: Deployment) -> int:
    """Return the number of charges beyond one for each started round."""
    begun = finished_rounds(deployment) + 1
    return sum(max(0, deployment.spent(name)[1] - begun) for name in deployment.partners)


def _new_outcomes(before: RunStatus, after: RunStatus) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, organisation in after.organisations.items():
        old = before.organisations[name].replies if name in before.organisations else {}
        for outcome, count in organisation.replies.items():
            if outcome != Outcome.VALID and count > old.get(outcome, 0):
                counts[outcome] = counts.get(outcome, 0) + count - old.get(outcome, 0)
    return counts
