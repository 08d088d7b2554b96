"""The same operations as JSON over HTTP, with an OpenAPI description and a page.

| request                     | answer                                                            |
|-----------------------------|-------------------------------------------------------------------|
| POST /v1/recommend          | RecommendRequest -> RecommendResponse                             |
| POST /v1/recommend-batch    | {"requests": [...]} -> {"responses": [...]}, at most 1,000        |
| POST /v1/similar            | SimilarRequest -> RecommendResponse                               |
| POST /v1/feedback           | FeedbackRequest -> FeedbackResponse                               |
| GET /healthz, /readyz       | 200 while it runs; while it takes requests                        |
| GET /openapi.json, /        | the description; a page of it, without anything from elsewhere    |
| anything else               | {"code": ..., "message": ...}, with the status of the code        |

A body is JSON of at most 4 MB, sent as `application/json`: a page of another origin cannot send
that without being asked first, and nobody answers. Without tokens, the service also answers to
names of this machine alone (`Host`), so that no page can reach it under a name of its own.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from client.serving.service import recommender_pb2 as pb
from client.serving.service.clients import Clients, Tls
from client.serving.service.openapi import describe, page
from client.serving.service.operations import Operations, Timing
from client.serving.service.status import Code, ServiceError
from shared.errors import SiteError
from shared.system.address import Address

__all__ = ["MOST_REQUESTS", "HttpTransport", "make_app"]

MOST_REQUESTS = 1000
"""Requests in one batch."""
_LARGEST = 4 * 2**20
_STATUSES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 408: "REQUEST_TIMEOUT"}
Call = Callable[[Any, Timing], Awaitable[Any]]


class HttpTransport:
    """An HTTP server.

    Args:
        operations: what is answered.
        clients: who may ask.
        tls: certificates; None serves in clear.
        seconds: after which a request is given up.
        any_host: whether it answers to every `Host`.
    """

    def __init__(
        self,
        operations: Operations,
        clients: Clients,
        *,
        tls: Tls | None = None,
        seconds: float = 5.0,
        any_host: bool = False,
    ) -> None:
        self._ready, self._tls = False, tls
        self._app = make_app(
            operations, clients, seconds=seconds, any_host=any_host, ready=lambda: self._ready
        )
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
        listening = _bind(host, port)
        self._server = _Server(config)
        self._task = asyncio.ensure_future(self._server.serve([listening]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._ready = True
        return int(listening.getsockname()[1])

    async def stop(self, seconds: float) -> None:
        """Take no further requests, and end those in progress within a time."""
        self._ready = False
        if self._server is not None and self._task is not None:
            self._server.config.timeout_graceful_shutdown = max(1, int(seconds))
            self._server.should_exit = True
            await self._task


def _bind(host: str, port: int) -> socket.socket:
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
            f"serve.http = '{Address(host, port)}': cannot listen there ({error.strerror}). Stop "
            "what listens there, or choose another address."
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


def make_app(
    operations: Operations,
    clients: Clients,
    *,
    seconds: float,
    any_host: bool,
    ready: Callable[[], bool],
) -> Starlette:
    """Return the application.

    Args:
        operations: what is answered.
        clients: who may ask.
        seconds: after which a request is given up.
        any_host: whether it answers to every `Host`.
        ready: whether requests are taken.
    """
    calls: dict[str, tuple[type[Message], Call]] = {
        "/v1/recommend": (pb.RecommendRequest, operations.recommend),
        "/v1/similar": (pb.SimilarRequest, operations.similar),
        "/v1/feedback": (pb.FeedbackRequest, operations.feedback),
    }

    def endpoint(kind: type[Message], call: Call) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            async def respond() -> object:
                body = await _read(request, clients, seconds)
                return _as_json(await call(_parse(body, kind()), Timing("http", seconds)))

            return await _guarded(respond, request, any_host=any_host)

        return answer

    async def batch(request: Request) -> Response:
        async def respond() -> object:
            body = await _read(request, clients, seconds)
            listed = body.get("requests")
            if set(body) != {"requests"} or not isinstance(listed, list):
                raise ServiceError(Code.INVALID_ARGUMENT, 'send {"requests": [...]}.')
            if not 1 <= len(listed) <= MOST_REQUESTS:
                sentence = f"there are {len(listed):,} requests: send 1 to {MOST_REQUESTS:,}."
                raise ServiceError(Code.INVALID_ARGUMENT, sentence)
            requests = [_parse(one, pb.RecommendRequest()) for one in listed]
            timing = Timing("http", seconds)
            responses = await operations.recommend_batch(requests, timing)
            return {"responses": [_as_json(response) for response in responses]}

        return await _guarded(respond, request, any_host=any_host)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"process": True})

    async def readyz(_: Request) -> Response:
        return JSONResponse({"ready": ready()}, 200 if ready() else 503)

    description = describe()

    async def openapi(_: Request) -> Response:
        return JSONResponse(description)

    async def show(_: Request) -> Response:
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(page(description), headers=policy)

    routes = [
        Route(path, endpoint(kind, call), methods=["POST"]) for path, (kind, call) in calls.items()
    ]
    routes += [
        Route("/v1/recommend-batch", batch, methods=["POST"]),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/openapi.json", openapi),
        Route("/", show),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_route})


async def _guarded(
    respond: Callable[[], Awaitable[object]], request: Request, *, any_host: bool
) -> Response:
    """Answer a request with what `respond` returns, or with the error that it raises."""
    try:
        if not any_host:
            _check_host(request)
        return JSONResponse(await respond())
    except ServiceError as error:
        headers = {"WWW-Authenticate": "Bearer"} if error.code is Code.UNAUTHENTICATED else {}
        if error.code is Code.RESOURCE_EXHAUSTED:
            headers["Retry-After"] = "1"
        body = {"code": error.code.name, "message": error.sentence}
        return JSONResponse(body, error.code.value, headers=headers)
    except _TooLarge:
        return _error(
            413, "PAYLOAD_TOO_LARGE", f"a body has at most {_LARGEST:,} bytes: send less."
        )
    except _OtherType:
        return _error(415, "UNSUPPORTED_MEDIA_TYPE", "send JSON, as Content-Type application/json.")
    except TimeoutError:
        return _error(408, "REQUEST_TIMEOUT", "the body did not arrive in time: send it again.")
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it


class _TooLarge(Exception):
    """The body is longer than `_LARGEST`."""


class _OtherType(Exception):
    """The body does not say that it is JSON."""


def _check_host(request: Request) -> None:
    """Refuse a name that is not this machine's own."""
    host = request.headers.get("host", "")
    address = Address.parse(host) or Address.parse(f"{host}:80")
    if address is None or not address.loopback:
        sentence = "this service answers to localhost alone; with tokens it answers to all names."
        raise ServiceError(Code.UNAUTHENTICATED, sentence)


async def _read(request: Request, clients: Clients, seconds: float) -> dict[str, Any]:
    """Return the JSON object of a request that a known client sent.

    Raises:
        ServiceError: the client is not known, or the body is not a JSON object.
        TimeoutError: the body did not arrive in time.
    """
    if not clients.accepts(request.headers.get("authorization", "")):
        sentence = "send a token that is known, as the header `Authorization: Bearer TOKEN`."
        raise ServiceError(Code.UNAUTHENTICATED, sentence)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _OtherType
    content = bytearray()
    async with asyncio.timeout(seconds):
        async for piece in request.stream():
            content += piece
            if len(content) > _LARGEST:
                raise _TooLarge
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ServiceError(Code.INVALID_ARGUMENT, "the body is no JSON object.")
    return body


def _parse(body: object, message: Message) -> Message:
    name = message.DESCRIPTOR.name
    if not isinstance(body, dict):
        raise ServiceError(Code.INVALID_ARGUMENT, f"a {name} is a JSON object.")
    try:
        return json_format.ParseDict(body, message, max_recursion_depth=10)
    except (json_format.ParseError, ValueError, TypeError) as error:
        sentence = f"the body is no {name}: {' '.join(str(error).split())}"
        raise ServiceError(Code.INVALID_ARGUMENT, sentence) from None


def _as_json(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return fields


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error(status, _STATUSES.get(status, "ERROR"), "see / for what is here.")


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status)


def _tls_options(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    options: dict[str, Any] = {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
    if tls.client_authority is not None:
        options["ssl_ca_certs"] = str(tls.client_authority)
        options["ssl_cert_reqs"] = ssl.CERT_REQUIRED
    return options
