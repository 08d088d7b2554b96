"""A grid that waits as the coordinator needs it to."""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

__all__ = ["PatientGrid"]

SHORTEST, LONGEST = 0.02, 1.0
"""Seconds between two looks for replies; each is twice as long as the one before."""


class PatientGrid(Grid):
    """Flower's grid, with three differences that a long run needs.

    - A message that cannot be delivered, because its node is gone, does not end the run: Flower
      gives it no number, and would then ask for the answer to "None".
    - What is answered after its deadline is not lost, but told by `late`.
    - It looks more often, at first: Flower looks every three seconds.

    Args:
        inner: the grid that Flower gives to a ServerApp.
    """

    def __init__(self, inner: Grid) -> None:
        self._inner = inner
        self._unanswered: set[str] = set()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The answers to these messages that come in time, and no others."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        pending, replies, wait = self._pushed(list(messages)), list[Message](), SHORTEST
        while pending:
            found = self._pulled(pending)
            replies += found
            wait = SHORTEST if found else min(2 * wait, LONGEST)
            left = end - time.monotonic()
            if not pending or left <= 0:
                break
            if not found:
                time.sleep(min(wait, left))
        self._unanswered |= pending
        return replies

    def late(self) -> list[Message]:
        """What has come since then to messages whose deadline was over, each once."""
        return self._pulled(self._unanswered)

    def _pushed(self, messages: list[Message]) -> set[str]:
        return {number for number in self._inner.push_messages(messages) if number}

    def _pulled(self, pending: set[str]) -> list[Message]:
        """Answers to some of these, which are then no longer pending."""
        found = list(self._inner.pull_messages(sorted(pending))) if pending else []
        pending.difference_update(reply.metadata.reply_to_message_id for reply in found)
        return found

    def set_run(self, run: Run) -> None:
        """As Flower's."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """As Flower's."""
        return self._inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As Flower's."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As Flower's."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As Flower's."""
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As Flower's."""
        return self._inner.pull_messages(message_ids)
