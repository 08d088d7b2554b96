"""flower-superexec, with two differences in how it starts its tasks.

- Their tokens stay out of the process list. Flower 1.41 starts every task as `flwr-serverapp
  --token TOKEN ...`, and whoever has an account on the machine can read the arguments of a process.
  Whoever holds the token can act as the task: read what it was sent, answer in its place. Here the
  token goes through an open file without a name, with Flower's own `--token-file`.
- They outlive it. Flower's tasks end when the process of `--parent-pid` is gone, and name their
  executor there: a ServerApp would die with it. Here they watch the executor's own parent, which
  puts a new executor in its place.

Run it as `python -m server.service.superexec`, with the arguments of `flower-superexec`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from server.flower_internals import flower_superexec, replace_task_launcher
from server.runs.flower import without_proxy

__all__ = ["main"]

_TOKEN, _PARENT = "--token", "--parent-pid"


class _Launcher:
    """What Flower's executor uses of `subprocess`."""

    DEVNULL = subprocess.DEVNULL

    @staticmethod
    def Popen(arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401, N802 passed on
        """Start a task that outlives this process; its arguments do not hold its token."""
        given = _outliving(arguments)
        if _TOKEN not in given:
            return subprocess.Popen(given, **options)
        at = given.index(_TOKEN)
        with _unnamed(given[at + 1]) as number:
            given[at : at + 2] = ["--token-file", f"/dev/fd/{number}"]
            return subprocess.Popen(given, pass_fds=(number,), **options)


def _outliving(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with our parent as the process to watch, if we may watch it."""
    given, parent = list(arguments), os.getppid()
    if _PARENT in given:
        at = given.index(_PARENT)
        given[at : at + 2] = [_PARENT, str(parent)] if _visible(parent) else []
    return given


def _visible(process: int) -> bool:
    """Return whether this user can see that the process is alive; Flower takes others' for dead."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


@contextmanager
def _unnamed(text: str) -> Iterator[int]:
    """Return the descriptor of an open file that holds `text` and has no path."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file.fileno()


def main() -> None:
    """Run `flower-superexec`."""
    os.environ |= without_proxy(os.environ)
    replace_task_launcher(_Launcher)
    flower_superexec()


if __name__ == "__main__":
    main()
