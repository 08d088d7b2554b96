"""gRPC: the operations, health and reflection.

A client that hangs holds a connection and no thread: a stream that sends nothing for
`serve.timeout_seconds` is ended, and a peer that does not answer pings is disconnected.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from client.serving.service import recommender_pb2 as pb
from client.serving.service import recommender_pb2_grpc as pb_grpc
from client.serving.service.clients import Clients, Tls
from client.serving.service.operations import Operations, Timing
from client.serving.service.status import Code, ServiceError
from shared.errors import SiteError

__all__ = ["SERVICE", "GrpcTransport"]

SERVICE: str = pb.DESCRIPTOR.services_by_name["Recommender"].full_name
_TOGETHER = 64
"""Requests of a stream that are answered in one pass."""
_HEALTH = f"/{health.SERVICE_NAME}/"
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second service on the port is an error, not a second half
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Calls that gRPC keeps until they are looked at: what is more, it drops without a status.
    ("grpc.server.max_pending_requests", 16_384),
    ("grpc.server.max_pending_requests_hard_limit", 32_768),
    ("grpc.max_receive_message_length", 4 * 2**20),
)


class GrpcTransport:
    """A gRPC server.

    Args:
        operations: what is answered.
        clients: who may ask.
        tls: certificates; None serves in clear.
        seconds: after which a request is given up.
    """

    def __init__(
        self,
        operations: Operations,
        clients: Clients,
        *,
        tls: Tls | None = None,
        seconds: float = 5.0,
    ) -> None:
        self._tls, self._health = tls, health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=[_Gate(clients)], options=_OPTIONS)
        servicer = _Servicer(operations, seconds)
        add: Any = pb_grpc.add_RecommenderServicer_to_server  # generated, without types
        add(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port: a free one where `port` is 0.

        Raises:
            SiteError: the address cannot be listened on.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, _credentials(self._tls))
        except RuntimeError:
            bound = 0
        if not bound:
            raise SiteError(
                f"serve.grpc = '{address}': cannot listen there. Stop what listens there, or "
                "choose another address."
            )
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return int(bound)

    async def stop(self, seconds: float) -> None:
        """Take no further requests, and end those in progress within a time."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(seconds)


class _Servicer(pb_grpc.RecommenderServicer):
    """The operations, as gRPC calls them."""

    def __init__(self, operations: Operations, seconds: float) -> None:
        self._operations, self._seconds = operations, seconds

    async def Recommend(self, request: pb.RecommendRequest, context: Any) -> Any:  # noqa: ANN401, N802
        """Answer one request."""
        return await self._answer(self._operations.recommend, request, context)

    async def Similar(self, request: pb.SimilarRequest, context: Any) -> Any:  # noqa: ANN401, N802
        """List similar items."""
        return await self._answer(self._operations.similar, request, context)

    async def Feedback(self, request: pb.FeedbackRequest, context: Any) -> Any:  # noqa: ANN401, N802
        """Store events."""
        return await self._answer(self._operations.feedback, request, context)

    async def RecommendBatch(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.RecommendRequest],
        context: Any,  # noqa: ANN401
    ) -> AsyncIterator[pb.RecommendResponse]:
        """Answer requests as they come, those that are there together."""
        async for requests in _gathered(request_iterator, self._seconds, context):
            responses = await self._answer(self._operations.recommend_batch, requests, context)
            for response in responses:
                yield response

    async def _answer(
        self,
        operation: Callable[[Any, Timing], Awaitable[Any]],
        request: Any,  # noqa: ANN401
        context: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        remaining = context.time_remaining()
        seconds = self._seconds if remaining is None else min(self._seconds, remaining)
        try:
            return await operation(request, Timing("grpc", seconds))
        except ServiceError as error:
            await _abort(context, error)


async def _gathered(
    requests: AsyncIterator[pb.RecommendRequest],
    seconds: float,
    context: Any,  # noqa: ANN401
) -> AsyncIterator[list[pb.RecommendRequest]]:
    """Yield what has arrived of a stream, up to `_TOGETHER` requests at a time."""
    waiting: asyncio.Queue[pb.RecommendRequest | None] = asyncio.Queue(_TOGETHER)

    async def read() -> None:
        async for request in requests:
            await waiting.put(request)
        await waiting.put(None)

    reader = asyncio.ensure_future(read())
    try:
        while True:
            try:
                first = await asyncio.wait_for(waiting.get(), seconds)
            except TimeoutError:
                sentence = f"the stream sent nothing for {seconds:g} s: begin another."
                await _abort(context, ServiceError(Code.DEADLINE_EXCEEDED, sentence))
            batch = [first]
            while len(batch) < _TOGETHER and not waiting.empty():
                batch.append(waiting.get_nowait())
            if some := [request for request in batch if request is not None]:
                yield some
            if None in batch:
                return
    finally:
        reader.cancel()


async def _abort(context: Any, error: ServiceError) -> NoReturn:  # noqa: ANN401
    await context.abort(grpc.StatusCode[error.code.name], error.sentence)
    raise AssertionError  # abort raises


class _Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets clients in that have a token; the state of health is everybody's."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        handler_call_details: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return the handler of a call, or one that refuses it."""
        sent = dict(handler_call_details.invocation_metadata)
        if handler_call_details.method.startswith(_HEALTH) or self._clients.accepts(
            str(sent.get("authorization", ""))
        ):
            return await continuation(handler_call_details)
        return grpc.unary_unary_rpc_method_handler(_refuse)


async def _refuse(_: bytes, context: Any) -> NoReturn:  # noqa: ANN401
    sentence = "send a token that is known, as the header `authorization: Bearer TOKEN`."
    await _abort(context, ServiceError(Code.UNAUTHENTICATED, sentence))


def _credentials(tls: Tls) -> Any:  # noqa: ANN401
    authority = tls.client_authority
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=None if authority is None else authority.read_bytes(),
        require_client_auth=authority is not None,
    )
