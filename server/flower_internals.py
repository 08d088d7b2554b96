"""The parts of Flower's private modules that the coordinator and the lab use.

No other module of `server` and `simulations` names them. Read on Flower 1.41. Private parts change
without notice: `tests/server/test_flower_internals.py` records their signatures, fields and values,
and fails where a new release has other ones. A name is loaded when it is first imported from here:
most of them take more than half a second, and the lab, for one, needs few.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeGuard

from flwr.serverapp import Grid

__all__ = [
    "ErrorCode",
    "HttpGrid",
    "ObjectPullError",
    "ObjectTree",
    "ProtoMessage",
    "PullAppMessagesRequest",
    "Run",
    "TaskIdentity",
    "build_fab_from_files",
    "flower_superexec",
    "is_http_grid",
    "make_confirm_message_received_fn_protobuf",
    "make_message",
    "make_pull_object_fn_protobuf",
    "message_from_proto",
    "pull_and_inflate_object_from_tree",
    "replace_task_launcher",
]

if TYPE_CHECKING:
    # 1.41. A message of given metadata, here the error in place of a reply whose content never
    # came. The public Message makes replies to requests alone, and numbers them anew.
    from flwr.app.message import make_message

    # 1.41. Build the app bundle from files; `flwr build` is the same, and prints.
    from flwr.cli.build import build_fab_from_files

    # 1.41. What Flower's own errors mean: a node that went away, a reply without its content.
    from flwr.common.constant import ErrorCode

    # 1.41. A message from what the SuperLink sends. The public Message cannot be parsed.
    from flwr.common.serde import message_from_proto

    # 1.41. The type of that.
    from flwr.proto.message_pb2 import Message as ProtoMessage

    # 1.41. The parts of a message and how they hang together.
    from flwr.proto.message_pb2 import ObjectTree

    # 1.41. Ask which replies were announced. The public Grid waits for the content of each.
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest

    # 1.41. The command `flower-superexec`, which reads its own arguments.
    from flwr.supercore.cli import flower_superexec

    # 1.41. Fetch a message's parts and say that they came, as HttpGrid does.
    from flwr.supercore.inflatable.inflatable_protobuf_utils import (
        make_confirm_message_received_fn_protobuf,
        make_pull_object_fn_protobuf,
    )
    from flwr.supercore.inflatable.inflatable_utils import (
        ObjectPullError,
        pull_and_inflate_object_from_tree,
    )

    # 1.41. A run as Flower knows it, which a Grid holds: in a public signature, and not public.
    from flwr.supercore.run import Run

    # 1.41. The task that this process is, by which Message fills in its sender. The lab sets it
    # where no SuperLink does.
    from flwr.supercore.task_identity import TaskIdentity

    # 1.41. The grid that a ServerApp is given by a SuperLink; its connection is `_runtime_client`.
    from flwr.superlink.grid import HttpGrid
else:
    _SOURCES = {
        "ErrorCode": "flwr.common.constant.ErrorCode",
        "HttpGrid": "flwr.superlink.grid.HttpGrid",
        "ObjectPullError": "flwr.supercore.inflatable.inflatable_utils.ObjectPullError",
        "ObjectTree": "flwr.proto.message_pb2.ObjectTree",
        "ProtoMessage": "flwr.proto.message_pb2.Message",
        "PullAppMessagesRequest": "flwr.proto.runtime_pb2.PullAppMessagesRequest",
        "Run": "flwr.supercore.run.Run",
        "TaskIdentity": "flwr.supercore.task_identity.TaskIdentity",
        "build_fab_from_files": "flwr.cli.build.build_fab_from_files",
        "flower_superexec": "flwr.supercore.cli.flower_superexec",
        "make_confirm_message_received_fn_protobuf": (
            "flwr.supercore.inflatable.inflatable_protobuf_utils"
            ".make_confirm_message_received_fn_protobuf"
        ),
        "make_message": "flwr.app.message.make_message",
        "make_pull_object_fn_protobuf": (
            "flwr.supercore.inflatable.inflatable_protobuf_utils.make_pull_object_fn_protobuf"
        ),
        "message_from_proto": "flwr.common.serde.message_from_proto",
        "pull_and_inflate_object_from_tree": (
            "flwr.supercore.inflatable.inflatable_utils.pull_and_inflate_object_from_tree"
        ),
    }

    def __getattr__(name: str) -> Any:  # noqa: ANN401 whatever Flower has there
        if name not in _SOURCES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = _SOURCES[name].rpartition(".")
        return getattr(import_module(module), attribute)


_GRID = "flwr.superlink.grid"


def is_http_grid(grid: Grid) -> TypeGuard[HttpGrid]:
    """Return whether a ServerApp was given `grid` by a SuperLink.

    A process without a SuperLink, such as the lab's, does not load `HttpGrid` for the answer.
    """
    return _GRID in sys.modules and isinstance(grid, sys.modules[_GRID].HttpGrid)


def replace_task_launcher(launcher: object) -> None:
    """Make Flower's executor start its tasks with `launcher.Popen`, in this process.

    1.41. Flower has no option for how a task's token is passed, nor for whom a task outlives.
    """
    vars(import_module("flwr.supercore.superexec.executor.subprocess_executor"))["subprocess"] = (
        launcher
    )
