"""Describe what has happened in a run, one line an event, for the terminal that follows it."""

from __future__ import annotations

from collections.abc import Iterator

from server.state.status import RunState, RunStatus
from shared.outcomes import Outcome

__all__ = ["describe_changes"]


def describe_changes(before: RunStatus | None, status: RunStatus, needed: int) -> Iterator[str]:
    """Yield what has happened between two looks at a run, in order.

    Args:
        before: status at the last look, perhaps of an earlier start; None before the first.
        status: status now.
        needed: organisations that must be connected before this start begins.
    """
    # Connections and attempts belong to one start; rounds belong to the run.
    same = before if before and _start_of(before) == _start_of(status) else None
    parts = same.organisations if same else {}
    connected = {name for name, part in status.organisations.items() if part.connected}
    if _enters(RunState.WAITING, same, status):
        yield (
            f"waiting until {needed} organisations are connected; `sotto-server list` shows which "
            "are"
        )
    for name in sorted(connected):
        if name not in parts or not parts[name].connected:
            yield f"{name} is connected"
    for name, part in sorted(parts.items()):
        if part.connected and name not in connected:
            yield f"{name} is disconnected"
    refused = same.declined if same else {}
    for name, reason in sorted(status.declined.items()):
        if refused.get(name) != reason:
            yield f"{name} cannot take part: {reason}"
    if _enters(RunState.RUNNING, same, status) and not status.round:
        yield f"the run begins with {len(connected)} organisations"
    yield from list(status.warm_start)[len(same.warm_start) if same else 0 :]
    if status.round > (before.round if before else 0):
        valid = sum(part.outcome == Outcome.VALID for part in status.organisations.values())
        yield (
            f"round {status.round} of {status.rounds}: {valid} valid replies of "
            f"{len(status.organisations)}, {status.round_seconds:.1f} s"
        )
    if status.state is RunState.RETRYING and status.reason != (same.reason if same else ""):
        yield f"{status.reason}; trying again"


def _start_of(status: RunStatus) -> tuple[str, int]:
    """Return which start it is: a run that paused before its first request gets another name."""
    return status.run, status.starts


def _enters(state: RunState, before: RunStatus | None, status: RunStatus) -> bool:
    return status.state is state and (before is None or before.state is not state)
