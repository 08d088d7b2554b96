"""An HTTP server of one application, beside others in a process and stopped by its owner."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from client.serving.service.clients import Tls
from shared.errors import SiteError
from shared.system.address import Address

__all__ = ["HttpServer"]


class HttpServer:
    """Serves an application until it is stopped.

    Args:
        app: what answers.
        setting: names the address in errors, such as "serve.http".
        tls: certificates; None serves in clear.
    """

    def __init__(self, app: ASGIApp, *, setting: str, tls: Tls | None = None) -> None:
        self._app, self._setting, self._tls = app, setting, tls
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port: a free one where `port` is 0.

        Raises:
            SiteError: the address cannot be listened on.
        """
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=30,
            **_tls_options(self._tls),
        )
        listening = self._bind(host, port)
        self._server = _Server(config)
        self._task = asyncio.ensure_future(self._server.serve([listening]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        return int(listening.getsockname()[1])

    async def stop(self, seconds: float) -> None:
        """Take no further requests, and end those in progress within a time."""
        if self._server is not None and self._task is not None:
            self._server.config.timeout_graceful_shutdown = max(1, int(seconds))
            self._server.should_exit = True
            await self._task

    def _bind(self, host: str, port: int) -> socket.socket:
        """Return a socket that is bound to an address.

        It names its protocol: otherwise asyncio leaves TCP_NODELAY off, and a client's delayed
        acknowledgement holds each answer up for 40 ms.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            bound.close()
            raise SiteError(
                f"{self._setting} = '{Address(host, port)}': cannot listen there "
                f"({error.strerror}). Stop what listens there, or choose another address."
            ) from error
        return bound


class _Server(uvicorn.Server):
    """A server among others in a process, which is stopped by its owner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handler."""
        yield


class _Protocol(H11Protocol):
    """Closes a connection that has sent no whole request head in `_HEAD_SECONDS`."""

    _HEAD_SECONDS, _MORE_SECONDS = 10.0, 0.5

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401
        """Begin to count."""
        super().connection_made(transport)
        self._head = self.loop.call_later(self._HEAD_SECONDS, self._end_without_head)

    def _end_without_head(self) -> None:
        # What has arrived by now is read before the next timer: a busy service hangs up on nobody.
        self._head = self.loop.call_later(self._MORE_SECONDS, self._end_if_silent)

    def _end_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting."""
        self._head.cancel()
        super().connection_lost(exc)


def _tls_options(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    options: dict[str, Any] = {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
    if tls.client_authority is not None:
        options["ssl_ca_certs"] = str(tls.client_authority)
        options["ssl_cert_reqs"] = ssl.CERT_REQUIRED
    return options
