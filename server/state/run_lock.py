"""Files that are whole at any moment, and a folder that one process works in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from shared.errors import CheckpointError
from shared.system.files import alone, in_use

__all__ = ["alone_in", "at_work", "replace_file"]

_LOCK = "coordinator.lock"


def replace_file(file: Path, content: bytes) -> None:
    """Puts `content` in the place of what `file` held; a crash leaves the one or the other.

    Raises:
        OSError: it cannot be written; `file` is as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.new")
    try:
        with temporary.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    except OSError:
        with suppress(OSError):  # half of it would take the room that the next attempt needs
            temporary.unlink(missing_ok=True)
        raise
    _sync(file.parent)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other coordinators out of `folder`; the system ends that with the process.

    Raises:
        CheckpointError: another one is at work there, or the folder cannot be written.
    """

    def taken(holder: str) -> CheckpointError:
        return CheckpointError(
            f"another coordinator (process {holder}) is at work in {folder}: wait for it, or stop "
            "it first."
        )

    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(folder / _LOCK, taken))
        except OSError as error:
            raise CheckpointError(
                f"{folder} cannot be written ({error.strerror}): mend its permissions, or name "
                "another folder as paths.out."
            ) from error
        yield


def at_work(folder: Path) -> bool:
    """Whether a coordinator is at work in `folder`."""
    return in_use(folder / _LOCK)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
