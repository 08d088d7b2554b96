"""The same operations as JSON over HTTP, with an OpenAPI description and a page.

| request                     | answer                                                            |
|-----------------------------|-------------------------------------------------------------------|
| POST /v1/recommend          | RecommendRequest -> RecommendResponse                             |
| POST /v1/recommend-batch    | {"requests": [...]} -> {"responses": [...]}, at most 1,000        |
| POST /v1/similar            | SimilarRequest -> RecommendResponse                               |
| POST /v1/feedback           | FeedbackRequest -> FeedbackResponse                               |
| GET /healthz, /readyz       | 200 while it runs; while it takes requests                        |
| GET /openapi.json, /        | the description; a page of it that can ask, with nothing from     |
|                             |   elsewhere                                                       |
| anything else               | {"code": ..., "message": ...}, with the status of the code        |

A body is JSON of at most 4 MB, sent as `application/json`: a page of another origin cannot send
that without being asked first, and nobody answers. Without tokens, the service also answers to
names of this machine alone (`Host`), so that no page can reach it under a name of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from client.serving.service import recommender_pb2 as pb
from client.serving.service.clients import Clients, Tls
from client.serving.service.http_server import HttpServer
from client.serving.service.openapi import PAGE_POLICY, describe, page
from client.serving.service.operations import Operations, Timing
from client.serving.service.status import Code, ServiceError
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
        self._ready = False
        app = make_app(
            operations, clients, seconds=seconds, any_host=any_host, ready=lambda: self._ready
        )
        self._server = HttpServer(app, setting="serve.http", tls=tls)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port: a free one where `port` is 0.

        Raises:
            SiteError: the address cannot be listened on.
        """
        port = await self._server.start(host, port)
        self._ready = True
        return port

    async def stop(self, seconds: float) -> None:
        """Take no further requests, and end those in progress within a time."""
        self._ready = False
        await self._server.stop(seconds)


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
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return HTMLResponse(page(description), headers=headers)

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
