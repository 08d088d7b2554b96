"""Kills a process before each system call of a durable write, and shows what is left.

    python crash_driver.py FOLDER

Prints one JSON object a kill: the operation, the call, what the folder holds after the kill, and
what it holds after the operation was tried again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.system.files import (
    append_durably,
    atomic_replacement,
    create_atomically,
    open_locked,
    write_atomically,
)

OLD, NEW = b"old\n" * 5000, b"new\n" * 9000


def _append(file: Path) -> None:
    with open_locked(file) as opened:
        append_durably(opened, NEW, end=len(OLD))


def _replace(file: Path) -> None:
    with atomic_replacement(file) as new:
        new.write_bytes(NEW)


def _create(file: Path) -> None:
    if not file.exists():
        create_atomically(file, NEW)


OPERATIONS: dict[str, tuple[Callable[[Path], None], bytes | None]] = {
    "write": (lambda file: write_atomically(file, NEW), OLD),
    "first write": (lambda file: write_atomically(file, NEW), None),
    "create": (_create, None),
    "replacement": (_replace, OLD),
    "append": (_append, OLD),
}
CALLS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (os, "link"),
    (os, "open"),
    (os, "replace"),
    (os, "unlink"),
    (os, "rename"),
    (os, "close"),
    (fcntl, "flock"),
)


def die_before(number: int) -> None:
    """Arms the process: it kills itself instead of the n-th of `CALLS`, whichever that is."""
    left = number

    def arm(owner: Any, name: str) -> None:  # noqa: ANN401
        call = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            nonlocal left
            left -= 1
            if not left:
                os.write(1, f"{name}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        setattr(owner, name, counted)

    for owner, name in CALLS:
        arm(owner, name)


def held(folder: Path) -> dict[str, str]:
    """The folder's files, by name, with "old", "new" or their size."""
    known = {OLD: "old", NEW: "new", OLD + NEW: "old+new"}
    return {
        file.name: known.get(content := file.read_bytes(), str(len(content)))
        for file in sorted(folder.iterdir())
    }


def main() -> None:
    """Kills every operation before each of its calls, and tries it again."""
    for operation, (run, before) in OPERATIONS.items():
        number, finished = 0, False
        while not finished:
            number += 1
            folder = Path(sys.argv[1], f"{operation}-{number}")
            folder.mkdir()
            file = folder / "file"
            if before is not None:
                file.write_bytes(before)
            child = os.fork()
            if not child:
                die_before(number)
                run(file)
                os._exit(0)
            finished = os.waitpid(child, 0)[1] == 0
            after_kill = held(folder)
            run(file)
            report = {
                "operation": operation,
                "number": number,
                "finished": finished,
                "after_kill": after_kill,
                "after_retry": held(folder),
            }
            print(json.dumps(report), flush=True)  # noqa: T201
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
