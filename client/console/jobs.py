"""Work that a page starts and watches: one thread, its progress, its result or what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from client.logs import Event, Fields, cause, note
from shared.errors import SottoError

__all__ = ["FAULT", "Job", "Progress", "Stopped"]

T = TypeVar("T")
Say = Callable[[str, float], None]
FAULT = "a fault of the console, which its log names."
"""What is said of an error that no user can correct."""


class Stopped(Exception):
    """The work was told to stop."""


@dataclass(frozen=True, slots=True)
class Progress(Generic[T]):
    """How far the work has come.

    Attributes:
        running: whether it goes on.
        step: what is done now.
        share: which share of all is done, in [0, 1].
        result: of the last work that ended well; None before.
        problem: what went wrong with the last work; "" for nothing.
    """

    running: bool = False
    step: str = ""
    share: float = 0.0
    result: T | None = None
    problem: str = ""


class Job(Generic[T]):
    """Work that runs once at a time.

    Args:
        name: of the work, in the log.
        work: is given a function to say what it does, which raises `Stopped` once it is to stop.
    """

    def __init__(self, name: str, work: Callable[[Say], T]) -> None:
        self._name, self._work = name, work
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._progress: Progress[T] = Progress()
        self._thread: threading.Thread | None = None

    @property
    def progress(self) -> Progress[T]:
        """How far it has come."""
        return self._progress

    def start(self) -> None:
        """Start, unless it runs."""
        with self._lock:
            if self._progress.running:
                return
            self._stop.clear()
            self._progress = replace(
                self._progress, running=True, step="starting", share=0.0, problem=""
            )
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop at the next step."""
        self._stop.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait until it ends."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _say(self, step: str, share: float) -> None:
        if self._stop.is_set():
            raise Stopped
        self._progress = replace(self._progress, step=step, share=min(1.0, max(0.0, share)))

    def _run(self) -> None:
        problem, result = "", self._progress.result
        try:
            result = self._work(self._say)
        except Stopped:
            problem = "stopped."
        except SottoError as error:
            problem = str(error)
        except Exception as error:
            note(Event.FAILED, **cause(error) | Fields(kind=self._name))
            problem = FAULT
        self._progress = Progress(result=result, problem=problem)
