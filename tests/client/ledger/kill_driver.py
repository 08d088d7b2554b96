"""Serves requests as a node does, a process each, and kills it at a stated point.

    python kill_driver.py SITE MESSAGE LEDGER_KILLS OTHER_KILLS MOMENTS

Prints one JSON object a kill: what had left before it, and what the same request gets afterwards.
One process that forks: importing the model takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flwr.app import Context, Message, RecordDict

import client.app
import client.ledger.ledger
import client.ledger.limits
from client.ledger.ledger import Ledger
from client.site.reading import ledger_of
from client.site.site import Site
from shared.messages import TRAIN, TrainRequest
from shared.privacy.noise import SystemRandom
from tests.flower_internals import (
    ProtoRecordDict,
    TaskIdentity,
    recorddict_from_proto,
    recorddict_to_proto,
)
from tests.kills import (
    Arm,
    Send,
    after_call,
    at_call,
    at_line,
    die,
    finish,
    forked,
    lines_of,
    nothing,
)

SOURCES = str(Path(client.app.__file__).parent)
LEDGER = str(Path(client.ledger.ledger.__file__).parent)


def in_ledger(file: str) -> bool:
    return file.startswith(LEDGER)


def elsewhere(file: str) -> bool:
    return file.startswith(SOURCES) and not file.startswith(LEDGER)


STEPS: dict[str, Arm] = {
    "before the charge": at_call(Ledger, "charge"),
    "between charge and training": after_call(Ledger, "charge"),
    "during training": at_call(SystemRandom, "normal"),
    "between training and the stored answer": at_call(Ledger, "keep_answer"),
    "between the stored answer and the reply": after_call(Ledger, "keep_answer"),
}


@dataclass(frozen=True)
class Node:
    """A site and the request that it is asked, round after round.

    Attributes:
        site: its folder.
        request: all but the round.
    """

    site: Path
    request: TrainRequest

    def answer(self, number: int) -> bytes:
        """What leaves in answer to the request for a round."""
        content = replace(self.request, round=number).to_content()
        context = Context(
            run_id=1,
            node_id=1,
            node_config={"site": str(self.site)},
            state=RecordDict(),
            run_config={},
        )
        reply = client.app.app(Message(content, 1, TRAIN), context)
        return bytes(recorddict_to_proto(reply.content).SerializeToString())

    def start(
        self, number: int, arm: Arm, *, then_die: bool = False, warm: bool = False
    ) -> tuple[int, int]:
        """A new process that answers a round; its id and the pipe that its answer leaves by.

        One that is warm has checked the ledger before: its lines of code are as many each time.
        """

        def killed(send: Send) -> None:
            if not warm:
                ledger_of.cache_clear()
            arm()
            body = self.answer(number)
            if then_die:
                die()
            send(body)

        return forked(killed)

    def charges(self) -> int:
        """Steps that the ledger says were released."""
        site = Site.load(self.site)
        ledger = site.open_ledger()
        ledger.verify()
        return sum(release.steps for release in ledger.releases())

    def report(self, point: str, number: int, left: bytes, status: int) -> None:
        """Asks twice again, and says what came of it."""
        after_kill = self.charges()
        again = [finish(*self.start(number, nothing)) for _ in range(2 if point in STEPS else 1)]
        digests = [hashlib.sha256(body).hexdigest() for body, _ in again]
        found = {
            "point": point,
            "round": number,
            "status": status,
            "left": len(left),
            "left_is_repeated": again[0][0].startswith(left),
            "again": digests,
            "again_status": [code for _, code in again],
            "size": len(again[0][0]),
            "charged_after_kill": after_kill,
            "charged_in_the_end": self.charges(),
        }
        sys.stdout.write(json.dumps(found) + "\n")


def main() -> None:
    """Kills at every step, before evenly spread lines, and at random moments."""
    # Another test's concern, and most of a request's time.
    vars(client.ledger.limits)["epsilon"] = lambda *_: 1.0
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    raw = ProtoRecordDict.FromString(Path(sys.argv[2]).read_bytes())
    node = Node(Path(sys.argv[1]), TrainRequest.from_content(recorddict_from_proto(raw)))
    in_ledger_kills, other_kills, moments = map(int, sys.argv[3:])
    draw = random.Random(0)
    node.answer(1)
    places = [(in_ledger_kills, in_ledger), (other_kills, elsewhere)]
    totals, number = (
        [lines_of(partial(node.answer, 2 + n), c) for n, (_, c) in enumerate(places)],
        3,
    )
    for point, arm in STEPS.items():
        number += 1
        node.report(point, number, *finish(*node.start(number, arm)))
    number += 1
    node.report(
        "before the reply leaves", number, *finish(*node.start(number, nothing, then_die=True))
    )
    number += 1
    node.report("after the reply", number, *finish(*node.start(number, nothing)))
    for (kills, counted), total in zip(places, totals, strict=True):
        for share in range(kills):
            number += 1
            count = 1 + int((share + draw.random()) / kills * total)
            ledger_of(Site.load(node.site)).releases()
            node.report(
                f"line {count} of {total} {counted.__name__}",
                number,
                *finish(*node.start(number, at_line(count, counted), warm=True)),
            )
    number += 1
    began = time.monotonic()
    whole = finish(*node.start(number, nothing))
    usual = time.monotonic() - began
    node.report("after the reply", number, *whole)
    for _ in range(moments):
        number += 1
        child, source = node.start(number, nothing)
        time.sleep(draw.random() * 1.3 * usual)
        os.kill(child, signal.SIGKILL)
        node.report("a moment", number, *finish(child, source))


if __name__ == "__main__":
    main()
