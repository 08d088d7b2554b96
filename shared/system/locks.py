"""Locks between processes. Only `shared.system.files` locks files besides.

| to                                                    | use                            |
|-------------------------------------------------------|--------------------------------|
| let one process at a time do something                | `exclusive_lock`               |
| hold a lock until this process and its children ended | `inheritable_lock`             |
| lock a folder, without a lock file that can be lost   | `folder_lock`                  |
| append to a file in turns                             | `shared.system.files`          |
| see whether a process holds a lock                    | `is_locked`                    |
| test a file system for locks                          | `locks_exclude`                |

All locks are the system's (flock): the system frees them when the last process that has the file
open ends, in whatever way it ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import SottoError

__all__ = [
    "exclusive_lock",
    "folder_lock",
    "inheritable_lock",
    "is_locked",
    "locks_exclude",
    "try_flock",
]

_OWNER_ONLY = 0o600
_GRACE, _BETWEEN = 0.2, 0.05
"""Seconds. `is_locked` holds a free lock for an instant, which must not count as a conflict."""

Conflict = Callable[[str], SottoError]
"""Makes the error for a lock that is taken, from the process number of its holder."""


@contextmanager
def exclusive_lock(
    file: Path, on_conflict: Conflict, *, patience: float = _GRACE
) -> Iterator[None]:
    """Hold a lock file that no other process or thread holds. Children do not inherit it.

    Args:
        file: created if it does not exist, with its folder; it stays.
        on_conflict: makes the error if another holder has it.
        patience: seconds to wait for that holder.

    Raises:
        SottoError: what `on_conflict` made.
        OSError: the file cannot be opened, or its file system has no locks.
    """
    # Imported late: a ClientApp's process takes no such lock, and must start fast.
    from filelock import FileLock, Timeout  # noqa: PLC0415

    lock = FileLock(
        file,
        timeout=patience,
        mode=_OWNER_ONLY,
        poll_interval=_BETWEEN,
        fallback_to_soft=False,  # a lock that outlives its holder would have to be removed by hand
        on_acquired=_write_holder,
    )
    try:
        lock.acquire()
    except Timeout:
        raise on_conflict(_holder_of(file)) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def inheritable_lock(file: Path, on_conflict: Conflict) -> Iterator[int]:
    """Hold a lock file and yield its descriptor; a child that inherits it holds the lock, too.

    The descriptor is closed at the end, never unlocked: that would free the children's lock, too.

    Args:
        file: created if it does not exist; it stays.
        on_conflict: makes the error if another process has it.

    Raises:
        SottoError: what `on_conflict` made.
        OSError: the file cannot be opened.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
    try:
        if not _wait_for_flock(handle, _GRACE, _BETWEEN):
            raise on_conflict(_holder_of(file))
        _write_holder(handle)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def folder_lock(
    folder: Path, on_conflict: Callable[[], SottoError], *, patience: float
) -> Iterator[None]:
    """Hold a lock on the folder itself, which nobody can delete while it holds files.

    Args:
        folder: must exist.
        on_conflict: makes the error if another process or thread has it.
        patience: seconds to wait for that one.

    Raises:
        SottoError: what `on_conflict` made.
        OSError: the folder cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _wait_for_flock(handle, patience, between=0.002):
            raise on_conflict()
        yield
    finally:
        os.close(handle)


def is_locked(file: Path) -> bool:
    """Return whether a process holds the lock file `file`."""
    try:
        handle = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        return not try_flock(handle)
    finally:
        os.close(handle)


def locks_exclude(folder: Path) -> bool:
    """Return whether a lock on a file in `folder` keeps out a second holder.

    Raises:
        OSError: no file can be written, synced and locked there.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-") as first:
        first.write(b"sotto")
        first.flush()
        os.fsync(first.fileno())
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with Path(first.name).open("rb") as second:
            return not try_flock(second.fileno())


def _wait_for_flock(handle: int, patience: float, between: float) -> bool:
    end = time.monotonic() + patience
    while not try_flock(handle):
        if time.monotonic() > end:
            return False
        time.sleep(between)
    return True


def try_flock(handle: int) -> bool:
    """Lock an open file unless another process or thread has; return whether it is locked now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_holder(handle: int) -> None:
    with suppress(OSError):  # a full disk: the number is only shown
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)


def _holder_of(file: Path) -> str:
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(20).decode("ascii", "replace").strip() or "unknown"
    return "unknown"
