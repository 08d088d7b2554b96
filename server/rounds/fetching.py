"""Fetches each reply by itself: one whose content does not come hides no other.

A reply is announced first, and its content follows in parts. Flower 1.41's HttpGrid waits for the
content of one announced reply after the other, for up to two hours each.

| the content of a reply            | Flower's HttpGrid                   | here                |
|-----------------------------------|-------------------------------------|---------------------|
| is all there                      | gives the reply                     | the same            |
| is on its way                     | waits, and gives no other one       | gives it once there |
| stays away, 180 s after the last  | gives an error, and then the others | gives an error      |
| part: the SuperLink forgets it    |                                     |                     |
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from flwr.app import Error, Message

from server.flower_internals import (
    ErrorCode,
    ObjectPullError,
    ObjectTree,
    ProtoMessage,
    PullAppMessagesRequest,
    make_confirm_message_received_fn_protobuf,
    make_message,
    make_pull_object_fn_protobuf,
    message_from_proto,
    pull_and_inflate_object_from_tree,
)

if TYPE_CHECKING:
    from server.flower_internals import HttpGrid  # it takes half a second

__all__ = ["Fetcher"]

_A_LOOK = 0.5
"""Seconds that a look waits for content which is on its way."""
_MOST = 1000
"""Replies on their way at once."""


class Fetcher:
    """Pulls replies as Flower's grid does, without waiting for what is not there yet.

    Args:
        grid: whose connection is used; closing it ends all that is on its way.
    """

    def __init__(self, grid: HttpGrid) -> None:
        self._grid = grid
        self._threads = ThreadPoolExecutor(_MOST, thread_name_prefix="reply")
        self._coming: dict[str, Future[Message]] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages that are here by now, each once."""
        numbers = sorted(message_ids)
        self._begin([number for number in numbers if number not in self._coming])
        wait([self._coming[n] for n in numbers if n in self._coming], timeout=_A_LOOK)
        here = [n for n in numbers if n in self._coming and self._coming[n].done()]
        return [self._coming.pop(number).result() for number in here]

    def _begin(self, numbers: list[str]) -> None:
        if numbers:
            request = PullAppMessagesRequest(message_ids=numbers)
            found = self._grid._runtime_client.PullMessages(request)
            pairs = zip(found.messages_list, found.message_object_trees, strict=True)
            for announced, tree in pairs:
                number = announced.metadata.reply_to_message_id
                self._coming[number] = self._threads.submit(self._fetch, announced, tree)

    def _fetch(self, announced: ProtoMessage, tree: ObjectTree) -> Message:
        client, node, run = self._grid._runtime_client, self._grid.node, self._grid.run.run_id
        confirm = client.ConfirmMessageReceived
        try:
            message = pull_and_inflate_object_from_tree(
                tree,
                make_pull_object_fn_protobuf(client.PullObject, node, run),
                make_confirm_message_received_fn_protobuf(confirm, node, run),
                return_type=Message,
                max_tries_per_object=None,
                backoff_cap=1.0,
            )
        except ObjectPullError as error:
            about = message_from_proto(announced).metadata
            return make_message(about, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error)))
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message
