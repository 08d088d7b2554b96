"""Durable writes. No other module syncs a file or replaces one.

| to                                                    | use                            |
|-------------------------------------------------------|--------------------------------|
| replace a file in one step                            | `write_atomically`             |
| create a file in one step, never replacing one        | `create_atomically`            |
| replace a file that a library writes                  | `atomic_replacement`           |
| move a finished file or folder to its place           | `move_durably`                 |
| append to a file in turns                             | `open_locked`, `append_durably`|

Locks that guard something else than one file's content are in `shared.system.locks`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from shared.system.locks import try_flock

__all__ = [
    "PRIVATE",
    "UMASK",
    "append_durably",
    "atomic_replacement",
    "create_atomically",
    "move_durably",
    "open_locked",
    "write_atomically",
]

PRIVATE, UMASK = 0o600, 0o666
"""Permissions of new files: the owner's alone, or what the process's umask leaves."""


def write_atomically(
    file: Path,
    content: bytes,
    *,
    mode: int = PRIVATE,
    keep_owner: bool = False,
    keep_access: bool = False,
) -> None:
    """Replace a file durably in one step. A crash leaves the old content or the new, never a part.

    What a killed process left of an earlier attempt is removed first, for it takes room.

    Args:
        file: need not exist; its folder must.
        content: all of it.
        mode: its permissions, less the umask.
        keep_owner: whether a file that root replaces stays its owner's.
        keep_access: whether owner, group and permissions are those of the file that is replaced,
            which must be there, whoever replaces it.

    Raises:
        OSError: it cannot be written, or not with that owner and group; `file` is as it was.
    """
    _remove_leftovers(file)
    with _written_beside(file, content, mode) as new:
        if keep_owner and os.geteuid() == 0 and file.exists():
            status = file.stat()
            os.chown(new, status.st_uid, status.st_gid)
        if keep_access:
            status = file.stat()
            os.chown(new, status.st_uid, status.st_gid)
            new.chmod(status.st_mode & 0o777)
        new.replace(file)
    _sync(file.parent)


def create_atomically(file: Path, content: bytes) -> None:
    """Create a file durably in one step, readable by the owner alone.

    Raises:
        FileExistsError: there is one, which stays as it is.
        OSError: it cannot be written; there is none.
    """
    with _written_beside(file, content, PRIVATE) as new:
        os.link(new, file)  # the one step that fails where the name is taken
        new.unlink()
    _sync(file.parent)


@contextmanager
def atomic_replacement(file: Path) -> Iterator[Path]:
    """Yield a path beside `file` for a library to write; it replaces `file` if the block succeeds.

    Raises:
        OSError: it cannot be synced or moved; `file` is as it was.
    """
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        yield new
        _sync(new)
        move_durably(new, file)
    finally:
        new.unlink(missing_ok=True)


def move_durably(new: Path, target: Path) -> None:
    """Move a file or a folder to its place in the same folder; a file there is replaced.

    Raises:
        OSError: it cannot be moved.
    """
    new.replace(target)
    _sync(target.parent)


@contextmanager
def open_locked(file: Path) -> Iterator[IO[bytes]]:
    """Open a file to read and append; wait while another process has it open this way.

    Args:
        file: created if it does not exist, for its owner alone, and its folder too.

    Raises:
        OSError: it cannot be opened.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    is_new = not file.exists()
    handle = os.open(file, os.O_RDWR | os.O_CREAT, PRIVATE)
    with os.fdopen(handle, "r+b", buffering=0) as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        if is_new:
            _sync(file.parent)
        yield opened


def append_durably(file: IO[bytes], content: bytes, *, end: int) -> None:
    """Cut a file after `end` bytes and append; on failure leave those bytes alone.

    Args:
        file: unbuffered, as `open_locked` yields it.
        content: on disk when this returns.
        end: how many bytes stay.

    Raises:
        OSError: it cannot be written.
    """
    file.truncate(end)
    file.seek(end)
    try:
        while content:  # a disk that is nearly full takes a part, and refuses the next one
            content = content[file.write(content) :]
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(end)
        raise


@contextmanager
def _written_beside(file: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Yield a new, synced file beside `file`, and remove it where it was not moved away."""
    new, handle = _open_beside(file, mode)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(handle)
            yield new
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def _open_beside(file: Path, mode: int) -> tuple[Path, int]:
    """Create a file beside `file`, locked so that `_remove_leftovers` leaves it alone."""
    while True:
        new = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with suppress(OSError):  # a file system without locks keeps its leftovers
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return new, handle
        os.close(handle)  # removed as a leftover before it was locked


def _remove_leftovers(file: Path) -> None:
    """Remove the temporary files of `file` whose writers were killed."""
    with suppress(OSError):  # a folder that may be entered and not listed
        for leftover in file.parent.iterdir():
            if leftover.name.startswith(f".{file.name}.") and leftover.name.endswith(".new"):
                with suppress(OSError):  # another user's, or just moved to its place
                    _remove_unlocked(leftover)


def _remove_unlocked(file: Path) -> None:
    # Whoever may write to the folder may have put a pipe or a link there.
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if try_flock(handle):
            file.unlink()
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    """Sync a file, or a folder: what files it holds, by which names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
