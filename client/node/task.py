"""Fetch a task's request from the SuperNode, and hand its reply over."""

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

__all__ = ["Answerer", "answer", "send_late_reply"]

Answerer = Callable[[Message, Context, Fab], Message]
"""Returns the reply to a request; its last argument is the app that the coordinator sent."""


def answer(runtime: str, token: str, notify: Callable[[bytes], None], reply_to: Answerer) -> None:
    """Fetch a task's request, answer it, and send the reply.

    Args:
        runtime: address of the SuperNode, host:port.
        token: of the task.
        notify: called with the request without its content, before it is answered.
        reply_to: raises nothing.
    """
    with _client(runtime, token) as client, _heartbeats(client):
        message, context, _, fab = pull_task_input(client)
        notify(_without_content(message))
        push_message(client, reply_to(message, context, fab), context)
        # No context: nothing of a request is left for the next one.
        push_task_output(client, None, SubStatus.COMPLETED, "")


def send_late_reply(
    runtime: str, token: str, request: bytes, reply_to: Callable[[Message], Message]
) -> None:
    """Send the reply to a request whose process died after it had fetched it.

    Args:
        runtime: address of the SuperNode, host:port.
        token: of the task.
        request: as that process passed it to `notify`.
        reply_to: called with the request without its content.

    Raises:
        httpx.HTTPError: the SuperNode does not answer, or has given the task up.
    """
    message = message_from_proto(ProtoMessage.FromString(request))
    metadata = message.metadata
    context = Context(metadata.run_id, metadata.dst_node_id, {}, RecordDict(), {})
    with _client(runtime, token) as client:
        push_message(client, reply_to(message), context)
        push_task_output(client, None, SubStatus.COMPLETED, "")


def _without_content(message: Message) -> bytes:
    """Return a message without its content, as bytes."""
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
def _heartbeats(client: RuntimeHttpClient) -> Iterator[None]:
    """Tell the SuperNode, while the block runs, that the task is being worked on."""
    beat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    beat.start()
    try:
        yield
    finally:
        beat.stop()
