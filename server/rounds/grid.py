"""Flower's Grid with deadlines, late replies and nudges.

Flower 1.41's SuperNode takes one message, sends whichever reply is ready, and takes the next one.
If a reply is left over, for instance after a kill, each answer stays at its node until another
message arrives. So a silent node is nudged with a describe request: every node answers it at once,
it costs no privacy, and the answer is not used.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.flower_internals import Run, is_http_grid
from server.rounds.fetching import Fetcher
from shared.messages import DESCRIBE, DescribeRequest

__all__ = ["PatientGrid"]

MIN_POLL_SECONDS, MAX_POLL_SECONDS = 0.02, 1.0
"""Between two looks for replies; each wait is twice the one before."""
NUDGES = (10.0, 30.0, 90.0)
"""Seconds without an answer after which a node is nudged."""
_Question = tuple[int, str, str]
"""Node, message type and group of a request: equal ones ask for the same."""


class PatientGrid(Grid):
    """Flower's grid, with five differences that a long run needs.

    - A message that cannot be delivered because its node is gone does not end the run: Flower
      gives it no id, and would then ask for the answer to "None".
    - An answer after its deadline is not lost: `late_replies` returns it. If a node is asked for
      the same again, an answer to either request counts, and ends the wait for both.
    - A reply whose content does not arrive delays no other, and no wait exceeds the deadline.
    - A silent node is nudged.
    - It polls more often at first: Flower polls every three seconds.

    Args:
        inner: the grid that Flower gives to a ServerApp.
    """

    def __init__(self, inner: Grid) -> None:
        self._inner = inner
        self._source = Fetcher(inner) if is_http_grid(inner) else inner
        self._unanswered: dict[str, _Question] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, and return the answers within `timeout` seconds.

        Answers to equal messages that were sent before count as well.
        """
        return list(self.send(messages, timeout=timeout))

    def send(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages, and yield the answers as they come; as `send_and_receive`.

        The messages have left when this returns. An answer is not kept once it was yielded.
        """
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        return self._answers(self._push(list(messages)), end)

    def _answers(self, pending: dict[str, _Question], end: float) -> Iterator[Message]:
        began, wait = time.monotonic(), MIN_POLL_SECONDS
        asked, nudges = set(pending.values()), list(NUDGES)
        try:
            while pending:
                if nudges and time.monotonic() - began >= nudges[0]:
                    self._nudge({node for node, _, _ in pending.values()})
                    del nudges[0]
                earlier = {n: it for n, it in self._unanswered.items() if it in asked}
                new = self._pull(pending | earlier)
                self._settle(pending, new)
                wait = MIN_POLL_SECONDS if new else min(2 * wait, MAX_POLL_SECONDS)
                left = end - time.monotonic()
                if not new and pending and left > 0:
                    time.sleep(min(wait, left))
                while new:
                    yield new.pop(0)
                if left <= 0:
                    break
        finally:
            self._unanswered.update(pending)

    def late_replies(self) -> list[Message]:
        """Return the replies that arrived after their deadline, each once."""
        replies = self._pull(self._unanswered)
        for reply in replies:
            self._unanswered.pop(reply.metadata.reply_to_message_id, None)
        return replies

    def _nudge(self, nodes: Iterable[int]) -> None:
        content = DescribeRequest().to_content()
        messages = [Message(content, node, DESCRIBE) for node in sorted(nodes)]
        list(self._inner.push_messages(messages))

    def _push(self, messages: list[Message]) -> dict[str, _Question]:
        accepted = set(self._inner.push_messages(messages))
        by_id = {message.metadata.message_id: message for message in messages}
        return {n: _question(message) for n, message in by_id.items() if n in accepted}

    def _pull(self, numbers: Iterable[str]) -> list[Message]:
        ids = sorted(numbers)
        return list(self._source.pull_messages(ids)) if ids else []

    def _settle(self, pending: dict[str, _Question], replies: list[Message]) -> None:
        """Remove answered questions; their other messages may still be answered, late."""
        for reply in replies:
            number = reply.metadata.reply_to_message_id
            question = pending.pop(number, None) or self._unanswered.pop(number, None)
            for other in [n for n, asked in pending.items() if asked == question]:
                self._unanswered[other] = pending.pop(other)

    def set_run(self, run: Run) -> None:
        """Delegate to Flower's grid."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """Delegate to Flower's grid."""
        return self._inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Delegate to Flower's grid."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Delegate to Flower's grid."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Delegate to Flower's grid."""
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Delegate to Flower's grid."""
        return self._source.pull_messages(message_ids)


def _question(message: Message) -> _Question:
    metadata = message.metadata
    return metadata.dst_node_id, metadata.message_type, metadata.group_id
