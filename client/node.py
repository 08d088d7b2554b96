"""Keeps one SuperNode running for a site, and ends it cleanly.

| what happens                                    | what follows                                 |
|-------------------------------------------------|----------------------------------------------|
| SIGTERM or SIGINT                               | the SuperNode ends, then this; 0             |
| the SuperNode ends, or dies                     | started again after 10 s, then 20, up to 300 |
| it ran for ten minutes before                   | the wait is 10 s again                       |
| it does not understand its arguments            | an error                                     |
| ten starts in a row without a minute's life     | an error                                     |
| this process is killed                          | the SuperNode ends too (Linux)               |
| another node of the site runs                   | an error                                     |

Flower refuses a node whose last lease has not ended; 10 s is the least that makes sense. It ends
with 1 for every reason of its own, also where the key is not registered: the reason stands in what
it says.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.logs import Event, note
from client.site import Site
from client.supernode import command, environment
from shared.errors import SiteError

__all__ = ["Patience", "keep_running", "only_node"]

LOCK = "node.lock"
_POLL = 0.1
_USAGE = 2  # argparse
# Linux ends a process so started (PR_SET_PDEATHSIG) when the one that started it is killed.
_TIE = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
_TIED = (sys.executable, "-c", _TIE) if sys.platform.startswith("linux") else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds.

    Attributes:
        first: before the first new start.
        longest: before any new start.
        settled: after this long a run, the wait is `first` again.
        brief: a run shorter than this counts as a failed start.
        starts: failed starts in a row before giving up.
        end: for a process that was asked to end.
    """

    first: float = 10.0
    longest: float = 300.0
    settled: float = 600.0
    brief: float = 60.0
    starts: int = 10
    end: float = 15.0


_PATIENCE = Patience()


@contextmanager
def only_node(folder: Path) -> Iterator[int]:
    """Holds the site's lock; gives its descriptor, so that a child can hold it too.

    The lock ends with the last process that has it open, however that ends.

    Raises:
        SiteError: another node of this site has it.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
            raise SiteError(
                f"{folder}: a node of this site is running already (process {holder}). One site "
                "has one node: end that one first."
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield handle
    finally:
        os.close(handle)


def keep_running(site: Site, lock: int, patience: Patience = _PATIENCE) -> None:
    """Runs the site's SuperNode until a signal to end comes.

    Args:
        site: whose node it is.
        lock: what `only_node` gave.
        patience: waits and limits.

    Raises:
        SiteError: it cannot go on.
    """
    supervisor = _Supervisor(site=site, lock=lock, patience=patience)
    with _on_signals(supervisor.stop.set):
        supervisor.run()


@dataclass(slots=True)
class _Supervisor:
    site: Site
    lock: int
    patience: Patience
    stop: threading.Event = field(default_factory=threading.Event)
    _wait: float = 0.0
    _failed: int = 0

    def run(self) -> None:
        note(Event.STARTED, organisation=self.site.organisation)
        while not self.stop.is_set():
            began = time.monotonic()
            code = self._run_once()
            if self.stop.is_set():
                break
            self._judge(code, time.monotonic() - began)
            note(Event.RESTARTING, code=str(code), seconds=self._wait)
            self.stop.wait(self._wait)
        note(Event.STOPPED, organisation=self.site.organisation)

    def _run_once(self) -> int:
        self.site.flower_home.mkdir(mode=0o700, parents=True, exist_ok=True)
        child = subprocess.Popen(
            [*_TIED, *command(self.site)],
            env=environment(self.site),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(self.lock,),
        )
        try:
            while child.poll() is None and not self.stop.wait(_POLL):
                pass
        finally:
            _end(child, self.patience.end)
        return child.returncode

    def _judge(self, code: int, seconds: float) -> None:
        """Whether to try again, and when.

        Raises:
            SiteError: there is no use in it.
        """
        if code == _USAGE:
            raise SiteError(
                "the SuperNode does not understand its arguments: this app and Flower do not fit. "
                "Install Sotto again."
            )
        self._failed = self._failed + 1 if seconds < self.patience.brief else 0
        if self._failed >= self.patience.starts:
            raise SiteError(
                f"the SuperNode ended with {code}, and {self._failed} starts in a row came to "
                "nothing: see what it said above, run `sotto-node check`, and ask the coordinator "
                "whether this node's key is registered."
            )
        settled = seconds >= self.patience.settled
        self._wait = self.patience.first if settled or not self._wait else 2 * self._wait
        self._wait = min(self._wait, self.patience.longest)


def _end(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Asks the child to end, and leaves nothing of its process group."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.signal(kind, lambda *_: act()) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
