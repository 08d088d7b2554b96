"""The lock of a run's output folder: one coordinator at a time works in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shared.errors import CheckpointError
from shared.system.locks import exclusive_lock, is_locked

__all__ = ["coordinator_lock", "is_at_work"]

_LOCK = "coordinator.lock"


@contextmanager
def coordinator_lock(folder: Path) -> Iterator[None]:
    """Keep other coordinators out of `folder`; the system ends that with the process.

    Raises:
        CheckpointError: another one is at work there, or the folder cannot be written.
    """

    def conflict(holder: str) -> CheckpointError:
        return CheckpointError(
            f"another coordinator (process {holder}) is at work in {folder}: wait for it, or stop "
            "it first."
        )

    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(folder / _LOCK, conflict))
        except OSError as error:
            raise CheckpointError(
                f"{folder} cannot be written ({error.strerror}): correct its permissions, or name "
                "another folder as paths.out."
            ) from error
        yield


def is_at_work(folder: Path) -> bool:
    """Return whether a coordinator is at work in `folder`."""
    return is_locked(folder / _LOCK)
