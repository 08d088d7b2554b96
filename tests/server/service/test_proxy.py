"""The proxy lets known paths through, as they are, and nothing else, whatever is tried."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from server.service.certificates import Authority
from server.service.listeners import _Server, _server_config, bind_socket
from server.service.proxy import ADMINISTRATORS, FLEET, PARTNERS, Gate, superlink_client
from shared.errors import ServerError
from shared.system.address import Address
from tests.flower_internals import flower_module

FLEET_PATH, CONTROL_PATH = "/v1/fleet/push-object", "/v1/control/list-runs"


@dataclass
class Link:
    """In place of the SuperLink: notes what arrives, answers with the length of the body."""

    seen: list[tuple[str, dict[bytes, bytes], int]] = field(default_factory=list)
    began: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 ASGI
        if scope["type"] != "http":
            return
        length, more = 0, True
        while more:
            message = await receive()
            length += len(message.get("body", b""))
            more = message.get("more_body", False)
            if length:
                self.began.set()
        path = scope["raw_path"].decode()
        self.seen.append((path, dict(scope["headers"]), length))
        if path.endswith("stream-logs"):
            await self._endlessly(receive, send)
            return
        body = b"x" * length if path.endswith("pull-object") else str(length).encode()
        headers = [(b"content-length", str(len(body)).encode()), (b"x-theirs", b"1")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _endlessly(self, receive: Any, send: Any) -> None:  # noqa: ANN401 ASGI
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b"line\n", "more_body": True})
            await asyncio.sleep(0.02)
        self.hung_up.set()


@dataclass
class Proxied:
    """Both listeners in front of a stand-in."""

    link: Link
    authority: Path
    partners: int
    administrators: int

    def client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=self.authority)
        return httpx.Client(verify=context, trust_env=False, timeout=30)

    def url(self, path: str, port: int | None = None) -> str:
        return f"https://127.0.0.1:{port or self.partners}{path}"

    def raw(self, port: int, target: bytes, method: bytes = b"POST") -> int:
        """The status of a request whose target is sent byte for byte."""
        context = ssl.create_default_context(cafile=self.authority)
        head = b"%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            secured.sendall(head % (method, target))
            found = re.match(rb"HTTP/1\.1 (\d+)", secured.recv(100))
        assert found
        return int(found[1])


def _listening() -> tuple[socket.socket, int]:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    return made, int(made.getsockname()[1])


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("proxy")
    authority = Authority(folder / "ca.crt", folder / "ca.key")
    authority.create("The test's")
    pair = folder / "server.crt", folder / "server.key"
    authority.sign(["127.0.0.1"], *pair)
    link, sockets = Link(), [_listening() for _ in range(3)]
    ports = [port for _, port in sockets]
    loop = asyncio.new_event_loop()
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        async with superlink_client(f"127.0.0.1:{ports[0]}", str(authority.certificate)) as client:
            apps = [link, Gate(PARTNERS, client), Gate(ADMINISTRATORS, client)]
            servers.extend(_Server(_server_config(app, *pair)) for app in apps)  # type: ignore[arg-type]
            await asyncio.gather(
                *(server.serve([made]) for server, (made, _) in zip(servers, sockets, strict=True))
            )

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    while not (len(servers) == 3 and all(server.started for server in servers)):
        time.sleep(0.01)
    yield Proxied(link, authority.certificate, ports[1], ports[2])
    for server in servers:
        server.should_exit = True
    thread.join(10)
    loop.close()


# --- what goes through -------------------------------------------------------------------------


def test_the_list_is_what_flowers_supernode_asks() -> None:
    source = Path(flower_module("supernode.fleet_http_client").__file__).read_text()
    asked = re.findall(r'path="/v1/fleet/([a-z-]+)"', source)
    assert sorted(asked) == sorted(FLEET)


def test_a_request_and_its_answer_are_passed_on_as_they_are(proxied: Proxied) -> None:
    headers = {"x-ours": "2", "connection": "x-secret", "x-secret": "3", "te": "trailers"}
    with proxied.client() as client:
        found = client.post(proxied.url(FLEET_PATH), content=b"abc", headers=headers)
    assert (found.status_code, found.text, found.headers["x-theirs"]) == (202, "3", "1")
    path, arrived, length = proxied.link.seen[-1]
    assert (path, length) == (FLEET_PATH, 3)
    assert arrived[b"x-ours"] == b"2"
    assert not {b"x-secret", b"te"} & set(arrived)


@pytest.mark.parametrize("name", FLEET)
def test_every_path_of_a_node_is_the_partners_alone(proxied: Proxied, name: str) -> None:
    assert proxied.raw(proxied.partners, f"/v1/fleet/{name}".encode()) == 202
    assert proxied.raw(proxied.administrators, f"/v1/fleet/{name}".encode()) == 404


def test_control_is_the_administrators_alone(proxied: Proxied) -> None:
    assert proxied.raw(proxied.administrators, CONTROL_PATH.encode()) == 202
    assert proxied.raw(proxied.partners, CONTROL_PATH.encode()) == 404


def test_a_body_is_passed_on_before_it_has_ended(proxied: Proxied) -> None:
    """120 MB up and 120 MB down, neither of them known in advance."""
    piece, pieces = bytes(2**20), 120
    proxied.link.began.clear()

    def body() -> Iterator[bytes]:
        yield piece
        assert proxied.link.began.wait(10), "nothing had arrived before the rest was sent"
        for _ in range(pieces - 1):
            yield piece

    with proxied.client() as client:
        url = proxied.url("/v1/fleet/pull-object")
        with client.stream("POST", url, content=body()) as found:
            length = sum(len(part) for part in found.iter_raw())
    assert length == len(piece) * pieces == proxied.link.seen[-1][2]


def test_a_client_that_hangs_up_ends_the_stream(proxied: Proxied) -> None:
    proxied.link.hung_up.clear()
    with proxied.client() as client:
        url = proxied.url("/v1/control/stream-logs", proxied.administrators)
        with client.stream("POST", url) as found:
            assert next(found.iter_raw()).startswith(b"line")
    assert proxied.link.hung_up.wait(10)


# --- what does not -----------------------------------------------------------------------------

TRICKS = [
    b"/",
    b"/v1/runtime/acquire-task",
    b"/v1/runtime/pull-task-input",
    b"/docs",
    b"/openapi.json",
    b"/health",
    b"//v1/fleet/get-run",
    b"/v1//fleet/get-run",
    b"/v1/fleet/../runtime/acquire-task",
    b"/v1/fleet/%2e%2e/control/list-runs",
    b"/v1/fleet%2Fget-run",
    b"/v1/fleet/get%2Drun",
    b"/v1/fleet/get-run/",
    b"/v1/fleet/get-run/../../control/list-runs",
    b"/v1/fleet/get-run;x=1",
    b"/v1/fleet/get-run?x=1",
    b"/v1/fleet/get-run%00",
    b"/v1/fleet/get-runs",
    b"/V1/fleet/get-run",
    b"/v1/FLEET/get-run",
    b"/v1/fleet/",
    b"/v1/fleet",
    b"/v1/fleet\\get-run",
    b"/./v1/fleet/get-run",
    b"/v1/runtime/acquire-task?/v1/fleet/get-run",
    b"/v1/runtime/acquire-task#/v1/fleet/get-run",
]


@pytest.mark.parametrize("target", TRICKS)
def test_tricks_end_here_on_either_listener(proxied: Proxied, target: bytes) -> None:
    before = len(proxied.link.seen)
    for port in (proxied.partners, proxied.administrators):
        assert proxied.raw(port, target) in (400, 404)
    assert len(proxied.link.seen) == before


@settings(max_examples=60, deadline=None)
@given(st.text("/.%vfleetcontrolruime12eE;?#-\\ ", max_size=40))
def test_whatever_is_asked_only_listed_paths_arrive(proxied: Proxied, text: str) -> None:
    target = b"/" + text.encode().replace(b" ", b"")
    before = len(proxied.link.seen)
    proxied.raw(proxied.partners, target)
    for path, _, _ in proxied.link.seen[before:]:
        assert path.removeprefix("/v1/fleet/") in FLEET


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"])
def test_other_methods_end_here(proxied: Proxied, method: bytes) -> None:
    assert proxied.raw(proxied.partners, FLEET_PATH.encode(), method) == 405


def test_a_body_beyond_all_measure_is_refused(proxied: Proxied) -> None:
    with proxied.client() as client, pytest.MonkeyPatch.context() as patched:
        patched.setattr("server.service.proxy._LARGEST", 1000)
        stated = client.post(proxied.url(FLEET_PATH), content=bytes(1001))
        streamed = client.post(proxied.url(FLEET_PATH), content=iter([bytes(600), bytes(600)]))
    assert (stated.status_code, streamed.status_code) == (413, 413)


def test_health_is_the_administrators_to_ask(proxied: Proxied) -> None:
    assert proxied.raw(proxied.administrators, b"/healthz", b"GET") == 200
    assert proxied.raw(proxied.partners, b"/healthz", b"GET") == 404
    assert proxied.raw(proxied.partners, b"/readyz", b"GET") == 404
    assert proxied.raw(proxied.administrators, b"/healthz", b"POST") == 404


# --- when the SuperLink is not there -----------------------------------------------------------


class Away(httpx.AsyncBaseTransport):
    """A SuperLink that cannot be reached."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise self.error("no")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (httpx.ConnectError, 503),
        (httpx.ConnectTimeout, 503),
        (httpx.ReadTimeout, 504),
        (httpx.RemoteProtocolError, 502),
    ],
)
def test_an_unreachable_superlink_is_reported(error: type[Exception], status: int) -> None:
    async def ask(method: str, path: str) -> int:
        client = httpx.AsyncClient(transport=Away(error), base_url="https://link")
        inside = httpx.ASGITransport(Gate(ADMINISTRATORS, client))
        async with httpx.AsyncClient(transport=inside, base_url="https://x") as outside:
            return (await outside.request(method, path)).status_code

    assert asyncio.run(ask("POST", CONTROL_PATH)) == status
    assert asyncio.run(ask("GET", "/healthz")) == 200
    assert asyncio.run(ask("GET", "/readyz")) == 503


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", int(taken.getsockname()[1]))
        with pytest.raises(ServerError, match=rf"listen.partners = '{address}' cannot be used"):
            bind_socket("partners", address)
