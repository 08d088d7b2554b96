"""Keep programs running, each in a process of its own, and stop them together.

| what happens                                | what follows                                       |
|---------------------------------------------|----------------------------------------------------|
| SIGTERM or SIGINT                           | all end, then this returns                         |
| a program ends, or dies                     | started again after `first` s, then twice that ... |
| it ran for `settled` s before               | the wait is `first` again                          |
| it exits with 2: bad arguments              | an error                                           |
| `starts` short runs in a row                | an error, where a limit is set                     |
| this process is killed                      | the programs end too (Linux)                       |

A secret reaches a program on its standard input, because other users of the machine can read its
arguments, and its own children its environment.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import ProcessError

__all__ = [
    "TIED",
    "Account",
    "KeptProgram",
    "Patience",
    "Processes",
    "Program",
    "Restart",
    "Start",
    "keep_running",
    "program_path",
]

_POLL = 0.1
_USAGE = 2  # argparse
# Linux ends a process so started (PR_SET_PDEATHSIG) when the one that started it is killed.
_TIE = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
TIED = (sys.executable, "-c", _TIE) if sys.platform.startswith("linux") else ()
"""Put before a command: its process ends when the one that started it ends or is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds.

    Attributes:
        first: before the first new start.
        longest: before any new start.
        settled: after this long a run, the wait is `first` again.
        brief: a run shorter than this counts as a failed start.
        starts: failed starts in a row before giving up; None never gives up.
        end: for processes that were asked to end.
    """

    first: float = 10.0
    longest: float = 300.0
    settled: float = 120.0
    brief: float = 60.0
    starts: int | None = None
    end: float = 15.0


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    name: str
    user: int
    group: int
    home: str

    @classmethod
    def of(cls, name: str | int) -> Account:
        """Look a user up by name or number.

        Raises:
            ProcessError: there is none.
        """
        try:
            entry = pwd.getpwuid(name) if isinstance(name, int) else pwd.getpwnam(name)
        except KeyError:
            raise ProcessError(
                f"user '{name}': this machine has no such user. Make one without a login: "
                f"useradd --system --shell /usr/sbin/nologin {name}"
            ) from None
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)

    @property
    def credentials(self) -> dict[str, Any]:
        """Arguments of `subprocess.Popen` that start a process as this user, in its groups only."""
        groups = os.getgrouplist(self.name, self.group)
        return {"user": self.user, "group": self.group, "extra_groups": groups}

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that name the user."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run.

    Attributes:
        name: for messages.
        command: the program and its arguments.
        variables: its whole environment.
        secret: what it reads on its standard input.
        account: user of its process; None is the user of this one. Another one needs root.
        advice: what to do if it cannot be kept running, as a sentence.
        children_stay: whether its own child processes outlive it, until all programs end.
    """

    name: str
    command: Sequence[str]
    variables: Mapping[str, str]
    secret: bytes = b""
    account: Account | None = None
    advice: str = "Read its messages above."
    children_stay: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """A program was started."""

    program: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A program ended, and will be started again.

    Attributes:
        program: its name.
        code: its exit code; minus the signal's number where one ended it.
        seconds: until the next start.
    """

    program: str
    code: int
    seconds: float


@dataclass(slots=True)
class Processes:
    """Which programs run, and how often each was restarted: give `record` to `keep_running`."""

    running: dict[str, bool] = field(default_factory=dict)
    restarts: Counter[str] = field(default_factory=Counter)

    def record(self, change: Start | Restart) -> None:
        """Record that a process started or ended."""
        self.running[change.program] = isinstance(change, Start)
        if isinstance(change, Restart):
            self.restarts[change.program] += 1

    @property
    def all_running(self) -> bool:
        """Whether every process that was ever started runs."""
        return bool(self.running) and all(self.running.values())


def keep_running(
    programs: Sequence[Program],
    *,
    patience: Patience,
    notify: Callable[[Start | Restart], None],
    pass_fds: Sequence[int] = (),
) -> None:
    """Run all programs until SIGTERM or SIGINT, and stop them whatever happens.

    Args:
        programs: started in this order.
        patience: waits and limits.
        notify: called after each start, and before each wait for a new one.
        pass_fds: open files that every process inherits, such as a lock's.

    Raises:
        ProcessError: a program cannot be kept running.
    """
    stop = threading.Event()
    kept = [
        KeptProgram(program=program, patience=patience, pass_fds=tuple(pass_fds))
        for program in programs
    ]
    with _on_signals(stop.set):
        try:
            while not stop.is_set():
                for one in kept:
                    change = one.update(time.monotonic())
                    if change is not None:
                        notify(change)
                stop.wait(_POLL)
        finally:
            _stop([one.child for one in kept if one.child is not None], patience.end)
            for group in (group for one in kept for group in one.left):
                _kill(group)


@dataclass(slots=True, kw_only=True)
class KeptProgram:
    """One program, when it is next started, and the process groups that it left running."""

    program: Program
    patience: Patience
    pass_fds: tuple[int, ...] = ()
    child: subprocess.Popen[bytes] | None = None
    left: tuple[int, ...] = ()
    wait: float = 0.0
    _began: float = 0.0
    _due: float = -1.0
    _failed: int = 0

    def update(self, now: float) -> Start | Restart | None:
        """Start the program if that is due, or see whether it has ended. Return what changed.

        Raises:
            ProcessError: another start would be useless.
        """
        self.left = tuple(group for group in self.left if _alive(group))
        if self.child is None:
            if now < self._due:
                return None
            self._began, self.child = now, self._start()
            return Start(self.program.name)
        code = self.child.poll()
        if code is None:
            return None
        if self.program.children_stay:
            self.left += (self.child.pid,)
        else:
            _kill(self.child.pid)
        self.child = None
        self.plan_restart(code, now - self._began)
        self._due = now + self.wait
        return Restart(program=self.program.name, code=code, seconds=self.wait)

    def plan_restart(self, code: int, seconds: float) -> None:
        """Set how long to wait for the next start.

        Args:
            code: the exit code of the run that ended.
            seconds: how long it lasted.

        Raises:
            ProcessError: another start would be useless.
        """
        patience, name = self.patience, self.program.name
        if code == _USAGE:
            raise ProcessError(
                f"{name} does not understand its arguments: this app and Flower do not fit. "
                "Install Sotto again."
            )
        self._failed = self._failed + 1 if seconds < patience.brief else 0
        if patience.starts is not None and self._failed >= patience.starts:
            raise ProcessError(
                f"{name} ended with {code}, and {self._failed} starts in a row failed. "
                f"{self.program.advice}"
            )
        settled = seconds >= patience.settled
        self.wait = patience.first if settled or not self.wait else 2 * self.wait
        self.wait = min(self.wait, patience.longest)

    def _start(self) -> subprocess.Popen[bytes]:
        program, account = self.program, self.program.account
        whose = {} if account is None else account.credentials
        variables = {} if account is None else account.variables
        try:
            with _secret_pipe(program.secret, account) as stdin:
                return subprocess.Popen(
                    [*TIED, *program.command],
                    env=dict(program.variables) | variables,
                    stdin=stdin,
                    start_new_session=True,
                    pass_fds=self.pass_fds,
                    **whose,
                )
        except OSError as error:
            user = f" as {account.name}" if account else ""
            raise ProcessError(
                f"{program.name} cannot be started{user}: {error.filename}: {error.strerror}. "
                "Check that this user may reach and run it."
            ) from error


@contextmanager
def _secret_pipe(secret: bytes, account: Account | None) -> Iterator[int]:
    """Yield the reading end of a pipe that holds the secret, which never is in a file on disk."""
    reading, writing = os.pipe()
    try:
        if account is not None:
            os.fchown(reading, account.user, account.group)
        os.write(writing, secret)
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


def program_path() -> str:
    """Return the PATH on which programs beside this Python come first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _stop(children: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Ask all children to end, then kill what is left of their process groups."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    until = time.monotonic() + seconds
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, until - time.monotonic()))
        _kill(child.pid)
        child.wait()


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: a group of none but zombies
        os.killpg(group, signal.SIGKILL)


def _alive(group: int) -> bool:
    """Return whether a process of the group runs. A free number may soon be another group's."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.signal(kind, lambda *_: act()) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
