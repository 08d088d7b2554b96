"""A bounded queue before the threads that compute: what does not fit is refused at once.

A request that waited past its deadline is dropped before it is computed. One that is being computed
when its deadline passes is answered with the deadline, and keeps its place until it is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from client.serving.service.status import Code, ServiceError

__all__ = ["Admission"]

T = TypeVar("T")


class Admission:
    """Threads that compute, and the requests that wait for one.

    Used from one event loop.

    Args:
        workers: threads, >= 1.
        queue: requests that may wait, >= 1.
    """

    def __init__(self, workers: int, queue: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="recommend")
        self._most, self.pending = workers + queue, 0

    async def run(self, work: Callable[[], T], seconds: float) -> T:
        """Return what `work` returns, computed in a thread.

        Args:
            work: may run after this has given up.
            seconds: until the deadline.

        Raises:
            ServiceError: the queue is full, or the deadline has passed.
        """
        if self.pending >= self._most:
            raise ServiceError(
                Code.RESOURCE_EXHAUSTED,
                f"{self._most} requests are waiting, as many as may: ask again later.",
            )
        if seconds <= 0:
            raise _late()
        deadline, loop = time.monotonic() + seconds, asyncio.get_running_loop()

        def compute() -> T:
            if time.monotonic() > deadline:
                raise _late()
            return work()

        self.pending += 1
        future: Future[T] = self._pool.submit(compute)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._release))
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise _late() from None

    def _release(self) -> None:
        self.pending -= 1

    def close(self) -> None:
        """Drop what waits, and wait for what is being computed."""
        self._pool.shutdown(cancel_futures=True)


def _late() -> ServiceError:
    return ServiceError(Code.DEADLINE_EXCEEDED, "the deadline has passed: ask again later.")
