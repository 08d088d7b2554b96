"""A grid that waits as the coordinator needs it to.

Flower 1.41's SuperNode takes one message, sends whichever reply is ready, and takes the next one.
Where a reply is left over, after a kill for instance, each answer stays at its node until another
message comes. So a node that says nothing is nudged: with a question that every node answers at
once, that costs nothing, and whose answer nobody needs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.flower_internals import Run, is_http_grid
from server.rounds.fetching import Fetcher
from shared.messages import DESCRIBE, DescribeRequest

__all__ = ["PatientGrid"]

SHORTEST, LONGEST = 0.02, 1.0
"""Seconds between two looks for replies; each is twice as long as the one before."""


NUDGES = (10.0, 30.0, 90.0)
"""Seconds without an answer after which a node is nudged."""
_Question = tuple[int, str, str]
"""Who is asked, what, and for which round: the same again is the same question."""


class PatientGrid(Grid):
    """Flower's grid, with five differences that a long run needs.

    - A message that cannot be delivered, because its node is gone, does not end the run: Flower
      gives it no number, and would then ask for the answer to "None".
    - What is answered after its deadline is not lost, but told by `late`; where the same is asked
      of a node again, an answer to either request is its answer, and nobody waits for the other.
    - A reply whose content does not come hides no other, and is not waited for after the deadline.
    - A node that says nothing is nudged.
    - It looks more often, at first: Flower looks every three seconds.

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
        """The answers that come in time, to these messages or to the same ones sent before."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        pending, replies, wait = self._pushed(list(messages)), list[Message](), SHORTEST
        asked, nudges, began = set(pending.values()), list(NUDGES), time.monotonic()
        while pending:
            if nudges and time.monotonic() - began >= nudges[0]:
                self._nudge({node for node, _, _ in pending.values()})
                del nudges[0]
            again = {n: question for n, question in self._unanswered.items() if question in asked}
            found = self._pulled(pending | again)
            self._settle(pending, found)
            replies += found
            wait = SHORTEST if found else min(2 * wait, LONGEST)
            left = end - time.monotonic()
            if not pending or left <= 0:
                break
            if not found:
                time.sleep(min(wait, left))
        self._unanswered.update(pending)
        return replies

    def late(self) -> list[Message]:
        """What has come since then to messages whose deadline was over, each once."""
        found = self._pulled(self._unanswered)
        for reply in found:
            self._unanswered.pop(reply.metadata.reply_to_message_id, None)
        return found

    def _nudge(self, nodes: Iterable[int]) -> None:
        content = DescribeRequest().to_content()
        list(
            self._inner.push_messages([Message(content, node, DESCRIBE) for node in sorted(nodes)])
        )

    def _pushed(self, messages: list[Message]) -> dict[str, _Question]:
        accepted = set(self._inner.push_messages(messages))
        numbered = {message.metadata.message_id: message for message in messages}
        return {n: _question(message) for n, message in numbered.items() if n in accepted}

    def _pulled(self, numbers: Iterable[str]) -> list[Message]:
        wanted = sorted(numbers)
        return list(self._source.pull_messages(wanted)) if wanted else []

    def _settle(self, pending: dict[str, _Question], found: list[Message]) -> None:
        """Takes out what was answered; the same question's other messages may be answered late."""
        for reply in found:
            number = reply.metadata.reply_to_message_id
            question = pending.pop(number, None) or self._unanswered.pop(number, None)
            for other in [n for n, asked in pending.items() if asked == question]:
                self._unanswered[other] = pending.pop(other)

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
        return self._source.pull_messages(message_ids)


def _question(message: Message) -> _Question:
    known = message.metadata
    return known.dst_node_id, known.message_type, known.group_id
