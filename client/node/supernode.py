"""Run flower-supernode so that it always reconnects, and ends if one of its threads does.

| what happens                                     | Flower 1.41 alone            | here         |
|--------------------------------------------------|------------------------------|--------------|
| a connection is cut within the TLS handshake     | gives up, and does not end   | tries again  |
| the coordinator's certificate has expired        | the same                     | tries again  |
| any other error ends the connection              | does not end                 | ends with 1  |
| the thread of its heartbeats dies                | goes on, taken for dead      | ends with 1  |
| a ClientApp dies while it hands its reply over   | waits for the rest for ever, | says that it |
|                                                  | and takes no other request   | failed       |
| a second answer comes, after an error was sent   | sends every later one only   | is not taken |
|                                                  | with the next request        |              |
| the SuperLink is killed after it stored a part   | gives the reply up, and the  | sends the    |
| of a reply, and before it said so                | round waits for its deadline | other parts  |
| the key is not accepted, or the last lease holds | "could not be activated"     | says which   |

Flower takes every error that has "ssl", "tls" or "certificate" in its words for a lasting one. What
has given up does not end, because its listener for the executor runs in another thread; so nobody
starts it again.

A ClientApp announces its reply, and then hands the content over in parts. Here the coordinator is
told of a reply when all of it is there.

Run it as `python -m client.node.supernode`, with the arguments of `flower-supernode`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import httpx
from flwr.app import Message

from client.checks.registration import Registration, ask_registration
from client.flower_internals import (
    CLIENT_APP_CRASHED_ERROR,
    InMemoryNodeState,
    NoObjectInStoreError,
    ObjectPushError,
    ObjectStore,
    ObjectTree,
    RetryInvoker,
    flower_supernode,
    insert_message,
    iterate_object_tree,
    make_simple_http_retry_invoker,
    push_object_contents_from_iterable,
    replace_in_supernode,
)
from client.logs import Event, cause, note, set_up
from client.site.keys import public_file
from client.site.local_port import port_is_free
from shared.errors import SiteError

__all__ = ["CompleteReplies", "main", "push_all_parts"]

_CONNECT = "/v1/fleet/activate-node"
STALLED = 20.0
"""Seconds without another part of a reply, on this machine, after which its ClientApp is dead."""


def main() -> NoReturn:
    """Run `flower-supernode`; an error in any of its threads ends the process."""
    set_up()
    if not port_is_free(_arguments().port):
        note(Event.PORT)
        _end()
    replace_in_supernode("make_simple_http_retry_invoker", _make_retry_invoker)
    replace_in_supernode("InMemoryNodeState", CompleteReplies)
    replace_in_supernode("push_object_contents_from_iterable", push_all_parts)
    threading.excepthook = _end_with
    sys.argv[0] = "flower-supernode"
    try:
        flower_supernode()
    except SystemExit:  # an end in good order
        raise
    except BaseException as error:
        note(Event.FAILED, **cause(error))
    _end()


def _make_retry_invoker() -> RetryInvoker:
    """Make Flower's retry rule, which also retries after every error of the transport."""
    invoker = make_simple_http_retry_invoker()
    others = invoker.should_giveup
    assert others is not None

    invoker.should_giveup = _give_up_unless_transport(others)
    return invoker


def _give_up_unless_transport(others: Callable[[Exception], bool]) -> Callable[[Exception], bool]:
    def give_up(error: Exception) -> bool:
        if isinstance(error, httpx.TransportError):
            note(Event.AWAY, error=type(error).__name__)
            return False
        if isinstance(error, httpx.HTTPStatusError) and error.request.url.path == _CONNECT:
            _note_refused_connection(error)
        return others(error)

    return give_up


def _note_refused_connection(error: httpx.HTTPStatusError) -> None:
    """Log why the coordinator refused the connection, if it says why."""
    arguments = _arguments()
    try:
        registration = ask_registration(arguments.superlink, arguments.roots, arguments.key)
    except (SiteError, OSError):
        note(Event.AWAY, code=str(error.response.status_code))
        return
    if registration is Registration.UNKNOWN_KEY:
        note(Event.NOT_ACCEPTED, file=str(public_file(arguments.key)))
    elif registration is Registration.ACCEPTED:
        note(Event.LEASE)
    else:
        note(Event.AWAY, code=str(registration))


def _arguments() -> argparse.Namespace:
    """Return those of flower-supernode's arguments that are read here."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--superlink", default="")
    parser.add_argument("--root-certificates", dest="roots", type=Path)
    parser.add_argument("--auth-supernode-private-key", dest="key", type=Path, default=Path())
    parser.add_argument("--port", type=int, default=0)
    return parser.parse_known_args()[0]


def push_all_parts(
    parts: Iterable[tuple[str, bytes]], push_object_fn: Callable[[str, bytes], None]
) -> None:
    """Push every part of a reply; a part that is declined does not stop the others.

    A part is declined if it arrived before and only the answer was lost, and after the deadline of
    the reply, which the coordinator notices by itself.
    """

    def push(number: str, content: bytes) -> None:
        try:
            push_object_fn(number, content)
        except ObjectPushError:
            note(Event.LATE)

    push_object_contents_from_iterable(parts, push)


class CompleteReplies(InMemoryNodeState):
    """The node's messages: one reply to a request, which is sent when it is complete."""

    def __init__(self, object_store: ObjectStore) -> None:
        super().__init__(object_store)
        self._seen: dict[str, tuple[int, float]] = {}

    def set_node_id(self, node_id: int | None) -> None:
        """Do as Flower's; it is called once the coordinator has accepted the connection."""
        super().set_node_id(node_id)
        note(Event.CONNECTED)

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Do as Flower's, but decline a second reply to a request, and its content."""
        if message.metadata.reply_to_message_id not in self.msg_store:
            return False, []
        return super().store_message_and_object_tree(message, object_tree, session_id)

    def get_messages_legacy(
        self,
        *,
        run_ids: Sequence[int] | None = None,
        is_reply: bool | None = None,
        limit: int | None = None,
    ) -> Sequence[Message]:
        """Do as Flower's, but hold back an incomplete reply; send an error if it stalls."""
        messages = super().get_messages_legacy(run_ids=run_ids, is_reply=is_reply, limit=limit)
        missing = [self._missing(message) for message in messages]
        for message, parts in zip(messages, missing, strict=True):
            if parts:
                self._wait_for(message, parts)
            else:
                self._seen.pop(message.metadata.message_id, None)
        return [message for message, parts in zip(messages, missing, strict=True) if not parts]

    def _missing(self, message: Message) -> int:
        """Count the missing parts of a reply; a request's parts arrive in another way."""
        if not message.metadata.reply_to_message_id:
            return 0
        try:
            tree = self.object_store.get_object_tree(message.metadata.message_id)
        except NoObjectInStoreError:  # it is being given up
            return 1
        return sum(not self.object_store.get(part.object_id) for part in iterate_object_tree(tree))

    def _wait_for(self, reply: Message, missing: int) -> None:
        number, now = reply.metadata.message_id, time.monotonic()
        before, since = self._seen.get(number, (0, now))
        if missing == before and now - since > STALLED:
            self._replace(reply)
            return
        self._seen[number] = missing, since if missing == before else now
        if entry := self.msg_store.get(number):
            entry.is_retrieved = False

    def _replace(self, reply: Message) -> None:
        """Answer in place of a dead ClientApp, unless its executor has done so."""
        metadata = reply.metadata
        note(Event.DIED)
        del self._seen[metadata.message_id]
        self.delete_messages(message_ids=[metadata.message_id])
        self.object_store.delete(metadata.message_id)
        request = self.msg_store.get(metadata.reply_to_message_id)
        if request is not None:
            answer = Message(CLIENT_APP_CRASHED_ERROR, reply_to=request.message)
            insert_message(answer, self, self.object_store)


def _end_with(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is not SystemExit:
        if ended.exc_value is not None:
            note(Event.FAILED, **cause(ended.exc_value))
        _end()


def _end() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
