"""Download each reply on its own, so that one whose content is missing delays no other.

A reply is announced first, and its content follows in parts. Flower 1.41's HttpGrid downloads
announced replies one after the other, and waits up to two hours for each.

| the content of a reply             | Flower's HttpGrid                   | here                 |
|------------------------------------|-------------------------------------|----------------------|
| is complete                        | returns the reply                   | the same             |
| is being uploaded                  | waits, and returns no other reply   | returns it when it   |
|                                    |                                     | is complete          |
| stops for 180 s: the SuperLink     | returns an error, then the others   | returns an error     |
| deletes it                         |                                     |                      |
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

_POLL_SECONDS = 0.5
"""How long `pull_messages` waits for downloads that have begun."""
_MAX_DOWNLOADS = 1000
"""Downloads at a time."""


class Fetcher:
    """Pull replies as Flower's grid does, without waiting for incomplete ones.

    Args:
        grid: whose connection is used; closing it ends all downloads.
    """

    def __init__(self, grid: HttpGrid) -> None:
        self._grid = grid
        self._threads = ThreadPoolExecutor(_MAX_DOWNLOADS, thread_name_prefix="reply")
        self._downloads: dict[str, Future[Message]] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the complete replies to these messages, each once."""
        numbers = sorted(message_ids)
        self._start([number for number in numbers if number not in self._downloads])
        wait([self._downloads[n] for n in numbers if n in self._downloads], timeout=_POLL_SECONDS)
        complete = [n for n in numbers if n in self._downloads and self._downloads[n].done()]
        return [self._downloads.pop(number).result() for number in complete]

    def _start(self, numbers: list[str]) -> None:
        if numbers:
            request = PullAppMessagesRequest(message_ids=numbers)
            response = self._grid._runtime_client.PullMessages(request)
            pairs = zip(response.messages_list, response.message_object_trees, strict=True)
            for announced, tree in pairs:
                number = announced.metadata.reply_to_message_id
                self._downloads[number] = self._threads.submit(self._download, announced, tree)

    def _download(self, announced: ProtoMessage, tree: ObjectTree) -> Message:
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
            metadata = message_from_proto(announced).metadata
            return make_message(metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error)))
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message
