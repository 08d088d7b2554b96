"""Flower's private modules in tests: what tests use of them, and what shows that they changed.

`python -m tests.flower_internals` records the shapes of all that client and server use.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import (
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.superexec.executor.types import ExecutionSpec
from flwr.supercore.task_identity import TaskIdentity

import client.flower_internals
import server.flower_internals

__all__ = [
    "CLIENT_MEMBERS",
    "RECORDS",
    "SERVER_MEMBERS",
    "ActivateNodeResponse",
    "ConfirmMessageReceivedRequest",
    "ConfirmMessageReceivedResponse",
    "ErrorCode",
    "ExecutionSpec",
    "Fab",
    "ObjectTree",
    "ProtoMessage",
    "ProtoRecordDict",
    "PullAppMessagesRequest",
    "PullAppMessagesResponse",
    "PullMessagesResponse",
    "PullObjectRequest",
    "PullObjectResponse",
    "PushAppMessagesRequest",
    "PushAppMessagesResponse",
    "Run",
    "SendNodeHeartbeatResponse",
    "TaskIdentity",
    "TaskType",
    "flower_module",
    "get_all_nested_objects",
    "get_object_tree",
    "message_from_proto",
    "message_to_proto",
    "recorddict_from_proto",
    "recorddict_to_proto",
    "remove_content_from_message",
    "shape",
    "shapes",
    "typed_imports",
]


def flower_module(name: str) -> Any:  # noqa: ANN401 a module has no type of its own
    """Return one of Flower's modules that take long to load, or in which names are replaced."""
    return import_module(f"flwr.{name}")


CLIENT_MEMBERS = {
    "HeartbeatSender": ("start", "stop"),
    "InMemoryNodeState": (
        "delete_messages",
        "get_messages_legacy",
        "store_message_and_object_tree",
    ),
    "ObjectStore": ("delete", "get", "get_object_tree"),
    "RuntimeHttpClient": ("close", "from_server_address"),
}
"""Of Flower's classes, the members that a node uses or overrides."""
SERVER_MEMBERS = {
    "HttpGrid": (
        "_runtime_client",
        "create_message",
        "get_node_ids",
        "pull_messages",
        "push_messages",
        "run",
        "set_run",
    ),
    "TaskIdentity": ("node_id", "run_id", "task_id"),
}
"""Of Flower's classes, the members that the coordinator or the lab uses."""
RECORDS = {
    "client": Path(__file__).with_name("client") / "flower_internals.json",
    "server": Path(__file__).with_name("server") / "flower_internals.json",
}


def shapes(side: str) -> dict[str, Any]:
    """Return the shape of everything of Flower's that "client" or "server" uses."""
    module = {"client": client.flower_internals, "server": server.flower_internals}[side]
    members = {"client": CLIENT_MEMBERS, "server": SERVER_MEMBERS}[side]
    ours = {node.name for node in _tree(module).body if isinstance(node, ast.FunctionDef)}
    names = [name for name in module.__all__ if name not in ours]
    return {name: shape(getattr(module, name), *members.get(name, ())) for name in names}


def typed_imports(module: ModuleType) -> dict[str, str]:
    """Return what a module imports for the type checker alone: a name, and where it is from."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for block in _tree(module).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))


def shape(thing: Any, *members: str) -> Any:  # noqa: ANN401 anything of Flower's
    """Return what would show that Flower changed `thing`, in values that JSON holds.

    Args:
        thing: a function, a class, an enumeration, a Protobuf message or a constant.
        members: of a class, those that are used.
    """
    if hasattr(thing, "DESCRIPTOR"):
        return {"fields": [field.name for field in thing.DESCRIPTOR.fields]}
    if isinstance(thing, type) and issubclass(thing, Enum):
        return {"values": {one.name: one.value for one in thing}}
    if isinstance(thing, type):
        constants = {
            name: value for name, value in vars(thing).items() if type(value) in (int, str)
        }
        return {
            "bases": [base.__name__ for base in thing.__bases__],
            "call": _signature(thing),
            "constants": {name: v for name, v in constants.items() if name.isupper()},
            "members": {name: _member(thing, name) for name in members},
        }
    return {"call": _signature(thing)} if callable(thing) else {"value": repr(thing)}


def _member(kind: type, name: str) -> str:
    member = inspect.getattr_static(kind, name)
    if isinstance(member, property):
        return "property"
    return _signature(getattr(kind, name)) if callable(getattr(kind, name)) else "attribute"


def _signature(called: Callable[..., Any]) -> str:
    """The parameters and the result, without where their types are from."""
    text = re.sub(r"<[^>]*>", "...", str(inspect.signature(called)))
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)


if __name__ == "__main__":  # after Flower's changes were read, and our uses adapted
    for side, file in RECORDS.items():
        file.write_text(json.dumps(shapes(side), indent=1) + "\n", encoding="utf-8")
