"""Run every request in a process of its own, separate from the SuperNode and its key.

`sotto-node up` starts this beside the SuperNode, under another user where the site names one. It
asks the SuperNode for work with a secret that both read on their standard input, and gives each
task to a process (`client.node.worker`) that ends with it. Those processes are forked from one that
has the libraries loaded (a fork server), so a request does not pay for the imports again.

| a task's process ...             | what follows                                              |
|----------------------------------|-----------------------------------------------------------|
| answers                          | the next task                                             |
| dies once it has the request     | the coordinator is told at once that the request failed   |
| dies before that                 | the SuperNode gives the task out again, 30 s later        |
| waits for a request for long     | the next task no longer waits for it                      |
| loses the SuperNode              | it ends; what was charged costs nothing when asked again  |
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NoReturn

import httpx

from client.flower_internals import (
    AcquireTaskRequest,
    RuntimeHttpClient,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
    TaskType,
)
from client.logs import Event, note, set_up
from client.node.task import send_late_reply
from shared.messages import refusal_reply
from shared.outcomes import Refusal

__all__ = ["main"]

_POLL = 0.2
_FETCH = 5.0
"""Seconds after which the next task no longer waits for one that still fetches its request."""
_AWAY = 2.0
"""Seconds until a SuperNode that does not answer is asked again."""
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_PRELOADED = [
    *("client.app", "client.node.worker", "client.compute.noise_optimiser"),
    "torch._dynamo",  # torch's compiler, which the first optimiser of a process imports
]
"""Brings the libraries that an app needs; the app itself is the bundle's own."""


def main() -> NoReturn:
    """Read the secret on standard input, and serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Runs the requests of a node.")
    parser.add_argument("--site", required=True, help="folder of the site")
    parser.add_argument("--runtime", required=True, help="address of the SuperNode, host:port")
    arguments = parser.parse_args()
    secret = sys.stdin.buffer.read()
    os.environ["PYTHONSAFEPATH"] = "1"  # of the processes that follow, too
    set_up()
    _serve(arguments.site, arguments.runtime, secret)


def _serve(site: str, runtime: str, secret: bytes) -> NoReturn:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    forkserver.ensure_running()  # so that the first request finds the libraries loaded, too
    superexec = _superexec(runtime, secret)
    tasks: list[_Task] = []
    while True:
        tasks = [task for task in tasks if not task.over()]
        token = "" if any(task.is_busy for task in tasks) else _acquire(superexec)
        if not token:
            time.sleep(_POLL)
            continue
        here, there = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(site, runtime, token, there))
        worker.start()
        there.close()
        tasks.append(_Task(worker, here, partial(_reply_for_dead, runtime, token)))


class _Task:
    """A process that fetches a request and answers it.

    Fetching may take as long as Flower tries, which is hours where the run ended meanwhile: no
    other request waits for that. Answers are computed one at a time.
    """

    def __init__(
        self, worker: BaseProcess, here: Connection, apologise: Callable[[bytes], None]
    ) -> None:
        self._worker, self._here, self._reply_for_dead = worker, here, apologise
        self._started, self._request = time.monotonic(), b""

    @property
    def is_busy(self) -> bool:
        """Whether the next task has to wait for this one."""
        return bool(self._request) or time.monotonic() - self._started < _FETCH

    def over(self) -> bool:
        """Return whether it has ended; if it failed, tell the coordinator."""
        ended = self._worker.exitcode is not None
        if not self._request and self._here.poll():
            with suppress(EOFError):
                self._request = self._here.recv_bytes()
        if ended:
            self._here.close()
            if self._worker.exitcode != 0 and self._request:
                self._reply_for_dead(self._request)
        return ended


def _work(site: str, runtime: str, token: str, notify: Connection) -> None:
    from client.node.worker import work  # noqa: PLC0415 with the libraries, in the process that has them

    work(site, runtime, token, notify)


def _reply_for_dead(runtime: str, token: str, request: bytes) -> None:
    note(Event.DIED)
    try:
        send_late_reply(runtime, token, request, partial(refusal_reply, Refusal.FAILED))
    except httpx.HTTPError as error:  # the SuperNode says so itself, a minute later
        note(Event.FAILED, error=type(error).__name__)


def _superexec(runtime: str, secret: bytes) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=runtime,
        insecure=True,  # on this machine's loopback
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=[_ACQUIRE]),
        ],
    )


def _acquire(superexec: RuntimeHttpClient) -> str:
    """Return a task's token; "" if there is no task, or the SuperNode does not answer."""
    try:
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        return superexec.AcquireTask(request).token
    except httpx.HTTPError:
        time.sleep(_AWAY)
        return ""


if __name__ == "__main__":
    main()
