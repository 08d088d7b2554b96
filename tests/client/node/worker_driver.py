"""Answers requests as the executor's processes do, each in a process of its own; for the tests.

Reads [{"site", "fab"}] as JSON on standard input; prints what each reply was.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict

import client
from client.node.worker import reply_to
from shared.messages import refusal_in
from tests.flower_internals import Fab, TaskIdentity


def ask(site: str, fab: str) -> dict[str, Any]:
    content = Path(fab).read_bytes()
    sent = Fab(hashlib.sha256(content).hexdigest(), content, {})
    message = Message(RecordDict(), dst_node_id=1, message_type="query.echo")
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    reply = reply_to(Path(site), message, context, sent)
    if reply.has_error():
        return {"refusal": refusal_in(reply), "said": reply.error.reason}
    return {"content": {key: dict(record) for key, record in reply.content.items()}}


def told(out: Any, case: dict[str, str]) -> None:  # noqa: ANN401 a connection
    out.send(ask(**case))


def main() -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    fork = multiprocessing.get_context("fork")
    replies = []
    for case in json.load(sys.stdin):
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=told, args=(there, case))
        process.start()
        there.close()
        replies.append(here.recv())
        process.join()
    json.dump({"installed": str(client.__file__), "replies": replies}, sys.stdout)


if __name__ == "__main__":
    main()
