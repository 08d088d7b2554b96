"""A SuperNode tries again for ever, or ends: it is never left half dead.

Flower's own flower-supernode, as a process, before a stand-in of the coordinator.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse

from client.keys import make_key
from client.supernode import _unless_transport
from tests.client.authority import Authority
from tests.shared.test_supervise import ROOT, until

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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def supernode(folder: Path, authority: Authority, port: int) -> Iterator[subprocess.Popen[str]]:
    make_key(folder / "key")
    command = [
        *(sys.executable, "-P", "-m", "client.supernode", "--superlink", f"127.0.0.1:{port}"),
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
    assert _unless_transport(lambda _: True)(error) is given_up
