"""A SuperNode tries again for ever, or ends: it is never left half dead.

Flower's own flower-supernode, as a process, before a stand-in of the coordinator. For replies that
are handed over in parts, Flower's own state, object store and main loop, within this process.
"""

from __future__ import annotations

import inspect
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict

from client.flower_internals import CLIENT_APP_CRASHED_ERROR, InMemoryNodeState, ObjectPushError
from client.node import supernode as ours
from client.node.supernode import (
    STALLED,
    CompleteReplies,
    _give_up_unless_transport,
    push_all_parts,
)
from client.site.keys import make_key
from simulations.faults.processes import free_port
from tests.client.authority import Authority
from tests.conftest import ask
from tests.flower_internals import (
    ActivateNodeResponse,
    ErrorCode,
    ObjectTree,
    PullMessagesResponse,
    SendNodeHeartbeatResponse,
    flower_module,
    get_all_nested_objects,
    get_object_tree,
    remove_content_from_message,
)
from tests.shared.system.test_supervise import ROOT, until

fleet_http_connection = flower_module("supernode.fleet_http_connection")
nodestate_factory = flower_module("supernode.nodestate.nodestate_factory")
start_client_internal = flower_module("supernode.start_client_internal")
NodeStateFactory = flower_module("supernode.nodestate").NodeStateFactory
ObjectStoreFactory = flower_module("supercore.object_store").ObjectStoreFactory

ACTIVATED = ActivateNodeResponse(node_id=7).SerializeToString()
ALIVE = SendNodeHeartbeatResponse(success=True).SerializeToString()
FORGOTTEN = SendNodeHeartbeatResponse(success=False).SerializeToString()
NOTHING = PullMessagesResponse().SerializeToString()


@contextmanager
def coordinator(authority: Authority, answers: Mapping[str, bytes | None]) -> Iterator[int]:
    """Answers by the last part of the path; with status 500 where there is no answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            found = answers.get(self.path.rpartition("/")[2])
            self.send_response(500 if found is None else 200)
            self.send_header("Content-Type", "application/protobuf")
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server())
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def supernode(folder: Path, authority: Authority, port: int) -> Iterator[subprocess.Popen[str]]:
    make_key(folder / "key")
    command = [
        *(sys.executable, "-P", "-m", "client.node.supernode", "--superlink", f"127.0.0.1:{port}"),
        *("--root-certificates", str(authority.certificate)),
        *("--auth-supernode-private-key", str(folder / "key"), "--host", "127.0.0.1"),
        *("--port", str(free_port()), "--isolation", "process"),
    ]
    variables = os.environ | {
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    with subprocess.Popen(
        command, env=variables, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_connection_cut_within_the_handshake_is_tried_again(tmp_path: Path) -> None:
    authority, cut = Authority(tmp_path), 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        with supernode(tmp_path, authority, port) as process:
            listener.settimeout(60)
            for _ in range(3):
                near, _ = listener.accept()
                near.recv(65536)  # all of the greeting: what is left unread would reset it
                near.close()
                cut += 1
            assert process.poll() is None
    assert cut == 3


@pytest.mark.parametrize(
    "answers",
    [
        {"activate-node": ACTIVATED, "send-node-heartbeat": ALIVE, "pull-messages": None},
        {"activate-node": ACTIVATED, "send-node-heartbeat": FORGOTTEN, "pull-messages": NOTHING},
        {"activate-node": None},
    ],
    ids=["an error of the coordinator", "the thread of heartbeats dies", "not let in"],
)
def test_what_flower_gives_up_for_ends_the_process(
    tmp_path: Path, answers: Mapping[str, bytes | None]
) -> None:
    """Somebody starts it again then."""
    authority = Authority(tmp_path)
    with coordinator(authority, answers) as port, supernode(tmp_path, authority, port) as process:
        until(lambda: process.poll() is not None, seconds=60)
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("error", "given_up"),
    [
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"), False),
        (httpx.ReadError("[SSL] record layer failure"), False),
        (ValueError("certificate"), True),
    ],
)
def test_no_error_of_the_transport_lasts(error: Exception, given_up: bool) -> None:
    assert _give_up_unless_transport(lambda _: True)(error) is given_up


# --- replies that are handed over in parts -----------------------------------------------------


class Endless(BaseException):
    """Not one that Flower catches."""


def _nothing() -> None: ...


class Clock:
    """Time that passes while somebody sleeps; `then` happens once, at the first sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.then: Callable[[], None] = _nothing

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        then, self.then = self.then, _nothing
        then()
        if self.now > 10 * STALLED:
            raise Endless


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (start_client_internal, ours):
        monkeypatch.setattr(module, "time", clock)
    return clock


class Here:
    """A node's state; of the coordinator, what it is sent."""

    def __init__(self, state: type[InMemoryNodeState]) -> None:
        self.store = ObjectStoreFactory().store()
        self.state = state(self.store)
        self.told: list[Message] = []
        self.parts: dict[str, bytes] = {}
        self.draw = np.random.default_rng(0)

    def request(self) -> Message:
        """One that a ClientApp has begun to work on."""
        request = ask(RecordDict(), "train")
        self.state.store_message(request)
        (taken,) = self.state.get_messages_legacy(run_ids=[1], is_reply=False, limit=1)
        self.state.record_message_processing_start(request.metadata.message_id)
        return taken

    def announce(self, request: Message) -> Callable[[int], None]:
        """What stores so many more parts of the reply to it, as Flower's handlers do."""
        values = [self.draw.standard_normal(3).astype(np.float32) for _ in range(3)]
        content = RecordDict({"arrays": ArrayRecord(values)})
        reply = Message(content, reply_to=request)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        session = self.state.start_session(1)
        self.state.record_message_processing_end(request.metadata.message_id)
        _, wanted = self.state.store_message_and_object_tree(
            remove_content_from_message(reply), get_object_tree(reply), session
        )
        found = get_all_nested_objects(reply)
        parts = [(name, part.deflate()) for name, part in found.items() if name in wanted]

        def store(count: int) -> None:
            for _ in range(count):
                name, content = parts.pop()
                assert self.state.store_object(1, session, name, content)

        self.count = len(parts)
        return store

    def push(self) -> None:
        """Flower's own loop, once round."""
        start_client_internal._push_messages(self.state, self.store, self._send, self._push_object)

    def _send(self, message: Message, tree: ObjectTree, _: float) -> tuple[set[str], str]:
        self.told.append(message)
        found: set[str] = set()
        queue = [tree]
        while queue:
            part = queue.pop()
            found.add(part.object_id)
            queue += part.children
        return found, "session"

    def _push_object(self, run: int, session: str, name: str, content: bytes) -> None:
        self.parts[name] = content


def failed(message: Message) -> bool:
    return message.has_error() and message.error.code == ErrorCode.CLIENT_APP_CRASHED


def test_flower_alone_waits_for_ever_for_the_rest_of_a_reply(clock: Clock) -> None:
    """Why there is `CompleteReplies`: where this fails, Flower has mended it."""
    here = Here(InMemoryNodeState)
    here.announce(here.request())(2)
    with pytest.raises(Endless):
        here.push()
    assert [failed(message) for message in here.told] == [False], "told of what never comes"


def test_a_dead_apps_reply_is_replaced_by_an_error(clock: Clock) -> None:
    here = Here(CompleteReplies)
    request = here.request()
    here.announce(request)(2)
    here.push()
    (told,) = here.told
    assert failed(told)
    assert told.metadata.reply_to_message_id == request.metadata.message_id
    assert STALLED < clock.now < STALLED + 2
    assert len(here.parts) == 1, "the error itself"
    assert (here.state.msg_store, len(here.store)) == ({}, 0), "nothing is left over"
    here.announce(here.request())(here.count)
    here.push()
    assert not here.told[1].has_error(), "the next request is answered"


def test_a_slow_reply_is_waited_for_while_parts_come(clock: Clock) -> None:
    here = Here(CompleteReplies)
    store = here.announce(here.request())
    moments = [part * 0.8 * STALLED for part in range(1, here.count + 1)]

    def one() -> None:
        if clock.now >= moments[0]:
            moments.pop(0)
            store(1)
        if moments:
            clock.then = one

    clock.then = one
    here.push()
    assert [message.has_error() for message in here.told] == [False]
    assert len(here.parts) == here.count
    assert clock.now > 2 * STALLED
    assert len(here.store) == 0


def test_an_executors_own_answer_does_not_wait_and_is_the_only_one(clock: Clock) -> None:
    here = Here(CompleteReplies)
    request = here.request()
    here.announce(request)(2)
    instead = Message(RecordDict(), reply_to=request)
    start_client_internal._insert_message(instead, here.state, here.store)
    here.push()
    assert clock.now == 0
    clock.now = 2 * STALLED
    here.announce(here.request())(here.count)
    here.push()
    assert [message.has_error() for message in here.told] == [False, False]
    assert here.told[0].metadata.message_id == instead.metadata.message_id
    assert (here.state.msg_store, len(here.store)) == ({}, 0)


@pytest.mark.parametrize(("state", "left_over"), [(InMemoryNodeState, 1), (CompleteReplies, 0)])
def test_the_answer_after_an_error_is_not_reused_for_the_next_request(
    clock: Clock, state: type[InMemoryNodeState], left_over: int
) -> None:
    """The heartbeat of an earlier, dead ClientApp runs out while another one works."""
    here = Here(state)
    request = here.request()
    here.state._store_error_replies({1}, CLIENT_APP_CRASHED_ERROR)
    here.push()
    assert [failed(message) for message in here.told] == [True]
    here.announce(request)(here.count)
    assert len(here.state.get_messages_legacy(is_reply=True)) == left_over
    assert len(here.store) == here.count


def test_a_reply_that_is_given_up_meanwhile_is_no_error(clock: Clock) -> None:
    """Its parts are gone first, and then the message."""
    here = Here(CompleteReplies)
    request = here.request()
    here.announce(request)(2)
    (number,) = here.state.msg_store.keys() - {request.metadata.message_id}
    here.store.delete(number)
    assert here.state.get_messages_legacy(is_reply=True) == []
    here.state.delete_messages(message_ids=[number])
    assert here.state.get_messages_legacy(is_reply=True) == []


@pytest.mark.parametrize("mended", [False, True])
def test_a_part_that_was_stored_before_a_kill_keeps_no_other_from_being_sent(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    """The SuperLink stores it, dies before it says so, and does not take it again."""
    if mended:
        place = "push_object_contents_from_iterable"
        monkeypatch.setattr(start_client_internal, place, push_all_parts)
    here = Here(CompleteReplies)
    here.announce(here.request())(here.count)
    asked: list[str] = []

    def push(run: int, session: str, name: str, content: bytes) -> None:
        asked.append(name)
        if len(asked) == 1:
            raise ObjectPushError(name, run, session)
        here.parts[name] = content

    monkeypatch.setattr(here, "_push_object", push)
    monkeypatch.setattr("flwr.supercore.inflatable.inflatable_utils.get_num_workers", lambda _: 1)
    here.push()
    assert len(here.parts) == (here.count - 1 if mended else 0)
    assert (here.state.msg_store, len(here.store)) == ({}, 0)


def test_flower_keeps_its_messages_where_we_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where Flower has other names or parameters for what we put our own in place of."""
    made: list[object] = []

    def flower() -> None:
        made.append(NodeStateFactory(ObjectStoreFactory()).state())
        raise SystemExit(0)

    for module, name in (
        (nodestate_factory, "InMemoryNodeState"),
        (fleet_http_connection, "make_simple_http_retry_invoker"),
        (start_client_internal, "push_object_contents_from_iterable"),
        (threading, "excepthook"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["flower-supernode"])
    monkeypatch.setattr(ours, "flower_supernode", flower)
    with pytest.raises(SystemExit):
        ours.main()
    assert [type(state) for state in made] == [CompleteReplies]
    assert vars(start_client_internal)["push_object_contents_from_iterable"] is push_all_parts
    for name in ("get_messages_legacy", "store_message_and_object_tree"):
        here, flowers = (
            inspect.signature(getattr(kind, name)) for kind in (CompleteReplies, InMemoryNodeState)
        )
        assert list(here.parameters) == list(flowers.parameters)
