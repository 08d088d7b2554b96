"""What somebody who waits for a run is told: a line for each thing that happened."""

from __future__ import annotations

from collections.abc import Iterator

from server.state.status import RunState, RunStatus
from shared.errors import Outcome

__all__ = ["news"]


def news(before: RunStatus | None, status: RunStatus, wanted: int) -> Iterator[str]:
    """What has happened between two looks at a run, in its order.

    Args:
        before: as it was at the last look, perhaps in an earlier start; None before the first.
        status: as it is now.
        wanted: organisations that this start waits for.
    """
    # Who was there, and what it did, an earlier start takes with it; rounds stay.
    same = before if before and before.starts == status.starts else None
    known = same.organisations if same else {}
    there = {name for name, one in status.organisations.items() if one.connected}
    if _has_become(RunState.WAITING, same, status):
        yield f"waiting for {wanted} organisations; `sotto-server list` says whose node is there"
    for name in sorted(there):
        if name not in known or not known[name].connected:
            yield f"{name} is there"
    for name in sorted(name for name, one in known.items() if one.connected and name not in there):
        yield f"{name} is gone"
    if _has_become(RunState.RUNNING, same, status) and not status.round:
        yield f"it begins, with {len(there)} organisations"
    if status.round > (before.round if before else 0):
        valid = sum(one.outcome == Outcome.VALID for one in status.organisations.values())
        yield (
            f"round {status.round} of {status.rounds}: {valid} valid replies of "
            f"{len(status.organisations)}, {status.round_seconds:.1f} s"
        )
    if status.state is RunState.RETRYING and status.reason != (same.reason if same else ""):
        yield f"{status.reason}: it tries again"


def _has_become(state: RunState, before: RunStatus | None, status: RunStatus) -> bool:
    return status.state is state and (before is None or before.state is not state)
