"""Processes that are killed at a stated point, for tests of what is left then.

A test starts a driver in a process of its own, which forks: importing the model takes seconds. The
driver prints one JSON object a kill.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
Story = list[dict[str, Any]]
"""What came of each kill."""
Arm = Callable[[], None]
"""Called in the process that is to be killed, before it begins."""
Send = Callable[[bytes], object]
Counted = Callable[[str], bool]
"""Whether the lines of a source file are counted."""


def run_driver(driver: Path, *arguments: object, state: Path) -> Story:
    """What a driver printed; `state` is where it remembers user bases."""
    done = subprocess.run(
        [sys.executable, driver, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env={
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PATH": "",
            "XDG_STATE_HOME": str(state),
        },
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_each_ended_well(story: Story, *, points: int, rounds: int) -> None:
    """Of runs, the first of which was not killed: all others were, were resumed, and finished."""
    through, *killed = story
    assert through["status"] == 0
    assert {kill["point"]: kill["status"] for kill in killed} == {
        kill["point"]: -9 for kill in killed
    }
    assert len(killed) == points
    assert {kill["resumed"] for kill in killed} == {0}
    for end in story:
        assert (end["state"], end["round"], end["model"]) == ("finished", rounds, True)


def forked(action: Callable[[Send], object]) -> tuple[int, int]:
    """A process that does something; its id, and the pipe by which it sends."""
    source, sink = os.pipe()
    child = os.fork()
    if child:
        os.close(sink)
        return child, source
    status = 1
    try:
        action(lambda body: os.write(sink, body))
        status = 0
    finally:
        os._exit(status)


def finish(child: int, source: int) -> tuple[bytes, int]:
    """What a process sent, and how it ended."""
    with os.fdopen(source, "rb") as pipe:
        body = pipe.read()
    return body, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(*_: object, **__: object) -> Any:  # noqa: ANN401
    os.kill(os.getpid(), signal.SIGKILL)


def nothing() -> None:
    """Kills nobody."""


def at_call(owner: Any, name: str, times: int = 1) -> Arm:  # noqa: ANN401
    """Dies where this function is called for the n-th time."""

    def arm() -> None:
        original, left = getattr(owner, name), times

        def called(*arguments: object, **options: object) -> Any:  # noqa: ANN401
            nonlocal left
            left -= 1
            return original(*arguments, **options) if left else die()

        setattr(owner, name, called)

    return arm


def after_call(owner: Any, name: str, times: int = 1) -> Arm:  # noqa: ANN401
    """Dies where this function has returned for the n-th time."""

    def arm() -> None:
        original, left = getattr(owner, name), times

        def called(*arguments: object, **options: object) -> Any:  # noqa: ANN401
            nonlocal left
            left -= 1
            result = original(*arguments, **options)
            return result if left else die()

        setattr(owner, name, called)

    return arm


def at_line(countdown: int, counted: Counted) -> Arm:
    """Dies before a line of counted code, after this many lines of it."""

    def arm() -> None:
        left = countdown

        def line(_: FrameType, event: str, __: object) -> Any:  # noqa: ANN401
            nonlocal left
            left -= event == "line"
            return line if left else die()

        sys.settrace(lambda frame, *_: line if counted(frame.f_code.co_filename) else None)

    return arm


def lines_of(action: Callable[[], object], counted: Counted) -> int:
    """How many lines of counted code something takes, in a process of its own."""

    def count_lines(send: Send) -> None:
        count = 0

        def line(_: FrameType, event: str, __: object) -> Any:  # noqa: ANN401
            nonlocal count
            count += event == "line"
            return line

        sys.settrace(lambda frame, *_: line if counted(frame.f_code.co_filename) else None)
        action()
        sys.settrace(None)
        send(str(count).encode())

    return int(finish(*forked(count_lines))[0])
