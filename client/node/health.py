"""Answers /healthz, /readyz and /metrics, beside the node.

| path       | 200                                                | else |
|------------|----------------------------------------------------|------|
| `/healthz` | both of the node's processes run                   | 503  |
| `/readyz`  | and the ledger opens, the vetted app is whole, and | 503  |
|            | the coordinator answers in TLS                     |      |
| `/metrics` | always                                             |      |
| any other  |                                                    | 404  |

A body names what holds and what does not, and never why: that `sotto-node check` tells.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from client.bundle.trust import verify_trusted
from client.checks.handshake import hello
from client.node.prometheus import NodeMetrics, Processes
from client.site.site import Site
from shared.errors import SiteError, SottoError

__all__ = ["probes"]

_FRESH = 10.0
"""Seconds for which a finding holds: the coordinator is not asked at every probe."""
_IDLE = 10.0


@contextmanager
def probes(site: Site, processes: Processes) -> Iterator[tuple[str, int] | None]:
    """Answers while within; gives the address, or None where site.toml names none.

    Raises:
        SiteError: the address cannot be listened on.
    """
    address = site.node.metrics_address
    if address is None:
        yield None
        return
    try:
        server = _server(address, _Answers(site, processes))
    except OSError as error:
        raise SiteError(
            f"node.metrics = '{site.node.metrics}': cannot listen there ({error.strerror}). "
            "Choose another port, or '' for none."
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[0], server.server_address[1]  # type: ignore[misc]
    finally:
        server.shutdown()
        server.server_close()


class _Answers:
    """What each path says: status, type and body."""

    def __init__(self, site: Site, processes: Processes) -> None:
        self._site, self._processes = site, processes
        self._registry = CollectorRegistry()
        self._registry.register(NodeMetrics(site, processes))
        self._lock = threading.Lock()  # of the ledger's reader
        self._found: tuple[float, dict[str, bool]] = (-_FRESH, {})

    def to(self, path: str) -> tuple[int, str, bytes]:
        """The answer to a request for a path."""
        with self._lock:
            if path == "/metrics":
                return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            if path == "/healthz":
                return _verdict({"processes": self._processes.all_run})
            if path == "/readyz":
                return _verdict({"processes": self._processes.all_run} | self._facts())
        return HTTPStatus.NOT_FOUND, "text/plain", b"/metrics, /healthz, /readyz\n"

    def _facts(self) -> dict[str, bool]:
        site, (at, found) = self._site, self._found
        if time.monotonic() - at > _FRESH:
            found = {
                "ledger": _holds(site.open_ledger),
                "bundle": _holds(lambda: verify_trusted(site)),
                "coordinator": _holds(
                    lambda: hello(site.coordinator.address, site.root_certificates_file)
                ),
            }
            self._found = time.monotonic(), found
        return found


def _holds(look: Callable[[], object]) -> bool:
    try:
        look()
    except (SottoError, OSError):
        return False
    return True


def _verdict(found: dict[str, bool]) -> tuple[int, str, bytes]:
    fine = all(found.values())
    status = HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "application/json", json.dumps(found).encode() + b"\n"


def _server(address: tuple[str, int], answers: _Answers) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = _IDLE

        def do_GET(self) -> None:
            status, kind, body = answers.to(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A probe every few seconds is nothing to note."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if _is_v6(address[0]) else socket.AF_INET

    return Server(address, Handler)


def _is_v6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False
