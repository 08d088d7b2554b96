"""flower-superexec, with the tokens of its tasks kept out of the process list.

Flower 1.41 starts every task as `flwr-serverapp --token TOKEN ...`, and whoever has an account on
the machine can read the arguments of a process. Whoever holds the token can act as the task: read
what it was sent, answer in its place. Here the token goes through an open file without a name,
with Flower's own `--token-file`.

Run it as `python -m shared.superexec`, with the arguments of `flower-superexec`.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flwr.supercore.cli import flower_superexec
from flwr.supercore.superexec.executor import subprocess_executor

__all__ = ["main"]

_TOKEN = "--token"  # noqa: S105 the option's name


class _Launcher:
    """What Flower's executor uses of `subprocess`."""

    DEVNULL = subprocess.DEVNULL

    @staticmethod
    def Popen(arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401, N802 passed on
        """Starts a task; its token, if it has one, is not among its arguments."""
        given = list(arguments)
        if _TOKEN not in given:
            return subprocess.Popen(given, **options)
        at = given.index(_TOKEN)
        with _unnamed(given[at + 1]) as number:
            given[at : at + 2] = ["--token-file", f"/dev/fd/{number}"]
            return subprocess.Popen(given, pass_fds=(number,), **options)


@contextmanager
def _unnamed(text: str) -> Iterator[int]:
    """The descriptor of an open file with `text` in it, which no path leads to."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file.fileno()


def main() -> None:
    """Runs `flower-superexec`."""
    vars(subprocess_executor)["subprocess"] = _Launcher
    flower_superexec()


if __name__ == "__main__":
    main()
