"""A file that one process holds at a time.

The lock is the system's own (flock): it ends with the last process that has the file open, however
that ends, and nothing is left to tidy up.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import SottoError

__all__ = ["alone", "in_use"]

_TRIES, _BETWEEN = 5, 0.05
"""`in_use` holds a free lock for an instant, which must not look like another process's work."""


@contextmanager
def alone(file: Path, taken: Callable[[str], SottoError]) -> Iterator[int]:
    """Holds `file`; gives its descriptor, so that children can hold it too.

    Args:
        file: made where it is not there yet.
        taken: makes the error for where another process holds it, from that one's number.

    Raises:
        SottoError: what `taken` made.
        OSError: the file cannot be opened.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _held(handle):
            raise taken(os.read(handle, 20).decode("ascii", "replace").strip() or "unknown")
        with suppress(OSError):  # a full disk: the number is for people
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
        yield handle
    finally:
        os.close(handle)


def in_use(file: Path) -> bool:
    """Whether a process holds `file`."""
    try:
        handle = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _locked(handle)
    finally:
        os.close(handle)


def _held(handle: int) -> bool:
    for _ in range(_TRIES - 1):
        if _locked(handle):
            return True
        time.sleep(_BETWEEN)
    return _locked(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
