"""Lets one thing go wrong in a federation of real processes, and looks what came of it."""

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
from shared.errors import CheckpointError, Outcome
from simulations.faults.deployment import Deployment, wait_for

__all__ = [
    "PATIENCE",
    "Fault",
    "Seen",
    "round_of",
    "started",
    "status_of",
    "suffer",
    "usual_seconds",
    "wait_for_round",
]

PATIENCE = 600.0


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: for people.
        happen: does it, undoes it where it does not end by itself, and tells what was seen.
    """

    name: str
    happen: Callable[[Deployment], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What came of a fault.

    Attributes:
        fault: its name.
        told: what it did.
        outcomes: of the replies that did not count since then.
        resumed: how often the run was started anew.
        seconds: from the fault, or from its end, until the next finished round.
        usual: seconds of a round that nothing disturbs.
        lost: rounds that were finished and are no more; charges beyond one for each round.
    """

    fault: str
    told: str
    outcomes: dict[str, int]
    resumed: int
    seconds: float
    usual: float
    lost: int


def suffer(deployment: Deployment, fault: Fault) -> Seen:
    """Lets a fault happen, and waits until a round is finished again."""
    wait_for(f"everybody, before: {fault.name}", lambda: _settled(deployment), PATIENCE)
    before, usual = status_of(deployment), usual_seconds(deployment)
    told = fault.happen(deployment)
    since, at = time.monotonic(), status_of(deployment)
    wait_for(f"a round after: {fault.name}", lambda: round_of(deployment) > at.round, PATIENCE)
    seconds, after = time.monotonic() - since, status_of(deployment)
    return Seen(
        fault=fault.name,
        told=told,
        outcomes=_difference(before, after),
        resumed=after.starts - before.starts,
        seconds=round(seconds, 1),
        usual=round(usual, 1),
        lost=max(0, before.round - after.round) + _overcharged(deployment),
    )


def started(folder: Path, partners: tuple[str, ...], rounds: int, **settings: object) -> Deployment:
    """A federation with a run in its second round; settings are of the section `server`."""
    deployment = Deployment(folder, partners)
    try:
        deployment.init_server()
        deployment.up_server()
        for name in partners:
            deployment.init_node(name)
            deployment.join(name)
            deployment.up_node(name)
        deployment.run(rounds, **settings)
        wait_for_round(deployment, 1)
    except BaseException:
        deployment.close()
        raise
    return deployment


def status_of(deployment: Deployment) -> RunStatus:
    """How the run stands, once it can be read."""

    def read() -> RunStatus | None:
        with suppress(CheckpointError):
            return deployment.status
        return None

    status = wait_for("the run's status", read, PATIENCE)
    assert isinstance(status, RunStatus)
    return status


def round_of(deployment: Deployment) -> int:
    """The last finished round."""
    return status_of(deployment).round


def wait_for_round(deployment: Deployment, number: int) -> None:
    """Waits until so many rounds are finished."""
    wait_for(f"round {number}", lambda: round_of(deployment) >= number, PATIENCE)


def usual_seconds(deployment: Deployment) -> float:
    """What a round takes that nothing disturbs: the first quartile of all so far."""
    ends = [
        datetime.fromisoformat(str(entry["at"])).timestamp()
        for entry in AuditLog(deployment.out / FILE).entries()
        if entry["event"] == AuditEvent.ROUND_FINISHED
    ]
    took = [after - before for before, after in pairwise(ends)]
    return statistics.quantiles(took, n=4)[0] if len(took) > 1 else sum(took)


def _settled(deployment: Deployment) -> bool:
    """Whether everybody's reply counted in the last round, and that took no longer than usual."""
    status = status_of(deployment)
    organisations = [status.organisations.get(name) for name in deployment.partners]
    everybody = all(part is not None and part.outcome == Outcome.VALID for part in organisations)
    quick = status.round_seconds <= 2 * usual_seconds(deployment)
    return everybody and quick and status.round > 1


def _overcharged(deployment: Deployment) -> int:
    """Charges beyond one for each round that was begun."""
    begun = round_of(deployment) + 1
    return sum(max(0, deployment.spent(name)[1] - begun) for name in deployment.partners)


def _difference(before: RunStatus, after: RunStatus) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, organisation in after.organisations.items():
        old = before.organisations[name].replies if name in before.organisations else {}
        for outcome, count in organisation.replies.items():
            if outcome != Outcome.VALID and count > old.get(outcome, 0):
                found[outcome] = found.get(outcome, 0) + count - old.get(outcome, 0)
    return found
