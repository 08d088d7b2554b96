"""Answers the steps of sums as a node does, and is killed at every step; then it is asked again.

    python kill_driver.py SITE REQUEST LINES

SITE is a site without a roster, REQUEST the summed request in Flower's form, LINES how many lines
of `client.secure_aggregation` each step is killed before. Its three peers live in this process.
Prints one JSON object a kill. One process that forks: importing the model takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message

import client.app
import client.ledger.limits
import client.secure_aggregation.sessions
from client.ledger.ledger import Ledger
from client.secure_aggregation.sessions import Session
from client.site.aggregation_key import make_aggregation_key
from client.site.reading import ledger_of
from client.site.site import Site
from shared.messages import AGGREGATE, AggregateRequest, TrainRequest, refusal_in, request_digest
from shared.secure_aggregation.coordinator import Coordinator
from shared.secure_aggregation.messages import (
    Aggregation,
    Invitation,
    KeyList,
    Participant,
    ShareDelivery,
    SurvivorList,
    SurvivorProof,
)
from shared.secure_aggregation.parameters import Parameters
from shared.secure_aggregation.partner import Partner
from shared.secure_aggregation.roster import Roster
from shared.secure_aggregation.signing import Identity, public_to_text
from tests.client.secure_aggregation.peers import Attempt, said
from tests.conftest import context, toml
from tests.flower_internals import ProtoRecordDict, TaskIdentity, recorddict_from_proto
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

OWN, PEERS = "alpha", ("beta", "gamma", "delta")
PARAMETERS = Parameters.choose(4, 1, 1)
STEPS = (1, 2, 3, 4, 5)
ROOM = str(Path(client.secure_aggregation.sessions.__file__).parent)
POINTS: dict[int, dict[str, Arm]] = {
    step: {
        "before the session is written": at_call(Session, "save"),
        "with the session written": after_call(Session, "save"),
        "as the answer leaves": nothing,
    }
    for step in STEPS
}
POINTS[3] |= {
    "before the charge": at_call(Ledger, "charge"),
    "after the charge": after_call(Ledger, "charge"),
    "before the outbox": at_call(Ledger, "keep_answer"),
    "with the outbox written": after_call(Ledger, "keep_answer"),
}


def in_room(file: str) -> bool:
    return file.startswith(ROOM)


def halfway() -> None:
    """Dies with half of the session in a temporary file."""

    def half(file: Path, content: bytes) -> None:
        file.with_name(f".{file.name}.0.new").write_bytes(content[: len(content) // 2])
        die()

    vars(client.secure_aggregation.sessions)["write_atomically"] = half


for points in POINTS.values():
    points["with half of the session written"] = halfway


class Sum(Attempt):
    """An attempt with one real site, and peers that answer from this process."""

    def __init__(self, node: Node, number: int) -> None:
        self.number, self.request, self.node = number, node.request, node
        identities = node.peers | {OWN: node.own}
        aggregation = Aggregation(
            federation=node.request.catalogue,
            run=node.request.run,
            round=number,
            request=request_digest(node.request),
            length=sum(value.size for value in node.request.weights.values()),
        )
        self.machine = Coordinator(
            Invitation(
                aggregation=aggregation,
                participants=tuple(
                    Participant(name, identities[name].public) for name in sorted(identities)
                ),
                threshold=PARAMETERS.threshold,
                dropouts=PARAMETERS.dropouts,
            )
        )
        publics = {name: one.public for name, one in identities.items()}
        self.others = {
            name: Partner(
                identity,
                Roster(
                    peers={n: key for n, key in publics.items() if n != name},
                    colluding=PARAMETERS.colluding,
                    fewest=PARAMETERS.fewest_survivors,
                ),
                aggregation,
            )
            for name, identity in node.peers.items()
        }

    def of_others(self, step: int) -> None:
        """Take the peers through a step."""
        for name, machine in self.others.items():
            data = self.step(step, name).message
            self.receive(step, name, self._reply(machine, step, data).to_bytes())

    def _reply(self, machine: Partner, step: int, data: bytes) -> Any:  # noqa: ANN401
        match step:
            case 1:
                return machine.advertise(Invitation.from_bytes(data))
            case 2:
                return machine.share_keys(KeyList.from_bytes(data))
            case 3:
                nothing = np.zeros(self.machine.invitation.aggregation.length, np.int64)
                return machine.mask(ShareDelivery.from_bytes(data), nothing)
            case 4:
                return machine.sign_survivors(SurvivorList.from_bytes(data))
            case _:
                return machine.unmask(SurvivorProof.from_bytes(data))


class Node:
    """The site that is killed, and its peers' keys."""

    def __init__(self, folder: Path, request: TrainRequest) -> None:
        self.folder, self.request = folder, request
        self.own = make_aggregation_key(Site.load(folder))
        self.peers = {
            name: Identity(name=name, key=ec.generate_private_key(ec.SECP384R1())) for name in PEERS
        }
        roster: dict[str, object] = {
            "roster.colluding": PARAMETERS.colluding,
            "roster.fewest": PARAMETERS.fewest_survivors,
        }
        roster |= {
            f"roster.peers.{name}": public_to_text(one.public) for name, one in self.peers.items()
        }
        with (folder / "site.toml").open("a") as file:
            file.write(toml(roster))

    def answer(self, request: AggregateRequest) -> Message:
        message = Message(request.to_content(), 1, AGGREGATE)
        return client.app.app(message, context({"site": str(self.folder)}))

    def killed(self, request: AggregateRequest, arm: Arm, *, then_die: bool) -> tuple[bytes, int]:
        """What left a process that is killed while it answers, and how it ended."""

        def answered(send: Send) -> None:
            ledger_of.cache_clear()
            arm()
            send(hashlib.sha256(said(self.answer(request))).digest())
            if then_die:
                die()

        return finish(*forked(answered))

    def charged(self) -> int:
        ledger_of.cache_clear()
        ledger = Site.load(self.folder).open_ledger()
        ledger.verify()
        return sum(release.steps for release in ledger.releases())


def story(node: Node, number: int, step: int, point: str, arm: Arm) -> dict[str, Any]:
    """Kill the site at one point of one step of one attempt, and go on with what is left."""
    attempt, before = Sum(node, number), node.charged()
    for earlier in range(1, step):
        attempt.receive(earlier, OWN, said(node.answer(attempt.step(earlier, OWN))))
        attempt.of_others(earlier)
    asked = attempt.step(step, OWN)
    left, status = node.killed(asked, arm, then_die=point == "as the answer leaves")
    after_kill = node.charged() - before
    replies = [node.answer(asked) for _ in range(2)]
    again = [hashlib.sha256(said(r)).digest() if r.has_content() else b"" for r in replies]
    dropped = not replies[0].has_content()
    if not dropped:
        attempt.receive(step, OWN, said(replies[0]))
    attempt.of_others(step)
    for later in range(step + 1, 6):
        if not dropped:
            attempt.receive(later, OWN, said(node.answer(attempt.step(later, OWN))))
        attempt.of_others(later)
    attempt.machine.total()
    return {
        "step": step,
        "point": point,
        "status": status,
        "left": left.hex(),
        "again": [digest.hex() for digest in again],
        "refusal": refusal_in(replies[0]),
        "dropped": dropped,
        "charged_after_kill": after_kill,
        "charged_in_the_end": node.charged() - before,
    }


def main() -> None:
    """Kills at every point of every step, and before evenly spread lines."""
    # Another test's concern, and most of a request's time.
    vars(client.ledger.limits)["epsilon"] = lambda *_: 1.0
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    raw = ProtoRecordDict.FromString(Path(sys.argv[2]).read_bytes())
    request = TrainRequest.from_content(recorddict_from_proto(raw))
    node, number, lines = Node(Path(sys.argv[1]), replace(request)), 0, int(sys.argv[3])
    for step, points in POINTS.items():
        for point, arm in points.items():
            number += 1
            sys.stdout.write(json.dumps(story(node, number, step, point, arm)) + "\n")
        number += 1
        attempt = Sum(node, number)
        for earlier in range(1, step):
            attempt.receive(earlier, OWN, said(node.answer(attempt.step(earlier, OWN))))
            attempt.of_others(earlier)
        total = lines_of(partial(node.answer, attempt.step(step, OWN)), in_room)
        for share in range(lines):
            number += 1
            count = 1 + int((share + 0.5) / lines * total)
            found = story(node, number, step, f"line {count}", at_line(count, in_room))
            sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
