"""The lock of a site's node: one site has one node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import SiteError
from shared.system.locks import inheritable_lock, is_locked

__all__ = ["lock_node", "node_is_running"]

LOCK = "node.lock"


@contextmanager
def lock_node(folder: Path) -> Iterator[int]:
    """Hold the site's lock; yield its descriptor, so that child processes can hold it, too.

    The lock is free when the last process that holds it has ended.

    Raises:
        SiteError: another node of this site holds it.
    """

    def conflict(holder: str) -> SiteError:
        return SiteError(
            f"{folder}: a node of this site is running already (process {holder}). One site has "
            "one node: stop that one first."
        )

    with inheritable_lock(folder / LOCK, conflict) as handle:
        yield handle


def node_is_running(folder: Path) -> bool:
    """Return whether a node of this site holds its lock. Nothing is written."""
    return is_locked(folder / LOCK)
