"""One task that the SuperNode gave out, as Flower 1.41 speaks of it: request in, reply out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.app import Context, Message, RecordDict

from client.flower_internals import (
    Fab,
    HeartbeatSender,
    ProtoMessage,
    RuntimeHttpClient,
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SubStatus,
    make_simple_http_retry_invoker,
    make_task_heartbeat_fn_http,
    message_from_proto,
    message_to_proto,
    pull_task_input,
    push_message,
    push_task_output,
    remove_content_from_message,
)

__all__ = ["Answerer", "answer", "answer_late"]

Answerer = Callable[[Message, Context, Fab], Message]
"""Gives the reply to a request; the app that the coordinator sent comes with it."""


def answer(runtime: str, token: str, told: Callable[[bytes], None], reply_to: Answerer) -> None:
    """Fetches the request, and sends the reply to it.

    Args:
        runtime: address of the SuperNode, host:port.
        token: of the task.
        told: is given the request without its content, before it is answered.
        reply_to: raises nothing.
    """
    with _client(runtime, token) as client, _alive(client):
        message, context, _, fab = pull_task_input(client)
        told(_apart(message))
        push_message(client, reply_to(message, context, fab), context)
        # No context: nothing of a request is left for the next one.
        push_task_output(client, None, SubStatus.COMPLETED, "")


def answer_late(
    runtime: str, token: str, request: bytes, reply_to: Callable[[Message], Message]
) -> None:
    """Sends a reply in place of a process that had fetched the request and died.

    Args:
        runtime: address of the SuperNode, host:port.
        token: of the task.
        request: as that process told it.
        reply_to: is given the request without its content.

    Raises:
        httpx.HTTPError: the SuperNode does not answer, or has given the task up.
    """
    message = message_from_proto(ProtoMessage.FromString(request))
    known = message.metadata
    context = Context(known.run_id, known.dst_node_id, {}, RecordDict(), {})
    with _client(runtime, token) as client:
        push_message(client, reply_to(message), context)
        push_task_output(client, None, SubStatus.COMPLETED, "")


def _apart(message: Message) -> bytes:
    """A message without its content."""
    return bytes(message_to_proto(remove_content_from_message(message)).SerializeToString())


@contextmanager
def _client(runtime: str, token: str) -> Iterator[RuntimeHttpClient]:
    client = RuntimeHttpClient.from_server_address(
        server_address=runtime,
        insecure=True,  # on this machine's loopback
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _alive(client: RuntimeHttpClient) -> Iterator[None]:
    """Tells the SuperNode that the task is worked on."""
    beat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    beat.start()
    try:
        yield
    finally:
        beat.stop()
