"""`sotto-node serve` as a process that is killed at random requests, and started again.

As a service manager with `Restart=always` does, the process is started again at the same addresses
whenever it ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["KilledService", "sotto_node"]

_COMMAND = (sys.executable, "-P", "-c", "from client.cli import main; main()")
_ROOT = Path(__file__).parents[3]
_LONGEST_DELAY = 0.03
"""Seconds after a request begins, at most, until the process is killed."""


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}


def sotto_node(*words: object) -> str:
    """Run a command of a partner, and return what it prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [*_COMMAND, *map(str, words)]
    done = subprocess.run(
        command, env=_environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


class KilledService:
    """The process, as a context.

    Args:
        site: folder of the site.
        published: the folder that is served.
        log: file for what the processes write.
        kills: numbers of the requests at which the process is killed, increasing.
        delays: seconds from such a request's begin to the kill, in [0, 1), one a kill; they are
            scaled to a few milliseconds.
    """

    def __init__(
        self,
        site: Path,
        published: Path,
        log: Path,
        kills: Sequence[int],
        delays: Sequence[float],
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        words = ["serve", published, "--site", site, "--json", "--grpc", self.address]
        self._command = [*_COMMAND, *map(str, words), "--http", "none"]
        self._log, self._due = log, list(zip(kills, delays, strict=True))
        self._lock, self._ending = threading.Lock(), threading.Event()
        self._up, self._killing = threading.Event(), threading.Lock()
        self._timers: list[threading.Timer] = []
        self._requests, self.killed, self.starts = 0, 0, 0
        self.down_seconds = 0.0

    def __enter__(self) -> Self:
        """Start it, and wait until it answers."""
        self._start()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it as an operator does.

        Raises:
            RuntimeError: it does not end with code 0.
        """
        for timer in self._timers:
            timer.join()
        self._up.wait()
        self._ending.set()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._watcher.join()
        if kind is None and code:
            raise RuntimeError(f"the service ended with code {code}: {self._log}")

    def count_request(self) -> None:
        """Count a request that begins now; kill the process soon if it is this one's turn."""
        with self._lock:
            self._requests += 1
            if self._due and self._requests >= self._due[0][0]:
                _, delay = self._due.pop(0)
                self._timers.append(threading.Timer(delay * _LONGEST_DELAY, self._kill))
                self._timers[-1].start()

    @property
    def requests(self) -> int:
        """How many requests were begun, however often each was sent."""
        return self._requests

    def _kill(self) -> None:
        with self._killing:
            self._up.wait()
            self._up.clear()
            self._process.send_signal(signal.SIGKILL)
            self.killed += 1

    def _start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, env=_environment(), stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                break
            with self._log.open("a") as log:
                log.write(f"on stdout: {line!r}\n")
        else:
            raise RuntimeError(f"the service did not start: {self._log}")
        self.starts += 1
        self._up.set()

    def _watch(self) -> None:
        while True:
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            if self._ending.is_set():
                return
            begin = time.monotonic()
            self._start()
            self.down_seconds += time.monotonic() - begin
