"""What a federation of real processes does when its parts are killed, cut off or lied to.

    python -m simulations.benchmarks.faults FOLDER [--only WORD]

Prints, for each fault, what was seen, whether anything was lost, and the seconds until the next
finished round. Linux; a few minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx

from server.progress import RunState, RunStatus
from shared.errors import CheckpointError, Outcome
from simulations.benchmarks.deployment import EPSILON, Deployment, wait_for

__all__ = ["Fault", "Seen", "faults", "started", "suffer"]

PARTNERS = ("alpha", "beta", "gamma")
ROUNDS = 400
PATIENCE = 420.0
_SERVER = {
    "SuperLink": r"flower-superlink",
    "its executor": r"shared\.superexec",
    "ServerApp": r"flwr-serverapp",
    "proxy": r"server\.listeners",
    "keeper": r"server\.cli keep",
}
_NODE = {
    "SuperNode": r"flower-supernode",
    "node's executor": r"client\.executor",
    "ClientApp": r"multiprocessing\.forkserver",
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: for people.
        happen: does it, and undoes it where it does not end by itself.
        ends: whether rounds are to be finished again afterwards.
    """

    name: str
    happen: Callable[[Deployment], str]
    ends: bool = True


@dataclasses.dataclass(frozen=True)
class Seen:
    """What came of a fault.

    Attributes:
        fault: its name.
        told: what it did.
        outcomes: of the replies that did not count since then.
        seconds: from the fault until the next finished round; negative where there was none.
        usual: seconds of a round before it.
        lost: rounds that were finished and are no more; charges beyond one for each round.
    """

    fault: str
    told: str
    outcomes: dict[str, int]
    seconds: float
    usual: float
    lost: int


def faults() -> list[Fault]:
    """Every fault, the milder ones first."""
    found = []
    for share in (0.2, 0.7):
        when = f"at {share:.0%} of a round"
        for name, pattern in _NODE.items():
            found.append(Fault(f"{name} killed {when}", _kill("alpha", pattern, share)))
        for name, pattern in _SERVER.items():
            found.append(Fault(f"{name} killed {when}", _kill("server", pattern, share)))
    found.append(Fault("the whole machine of the coordinator", _machine))
    found.append(Fault("network cut for 90 s", _cut))
    found.append(Fault("one node away for two rounds", _away))
    found.append(Fault("a request to a path that partners may not reach", _forbidden))
    found.append(Fault("an unregistered node", _unregistered))
    found.append(Fault("a bundle changed by one byte at a node", _changed_bundle))
    found.append(Fault("a revoked key", _revoked))
    return found


def _kill(owner: str, pattern: str, share: float) -> Callable[[Deployment], str]:
    def happen(deployment: Deployment) -> str:
        _wait_for_round(deployment, _round(deployment) + 1)
        time.sleep(share * deployment.status.round_seconds)
        killed = deployment.kill(owner, pattern)
        return f"{len(killed)} processes killed"

    return happen


def _machine(deployment: Deployment) -> str:
    """Everything of the coordinator's at once, and `up` again."""
    count = deployment.kill("server", r".")
    deployment.processes["server"].kill()
    deployment.processes["server"].wait()
    deployment.up_server()
    return f"{len(count) + 1} processes killed; started again"


def _cut(deployment: Deployment) -> str:
    with deployment.wire.cut():
        time.sleep(90)
    return "no connection for 90 s"


def _away(deployment: Deployment) -> str:
    node = deployment.processes["beta"]
    node.terminate()
    node.wait(60)
    _wait_for_round(deployment, _round(deployment) + 2)
    deployment.up_node("beta")
    return "ended, and started two rounds later"


def _forbidden(deployment: Deployment) -> str:
    context = ssl.create_default_context(cafile=str(deployment.server / "ca.crt"))
    address, told = f"https://localhost:{deployment.wire.port}", []
    for path in ("/v1/runtime/acquire-task", "/v1/control/list-runs", "/docs", "/openapi.json"):
        answer = httpx.post(address + path, verify=context, timeout=20)
        told.append(f"{path} {answer.status_code}")
        assert answer.status_code in (403, 404, 405)
    return ", ".join(told)


def _unregistered(deployment: Deployment) -> str:
    """It tries for three rounds."""
    deployment.init_node("mallory")
    deployment.up_node("mallory")
    _wait_for_round(deployment, _round(deployment) + 3)
    assert "mallory" not in _status(deployment).organisations
    deployment.processes.pop("mallory").terminate()
    return "never took part"


def _changed_bundle(deployment: Deployment) -> str:
    """One byte of an installed file; the node runs on, and is asked for two more rounds."""
    (file,) = (deployment.folder / "gamma" / "flower").rglob("client/trainer.py")
    content, mode = file.read_bytes(), file.stat().st_mode
    steps = deployment.spent("gamma")[1]
    file.chmod(0o600)
    file.write_bytes(content.replace(b"noise", b"n0ise", 1))
    file.chmod(mode)
    _wait_for_round(deployment, _round(deployment) + 3)
    told = _status(deployment).organisations["gamma"]
    assert told.outcome != Outcome.VALID, "it ran what nobody vetted"
    file.chmod(0o600)
    file.write_bytes(content)
    file.chmod(mode)
    return f"{told.outcome}; {deployment.spent('gamma')[1] - steps} steps charged meanwhile"


def _revoked(deployment: Deployment) -> str:
    deployment.call("server", "revoke", "gamma", "--server", deployment.server)
    _wait_for_round(deployment, _round(deployment) + 3)
    told = _status(deployment).organisations["gamma"]
    assert not told.connected
    return f"{told.outcome} from then on"


def suffer(deployment: Deployment, fault: Fault) -> Seen:
    """Lets a fault happen, and waits until a round is finished again."""
    wait_for(f"everybody, before: {fault.name}", lambda: _settled(deployment), PATIENCE)
    before = _status(deployment)
    began = time.monotonic()
    told = fault.happen(deployment)
    at = _status(deployment)
    since = time.monotonic()
    wait_for(f"a round after: {fault.name}", lambda: _round(deployment) > at.round, PATIENCE)
    after = _status(deployment)
    seconds = time.monotonic() - (since if "killed" in fault.name else began)
    return Seen(
        fault=fault.name,
        told=told,
        outcomes=_difference(before, after),
        seconds=seconds,
        usual=before.round_seconds,
        lost=max(0, at.round - after.round) + _overcharged(deployment),
    )


def _settled(deployment: Deployment) -> bool:
    """Whether everybody's reply counted in the last round."""
    organisations = _status(deployment).organisations
    return all(organisations[name].outcome == Outcome.VALID for name in deployment.partners)


def _overcharged(deployment: Deployment) -> int:
    """Charges beyond one for each round that was begun."""
    begun = _round(deployment) + 1
    return sum(max(0, deployment.spent(name)[1] - begun) for name in deployment.partners)


def _difference(before: RunStatus, after: RunStatus) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, organisation in after.organisations.items():
        old = before.organisations[name].replies if name in before.organisations else {}
        for outcome, count in organisation.replies.items():
            if outcome != Outcome.VALID and count > old.get(outcome, 0):
                found[outcome] = found.get(outcome, 0) + count - old.get(outcome, 0)
    return found


def _status(deployment: Deployment) -> RunStatus:
    def read() -> RunStatus | None:
        with suppress(CheckpointError):
            return deployment.status
        return None

    status = wait_for("the run's status", read, 60)
    assert isinstance(status, RunStatus)
    return status


def _round(deployment: Deployment) -> int:
    return _status(deployment).round


def _wait_for_round(deployment: Deployment, number: int) -> None:
    wait_for(f"round {number}", lambda: _round(deployment) >= number, PATIENCE)


def started(folder: Path, partners: tuple[str, ...], rounds: int) -> Deployment:
    """A federation with a run in its second round."""
    deployment = Deployment(folder, partners)
    try:
        deployment.init_server()
        deployment.up_server()
        for name in partners:
            deployment.init_node(name)
            deployment.join(name)
            deployment.up_node(name)
        deployment.run(rounds)
        _wait_for_round(deployment, 1)
    except BaseException:
        deployment.close()
        raise
    return deployment


def main() -> None:
    """Suffers each fault in turn, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    arguments = parser.parse_args()
    deployment = started(arguments.folder, PARTNERS, ROUNDS)
    try:
        for fault in faults():
            if arguments.only in fault.name:
                seen = suffer(deployment, fault)
                sys.stdout.write(json.dumps(dataclasses.asdict(seen)) + "\n")
                sys.stdout.flush()
        state = _status(deployment).state
        spent = {name: deployment.spent(name) for name in PARTNERS}
        assert all(epsilon <= EPSILON for epsilon, _ in spent.values())
        sys.stdout.write(json.dumps({"state": str(state), "spent": spent}) + "\n")
        assert state in (RunState.RUNNING, RunState.RETRYING)
    finally:
        deployment.close()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the wire's threads wait for connections
