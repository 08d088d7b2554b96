"""The parts of Flower's private modules that a node uses. No other module of `client` names them.

Read on Flower 1.41. Private parts change without notice: `tests/client/test_flower_internals.py`
records their signatures, fields and values, and fails where a new release has other ones. A name
is loaded when it is first imported from here, because SuperNode, executor and the processes that
answer requests each need few of them, and all together take more than a second to load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "CLIENT_APP_CRASHED_ERROR",
    "AcquireTaskRequest",
    "ActivateNodeRequest",
    "ApiErrorCode",
    "Fab",
    "FleetHttpClient",
    "FlowerError",
    "HeartbeatSender",
    "InMemoryNodeState",
    "NoObjectInStoreError",
    "NodeAuthHttpInterceptor",
    "ObjectPushError",
    "ObjectStore",
    "ObjectTree",
    "ProtoMessage",
    "RetryInvoker",
    "RuntimeHttpClient",
    "RuntimeTokenHttpInterceptor",
    "RuntimeVersionHttpInterceptor",
    "SubStatus",
    "SuperExecAuthHttpInterceptor",
    "TaskType",
    "flower_supernode",
    "insert_message",
    "iterate_object_tree",
    "log",
    "make_simple_http_retry_invoker",
    "make_task_heartbeat_fn_http",
    "message_from_proto",
    "message_to_proto",
    "public_key_to_bytes",
    "pull_task_input",
    "push_message",
    "push_object_contents_from_iterable",
    "push_task_output",
    "remove_content_from_message",
    "replace_in_supernode",
]

if TYPE_CHECKING:
    # 1.41. A message without its content, to keep a request's sender and number after the content
    # is gone. The public Message has a content or an error, never neither.
    from flwr.app.message import remove_content_from_message

    # 1.41. How a task ended, for push_task_output. Flower's own task process reports it; there is
    # no public one.
    from flwr.common.constant import SubStatus

    # 1.41. Messages as bytes, for the pipe between the executor and the process that answers. The
    # public Message cannot be serialised.
    from flwr.common.serde import message_from_proto, message_to_proto

    # 1.41. A request to connect a node. `client.checks.registration` asks with one whether a key is
    # registered; Flower has no question for that.
    from flwr.proto.fleet_pb2 import ActivateNodeRequest

    # 1.41. The type of those bytes.
    from flwr.proto.message_pb2 import Message as ProtoMessage

    # 1.41. The parts of a message and how they hang together, in signatures of the node's state.
    from flwr.proto.message_pb2 import ObjectTree

    # 1.41. An executor's request for a task. Flower's executor asks for all kinds of tasks and
    # starts each as `flwr-clientapp`, which installs and runs what the coordinator sent.
    from flwr.proto.runtime_pb2 import AcquireTaskRequest

    # 1.41. Flower's log, with its handler and format.
    from flwr.supercore import log

    # 1.41. The kind of task that AcquireTaskRequest names.
    from flwr.supercore.constant import TaskType

    # 1.41. What a refused request says.
    from flwr.supercore.error import ApiErrorCode, FlowerError

    # 1.41. The app bundle that came with a request. Flower's task process installs and imports it;
    # ours compares its hash and runs the partner's own copy.
    from flwr.supercore.fab import Fab

    # 1.41. Tell the SuperNode that a task is being worked on; without that it gives the task out
    # again after 30 s.
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http

    # 1.41. Walk over all parts of a message.
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

    # 1.41. Send a reply's parts to the coordinator. Flower's gives the whole reply up when one
    # part is declined, for example because it arrived before and only the answer was lost.
    from flwr.supercore.inflatable.inflatable_utils import (
        ObjectPushError,
        push_object_contents_from_iterable,
    )

    # 1.41. What authenticates a call to the SuperNode: its version, a task's token, or the secret
    # that executor and SuperNode share.
    from flwr.supercore.interceptors import (
        RuntimeTokenHttpInterceptor,
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )

    # 1.41. Where the SuperNode keeps the parts of messages.
    from flwr.supercore.object_store import NoObjectInStoreError, ObjectStore

    # 1.41. A public key as the SuperLink compares it.
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    # 1.41. When a call is tried again. Flower gives up on every error whose text holds "ssl",
    # "tls" or "certificate", and there is no option for it.
    from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker

    # 1.41. Calls to the SuperNode from processes of the same machine.
    from flwr.supercore.runtime import RuntimeHttpClient

    # 1.41. The command `flower-supernode`, which reads its own arguments.
    from flwr.supernode.cli.flower_supernode import flower_supernode

    # 1.41. Calls to the coordinator as a SuperNode makes them, with its signature.
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    # 1.41. The messages that a SuperNode holds, in memory. Flower's sends a reply whose content is
    # not all there, and takes two replies to one request.
    from flwr.supernode.nodestate import InMemoryNodeState

    # 1.41. The error that a SuperNode sends in place of a ClientApp that died.
    from flwr.supernode.nodestate.in_memory_nodestate import CLIENT_APP_CRASHED_ERROR

    # 1.41. Fetch a task's request; hand its reply over; end the task. Flower's loop around them
    # also installs and imports the app that the coordinator sent.
    from flwr.supernode.runtime.run_clientapp import (
        pull_task_input,
        push_message,
        push_task_output,
    )

    # 1.41. Put a reply into a node's state as if its ClientApp had sent it.
    from flwr.supernode.start_client_internal import _insert_message as insert_message
else:
    _SOURCES = {
        "ActivateNodeRequest": "flwr.proto.fleet_pb2.ActivateNodeRequest",
        "ApiErrorCode": "flwr.supercore.error.ApiErrorCode",
        "FlowerError": "flwr.supercore.error.FlowerError",
        "FleetHttpClient": "flwr.supernode.fleet_http_client.FleetHttpClient",
        "NodeAuthHttpInterceptor": (
            "flwr.supernode.node_auth_http_interceptor.NodeAuthHttpInterceptor"
        ),
        "public_key_to_bytes": "flwr.supercore.primitives.asymmetric.public_key_to_bytes",
        "AcquireTaskRequest": "flwr.proto.runtime_pb2.AcquireTaskRequest",
        "CLIENT_APP_CRASHED_ERROR": (
            "flwr.supernode.nodestate.in_memory_nodestate.CLIENT_APP_CRASHED_ERROR"
        ),
        "Fab": "flwr.supercore.fab.Fab",
        "HeartbeatSender": "flwr.supercore.heartbeat.HeartbeatSender",
        "InMemoryNodeState": "flwr.supernode.nodestate.InMemoryNodeState",
        "NoObjectInStoreError": "flwr.supercore.object_store.NoObjectInStoreError",
        "ObjectPushError": "flwr.supercore.inflatable.inflatable_utils.ObjectPushError",
        "ObjectStore": "flwr.supercore.object_store.ObjectStore",
        "ObjectTree": "flwr.proto.message_pb2.ObjectTree",
        "ProtoMessage": "flwr.proto.message_pb2.Message",
        "RetryInvoker": "flwr.supercore.retry.RetryInvoker",
        "RuntimeHttpClient": "flwr.supercore.runtime.RuntimeHttpClient",
        "RuntimeTokenHttpInterceptor": "flwr.supercore.interceptors.RuntimeTokenHttpInterceptor",
        "RuntimeVersionHttpInterceptor": (
            "flwr.supercore.interceptors.RuntimeVersionHttpInterceptor"
        ),
        "SubStatus": "flwr.common.constant.SubStatus",
        "SuperExecAuthHttpInterceptor": "flwr.supercore.interceptors.SuperExecAuthHttpInterceptor",
        "TaskType": "flwr.supercore.constant.TaskType",
        "flower_supernode": "flwr.supernode.cli.flower_supernode.flower_supernode",
        "insert_message": "flwr.supernode.start_client_internal._insert_message",
        "iterate_object_tree": "flwr.supercore.inflatable.inflatable_object.iterate_object_tree",
        "log": "flwr.supercore.log",
        "make_simple_http_retry_invoker": "flwr.supercore.retry.make_simple_http_retry_invoker",
        "make_task_heartbeat_fn_http": "flwr.supercore.heartbeat.make_task_heartbeat_fn_http",
        "message_from_proto": "flwr.common.serde.message_from_proto",
        "message_to_proto": "flwr.common.serde.message_to_proto",
        "pull_task_input": "flwr.supernode.runtime.run_clientapp.pull_task_input",
        "push_message": "flwr.supernode.runtime.run_clientapp.push_message",
        "push_object_contents_from_iterable": (
            "flwr.supercore.inflatable.inflatable_utils.push_object_contents_from_iterable"
        ),
        "push_task_output": "flwr.supernode.runtime.run_clientapp.push_task_output",
        "remove_content_from_message": "flwr.app.message.remove_content_from_message",
    }

    def __getattr__(name: str) -> Any:  # noqa: ANN401 whatever Flower has there
        if name not in _SOURCES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = _SOURCES[name].rpartition(".")
        return getattr(import_module(module), attribute)


_REPLACEABLE = {
    # 1.41. Makes the rule by which calls to the coordinator are tried again.
    "make_simple_http_retry_invoker": "flwr.supernode.fleet_http_connection",
    # 1.41. The class of the node's state.
    "InMemoryNodeState": "flwr.supernode.nodestate.nodestate_factory",
    # 1.41. Sends a reply's parts.
    "push_object_contents_from_iterable": "flwr.supernode.start_client_internal",
}


def replace_in_supernode(name: str, value: object) -> None:
    """Make `flower-supernode` use `value` for a name of `_REPLACEABLE`, in this process.

    Flower has no option for any of them.
    """
    vars(import_module(_REPLACEABLE[name]))[name] = value
