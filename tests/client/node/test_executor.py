from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from typing import Any, cast

import pytest

import client.node.executor
from client.node.executor import _Task


@dataclass
class Worker:
    """What a task asks of its process."""

    exitcode: int | None = None


class Desk:
    """A task, its process, and what the coordinator was told."""

    def __init__(self) -> None:
        here, self.there = multiprocessing.Pipe(duplex=False)
        self.worker, self.told = Worker(), list[bytes]()
        self.task = _Task(cast(Any, self.worker), here, self.told.append)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(client.node.executor, "_FETCH", 0.05)
    return Desk()


def test_one_that_fetches_its_request_is_waited_for_a_moment(desk: Desk) -> None:
    assert not desk.task.over()
    assert desk.task.is_busy
    time.sleep(0.06)
    assert not desk.task.over()
    assert not desk.task.is_busy, "another request may be fetched"


def test_one_that_computes_is_waited_for(desk: Desk) -> None:
    desk.there.send_bytes(b"request")
    time.sleep(0.06)
    assert not desk.task.over()
    assert desk.task.is_busy


@pytest.mark.parametrize(
    ("request_bytes", "code", "told"),
    [(b"request", 0, []), (b"request", -9, [b"request"]), (b"", -9, []), (b"", 0, [])],
)
def test_only_a_request_that_was_fetched_is_reply_for_deadd_for(
    desk: Desk, request_bytes: bytes, code: int, told: list[bytes]
) -> None:
    if request_bytes:
        desk.there.send_bytes(request_bytes)
    desk.there.close()
    desk.worker.exitcode = code
    assert desk.task.over()
    assert desk.told == told
