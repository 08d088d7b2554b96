"""The proxy in front of Flower's SuperLink: passes on requests for known paths, and no others.

The SuperLink of Flower 1.41 serves partners, administrators and its own executor on one port, and
asks administrators for no password. So each listener has a list of paths of its own; a path that
does not match it byte for byte, as it was sent, is refused.

| request                                             | partners' | administrators' |
|-----------------------------------------------------|-----------|-----------------|
| POST `/v1/fleet/` and one of twelve names           | passed on | 404             |
| POST `/v1/control/` and a name of small letters     | 404       | passed on       |
| `/v1/runtime/*`, `/docs`, `/openapi.json`, `/`      | 404       | 404             |
| `//`, `..`, `%2e`, `%2F`, `;`, capital letters      | 404       | 404             |
| a query                                             | 404       | 404             |
| any method other than POST                          | 405       | 405             |
| GET `/healthz`, `/readyz`                           | 404       | see below       |
| a body of more than 1 GB                            | 413       | 413             |
| the SuperLink is down, or does not answer in time   | 503, 504  | 503, 504        |

`/healthz` answers 200 while this process runs, `/readyz` while the SuperLink answers, too. Bodies
are streamed both ways; no part of them is stored or logged.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

__all__ = ["ADMINISTRATORS", "FLEET", "PARTNERS", "Gate", "Rule", "superlink_client"]

log = logging.getLogger("sotto.proxy")
FLEET = (
    "activate-node",
    "confirm-message-received",
    "deactivate-node",
    "get-fab",
    "get-run",
    "pull-messages",
    "pull-object",
    "push-messages",
    "push-object",
    "register-node",
    "send-node-heartbeat",
    "unregister-node",
)
"""All paths that a SuperNode of Flower 1.41 requests, below /v1/fleet/."""
_LARGEST = 10**9
"""Bytes of a body."""
_HOP_BY_HOP = {  # RFC 9110, section 7.6.1: not to be passed on
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"expect",
    b"host",
}
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one listener passes on.

    Attributes:
        name: for the log.
        paths: what a path must match in full, as it was sent.
        health: whether /healthz and /readyz are answered.
        seconds: how long the SuperLink may send nothing; None without limit, for streams of logs.
    """

    name: str
    paths: re.Pattern[bytes]
    health: bool
    seconds: float | None


PARTNERS = Rule(
    name="partners",
    paths=re.compile(b"/v1/fleet/(?:" + "|".join(FLEET).encode() + b")"),
    health=False,
    seconds=120.0,
)
"""Rule of the public listener."""
ADMINISTRATORS = Rule(
    name="administrators", paths=re.compile(rb"/v1/control/[a-z-]+"), health=True, seconds=None
)
"""Rule of the administrators' listener."""


def superlink_client(address: str, authority: str) -> httpx.AsyncClient:
    """Return a client of the SuperLink.

    Args:
        address: host:port.
        authority: PEM file of the authority that signed its certificate.
    """
    return httpx.AsyncClient(
        base_url=f"https://{address}",
        verify=ssl.create_default_context(cafile=authority),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=50),
        trust_env=False,
    )


class Gate:
    """An ASGI application that passes on the requests that its rule allows.

    Args:
        rule: of the listener.
        client: of the SuperLink.
    """

    def __init__(self, rule: Rule, client: httpx.AsyncClient) -> None:
        self._rule, self._client = rule, client

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 ASGI
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _answer_lifespan(receive, send)
            return
        path = bytes(scope["raw_path"])
        if self._rule.health and scope["method"] == "GET" and path in (b"/healthz", b"/readyz"):
            await _answer(send, 200 if path == b"/healthz" or await self._ready() else 503)
        elif status := self._refusal(scope, path):
            log.warning(
                "refused on the %s' listener: %s %s from %s",
                self._rule.name,
                scope["method"],
                ascii(path.decode("latin-1"))[:200],
                (scope.get("client") or ("?",))[0],
            )
            await _answer(send, status)
        else:
            await self._pass_on(_Exchange(scope, receive, send), path)

    def _refusal(self, scope: Any, path: bytes) -> int | None:  # noqa: ANN401 ASGI
        if scope["query_string"] or not self._rule.paths.fullmatch(path):
            return 404
        if scope["method"] != "POST":
            return 405
        length = dict(scope["headers"]).get(b"content-length", b"0")
        return 413 if not length.isdigit() or int(length) > _LARGEST else None

    async def _ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return (await self._client.get("/health", timeout=5.0)).status_code == 200
        return False

    async def _pass_on(self, exchange: _Exchange, path: bytes) -> None:
        timeout = httpx.Timeout(self._rule.seconds, connect=5.0)
        request = httpx.Request(
            "POST",
            self._client.base_url.copy_with(raw_path=path),
            headers=_end_to_end(exchange.scope["headers"]),
            content=exchange.body(),
            extensions={"timeout": timeout.as_dict()},
        )
        try:
            response = await self._client.send(request, stream=True)
        except _ClientGone:
            return
        except (_TooLong, httpx.HTTPError) as error:
            await _answer(exchange.send, _status(error))
            return
        try:
            await exchange.answer(response)
        finally:
            await response.aclose()


class _ClientGone(Exception):
    """The client has closed the connection."""


class _TooLong(Exception):
    """The body is longer than any message of Flower."""


def _status(error: Exception) -> int:
    """Return the status for a request that the SuperLink did not answer."""
    if isinstance(error, _TooLong):
        return 413
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return 503
    return 504 if isinstance(error, httpx.TimeoutException) else 502


@dataclass(slots=True)
class _Exchange:
    """One request and its answer."""

    scope: Any
    receive: Any
    send: Any

    async def body(self) -> AsyncIterator[bytes]:
        length = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            piece = message.get("body", b"")
            length += len(piece)
            if length > _LARGEST:
                raise _TooLong
            if piece:
                yield piece
            if not message.get("more_body", False):
                return

    async def answer(self, response: httpx.Response) -> None:
        """Pass the answer on until it ends, or the client closes the connection."""
        sending = asyncio.ensure_future(self._send(response))
        disconnect = asyncio.ensure_future(self._wait_for_disconnect())
        await asyncio.wait((sending, disconnect), return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, disconnect):
            task.cancel()
            # If the SuperLink dies meanwhile, the client sees an incomplete answer.
            with suppress(asyncio.CancelledError, httpx.HTTPError):
                await task

    async def _send(self, response: httpx.Response) -> None:
        headers = _end_to_end(response.headers.raw)
        start = {"type": "http.response.start", "status": response.status_code}
        await self.send(start | {"headers": headers})
        async for piece in response.aiter_raw():
            await self.send({"type": "http.response.body", "body": piece, "more_body": True})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _wait_for_disconnect(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


def _end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers without those that hold for one connection alone."""
    named = {
        word.strip().lower()
        for k, v in headers
        if k.lower() == b"connection"
        for word in v.split(b",")
    }
    return [(key, value) for key, value in headers if key.lower() not in _HOP_BY_HOP | named]


async def _answer(send: Any, status: int) -> None:  # noqa: ANN401 ASGI
    body = b"ok\n" if status == 200 else b""
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _answer_lifespan(receive: Any, send: Any) -> None:  # noqa: ANN401 ASGI
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
