"""An HTTP server for /healthz, /readyz and /metrics, in a thread beside the process's own work.

| request                          | answer                                    |
|----------------------------------|-------------------------------------------|
| GET or HEAD of a known path      | what its function returns                 |
| any other path                   | 404, with the paths that there are        |
| any other method of a known path | 405                                       |

Requests are answered one at a time, so that the functions need no locks.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

__all__ = ["Answer", "Routes", "answer_request", "json_answer", "metrics_answer", "serve_health"]

_IDLE = 10.0
"""Seconds after which a connection that sends nothing is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a path answers.

    Attributes:
        status: HTTP status code.
        content_type: of the body.
        body: may be empty.
    """

    status: int
    content_type: str
    body: bytes


Routes = Mapping[str, Callable[[str], Answer]]
"""By path, the function that answers; it is given the request's Accept header, "" without one."""


def json_answer(body: object, *, ok: bool) -> Answer:
    """Return a JSON answer with status 200, or 503 where `ok` is false."""
    return Answer(
        status=HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE,
        content_type="application/json",
        body=json.dumps(body).encode() + b"\n",
    )


def metrics_answer(registry: CollectorRegistry, accept: str) -> Answer:
    """Collect all metrics, in Prometheus's text format or in OpenMetrics' where it is accepted."""
    encode, content_type = choose_encoder(accept)
    return Answer(status=HTTPStatus.OK, content_type=content_type, body=encode(registry))


def answer_request(routes: Routes, method: str, target: str, accept: str = "") -> Answer:
    """Return the answer to a request.

    Args:
        routes: the known paths.
        method: such as "GET".
        target: path, with a query or without.
        accept: the request's Accept header.
    """
    route = routes.get(target.partition("?")[0])
    if route is None:
        text = ", ".join(sorted(routes)) + "\n"
        return Answer(status=HTTPStatus.NOT_FOUND, content_type="text/plain", body=text.encode())
    if method not in ("GET", "HEAD"):
        return Answer(status=HTTPStatus.METHOD_NOT_ALLOWED, content_type="text/plain", body=b"")
    return route(accept)


@contextmanager
def serve_health(address: tuple[str, int], routes: Routes) -> Iterator[tuple[str, int]]:
    """Answer requests in the background while the block runs; yield the address in use.

    Args:
        address: host and port to listen on; port 0 takes any free one.
        routes: the known paths.

    Raises:
        OSError: the address cannot be listened on.
    """
    server = _server(address, routes)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[0], server.server_address[1]  # type: ignore[misc]
    finally:
        server.shutdown()
        server.server_close()


def _server(address: tuple[str, int], routes: Routes) -> ThreadingHTTPServer:
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = _IDLE

        def answer(self) -> None:
            with one_at_a_time:
                answer = answer_request(
                    routes, self.command, self.path, self.headers.get("Accept", "")
                )
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 http.server's names

        def log_message(self, *_: object) -> None:
            """Write nothing: a probe every few seconds would fill the log."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if _is_v6(address[0]) else socket.AF_INET

    return Server(address, Handler)


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
