"""Flower's own HttpGrid before a stand-in of the SuperLink, whose replies come in parts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict

from server.flower_internals import HttpGrid
from server.rounds.grid import PatientGrid
from tests.flower_internals import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ErrorCode,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
    Run,
    get_all_nested_objects,
    get_object_tree,
    message_to_proto,
    remove_content_from_message,
)

SLACK = 3.0
"""Seconds that a busy machine may take longer."""
NOT_YET = b""


class SuperLink:
    """Announces every node's reply at once; its content is there after `fill`."""

    def __init__(self) -> None:
        self.replies: dict[int, Message] = {}
        self.announced: set[str] = set()
        self.confirmed: list[str] = []
        self._parts: dict[str, bytes] = {}
        self._draw = np.random.default_rng(0)

    def fill(self, *nodes: int) -> None:
        for node in nodes:
            parts = get_all_nested_objects(self.replies[node])
            self._parts |= {name: part.deflate() for name, part in parts.items()}

    def forget(self, node: int) -> None:
        """As 180 s after the last part."""
        for name in get_all_nested_objects(self.replies[node]):
            del self._parts[name]

    def PushMessages(self, request: PushAppMessagesRequest) -> PushAppMessagesResponse:
        numbers = [head.metadata.message_id for head in request.messages_list]
        for head in request.messages_list:
            asked = Message(RecordDict(), head.metadata.dst_node_id, "train")
            asked.metadata.__dict__["_message_id"] = head.metadata.message_id
            arrays = ArrayRecord([self._draw.standard_normal(3)])
            reply = Message(RecordDict({"arrays": arrays}), reply_to=asked)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            self.replies[asked.metadata.dst_node_id] = reply
            self._parts |= dict.fromkeys(get_all_nested_objects(reply), NOT_YET)
        return PushAppMessagesResponse(message_ids=numbers)

    def PushObject(self, request: object) -> object:
        raise AssertionError("it asked for none")

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        asked = set(request.message_ids)
        assert not asked & self.announced, "a reply is announced once"
        replies = [r for r in self.replies.values() if r.metadata.reply_to_message_id in asked]
        self.announced |= {reply.metadata.reply_to_message_id for reply in replies}
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(r)) for r in replies],
            message_object_trees=[get_object_tree(reply) for reply in replies],
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        content = self._parts.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None,
            object_available=bool(content),
            object_content=content or NOT_YET,
        )

    def ConfirmMessageReceived(
        self, request: ConfirmMessageReceivedRequest
    ) -> ConfirmMessageReceivedResponse:
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()


@pytest.fixture
def superlink() -> SuperLink:
    return SuperLink()


@pytest.fixture
def flowers(superlink: SuperLink) -> HttpGrid:
    grid = HttpGrid(token="of the task")
    vars(grid)["_client"] = superlink
    grid.set_run(Run.create_empty(1))
    return grid


@pytest.fixture
def grid(flowers: HttpGrid, superlink: SuperLink) -> Iterator[PatientGrid]:
    yield PatientGrid(flowers)
    for node in superlink.replies:  # what still waits for one would keep this process
        superlink.fill(node)


def requests() -> list[Message]:
    return [Message(RecordDict(), node, "train", group_id="1") for node in (1, 2, 3)]


@contextmanager
def soon(superlink: SuperLink, seconds: float, what: str, node: int) -> Iterator[None]:
    timer = threading.Timer(seconds, getattr(superlink, what), [node])
    timer.start()
    yield
    timer.join()


def senders(replies: Any) -> list[int]:  # noqa: ANN401
    return sorted(reply.metadata.src_node_id for reply in replies)


def filling(superlink: SuperLink, *nodes: int) -> None:
    """These nodes' replies are there at once."""
    push = superlink.PushMessages

    def pushed(request: PushAppMessagesRequest) -> PushAppMessagesResponse:
        answer = push(request)
        superlink.fill(*nodes)
        return answer

    vars(superlink)["PushMessages"] = pushed


def test_flowers_grid_waits_for_one_reply_and_returns_no_other(
    flowers: HttpGrid, superlink: SuperLink
) -> None:
    """Why there is a `Fetcher`: where this fails, Flower has mended it."""
    filling(superlink, 2, 3)
    replies: list[Message] = []
    thread = threading.Thread(
        target=lambda: replies.extend(flowers.send_and_receive(requests(), timeout=0.2)),
        daemon=True,
    )
    thread.start()
    thread.join(2.0)
    assert thread.is_alive(), "past its deadline"
    superlink.fill(1)
    thread.join(20.0)
    assert senders(replies) == [1, 2, 3]


def test_an_incomplete_reply_delays_no_other_and_can_come_late(
    grid: PatientGrid, superlink: SuperLink
) -> None:
    filling(superlink, 2, 3)
    began = time.monotonic()
    replies = list(grid.send_and_receive(requests(), timeout=1.5))
    assert 1.5 <= time.monotonic() - began < 1.5 + SLACK
    assert senders(replies) == [2, 3]
    assert grid.late_replies() == []
    superlink.fill(1)
    end = time.monotonic() + 10
    late: list[Message] = []
    while not late and time.monotonic() < end:
        late = grid.late_replies()
    assert senders(late) == [1]
    assert grid.late_replies() == []
    for reply in [*replies, *late]:
        sent = superlink.replies[reply.metadata.src_node_id]
        assert reply.metadata.message_id == sent.metadata.message_id
        assert reply.content.object_id == sent.content.object_id
    assert sorted(superlink.confirmed) == sorted(
        reply.metadata.message_id for reply in superlink.replies.values()
    )


def test_a_slow_reply_is_taken_before_the_deadline(grid: PatientGrid, superlink: SuperLink) -> None:
    filling(superlink, 2, 3)
    began = time.monotonic()
    with soon(superlink, 2.0, "fill", 1):
        replies = grid.send_and_receive(requests(), timeout=60)
    assert senders(replies) == [1, 2, 3]
    assert time.monotonic() - began < 10


def test_a_reply_that_was_given_up_is_an_error_at_once(
    grid: PatientGrid, superlink: SuperLink
) -> None:
    filling(superlink, 2, 3)
    began = time.monotonic()
    with soon(superlink, 1.0, "forget", 1):
        replies = list(grid.send_and_receive(requests(), timeout=60))
    assert time.monotonic() - began < 10
    codes = {reply.metadata.src_node_id: reply.has_error() for reply in replies}
    assert codes == {1: True, 2: False, 3: False}
    (error,) = [reply for reply in replies if reply.has_error()]
    assert error.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    number = superlink.replies[1].metadata.reply_to_message_id
    assert error.metadata.reply_to_message_id == number
