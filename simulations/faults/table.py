"""What a federation of real processes does when its parts are killed, cut off or lied to.

    python -m simulations.faults.table FOLDER [--only WORD ...] [--list]

Prints a line of JSON for each fault: what was seen, whether anything was lost, and the seconds
until the next finished round. Linux; a minute or more for each. The full disk is a tmpfs, which
takes root to mount.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from server.state.status import RunState
from shared.errors import Outcome, SottoError
from simulations.faults import false_replies as lies
from simulations.faults.deployment import EPSILON, SOURCE, Deployment, wait_for
from simulations.faults.false_replies import LIES
from simulations.faults.measure import (
    PATIENCE,
    Fault,
    round_of,
    started,
    status_of,
    suffer,
    usual_seconds,
    wait_for_round,
)

__all__ = ["faults"]

PARTNERS = ("alpha", "beta", "gamma")
ROUNDS = 400
LIFE = 60.0
"""Seconds that the short-lived certificate is valid."""
LEDGER = "ledger.sqlite"
SMALL_DISK = "256m"
"""With less than 100 MB free a node does not start in the first place."""
_SERVER = {
    "SuperLink": r"flower-superlink",
    "coordinator's executor": r"shared\.superexec",
    "ServerApp": r"flwr-serverapp",
    "proxy": r"server\.listeners",
    "keeper": r"server\.cli keep",
}
_NODE = {
    "SuperNode": r"client\.supernode",
    "node's executor": r"client\.executor",
    "ClientApp": r"multiprocessing\.forkserver",
}


def faults() -> list[Fault]:
    """Every fault; the last ones leave a node out for good."""
    found = []
    for share in (0.2, 0.7):
        when = f"at {share:.0%} of a round"
        for name, pattern in _NODE.items():
            found.append(Fault(f"{name} killed {when}", _kill("alpha", pattern, share)))
        for name, pattern in _SERVER.items():
            found.append(Fault(f"{name} killed {when}", _kill("server", pattern, share)))
    found += [Fault(f"a node that answers {lie}", _lie(lie)) for lie in LIES]
    return [
        *found,
        Fault("the coordinator's whole machine killed", _machine),
        Fault("network cut for 90 s", _cut),
        Fault("one node away for two rounds", _away),
        Fault("a request to a path that partners may not reach", _forbidden),
        Fault("an unregistered node", _unregistered),
        Fault("a bundle changed by one byte at a node", _changed_bundle),
        Fault("a full disk at a node", _full_disk),
        Fault("an expired certificate", _expired),
        Fault("a revoked key", _revoked),
    ]


# --- kills ---------------------------------------------------------------------------------------


def _kill(owner: str, pattern: str, share: float) -> Callable[[Deployment], str]:
    def happen(deployment: Deployment) -> str:
        seconds = share * usual_seconds(deployment)
        begun = round_of(deployment) + 1
        wait_for_round(deployment, begun)
        time.sleep(seconds)
        killed = deployment.kill(owner, pattern)
        # A ServerApp that outlived its executor is not below `owner` any more.
        assert killed, "nothing was there to be killed: name this fault alone"
        early = "" if round_of(deployment) == begun else ", after its end"
        return f"{len(killed)} killed {seconds:.1f} s into round {begun + 1}{early}"

    return happen


def _machine(deployment: Deployment) -> str:
    """Everything of the coordinator's at once, and `up` again."""
    count = deployment.kill("server", r".")
    deployment.processes["server"].kill()
    deployment.processes["server"].wait()
    deployment.up_server()
    return f"{len(count) + 1} killed; started again"


# --- away ----------------------------------------------------------------------------------------


def _cut(deployment: Deployment) -> str:
    with deployment.wire.cut():
        time.sleep(90)
    return "no connection for 90 s"


def _away(deployment: Deployment) -> str:
    deployment.down("beta")
    wait_for_round(deployment, round_of(deployment) + 2)
    deployment.up_node("beta")
    return "ended, and started two rounds later"


# --- not let in ----------------------------------------------------------------------------------


def _forbidden(deployment: Deployment) -> str:
    context = ssl.create_default_context(cafile=str(deployment.server / "ca.crt"))
    address, told = f"https://localhost:{deployment.wire.port}", []
    for path in ("/v1/runtime/acquire-task", "/v1/control/list-runs", "/docs", "/openapi.json"):
        answer = httpx.post(address + path, verify=context, timeout=20)
        told.append(f"{path} {answer.status_code}")
        assert answer.status_code in (403, 404, 405), f"{path}: {answer.status_code}"
    return ", ".join(told)


def _unregistered(deployment: Deployment) -> str:
    """It tries for three rounds."""
    deployment.init_node("mallory")
    deployment.up_node("mallory")
    wait_for_round(deployment, round_of(deployment) + 3)
    assert "mallory" not in status_of(deployment).organisations
    deployment.down("mallory")
    return "never took part"


def _revoked(deployment: Deployment) -> str:
    deployment.call("server", "revoke", "gamma", "--server", deployment.server)
    wait_for_round(deployment, round_of(deployment) + 3)
    told = status_of(deployment).organisations["gamma"]
    assert not told.connected
    return f"{told.outcome} from then on"


# --- at a node -----------------------------------------------------------------------------------


def _changed_bundle(deployment: Deployment) -> str:
    """One byte of an installed file; the node runs on, and is asked for two more rounds."""
    (file,) = (deployment.folder / "gamma" / "flower").rglob("client/compute/trainer.py")
    content, mode = file.read_bytes(), file.stat().st_mode
    changed = content.replace(b"noise", b"n0ise", 1)
    assert sum(a != b for a, b in zip(content, changed, strict=True)) == 1
    steps = _charged(deployment, "gamma")
    _overwrite(file, changed, mode)
    wait_for_round(deployment, round_of(deployment) + 3)
    told = status_of(deployment).organisations["gamma"]
    assert told.outcome != Outcome.VALID, "it ran what nobody vetted"
    meanwhile = _charged(deployment, "gamma") - steps
    _overwrite(file, content, mode)
    return f"{told.outcome}; {meanwhile} charged meanwhile"


def _overwrite(file: Path, content: bytes, mode: int) -> None:
    file.chmod(0o600)
    file.write_bytes(content)
    file.chmod(mode)


def _full_disk(deployment: Deployment) -> str:
    """The whole site lies on a file system that fills up, and has room again two rounds later."""
    with _small_disk(deployment, "gamma") as folder:
        _wait_for_part(deployment, "gamma", valid=True)
        _fill(folder / "filler")
        _wait_for_part(deployment, "gamma", valid=False)
        before = (folder / LEDGER).read_bytes()  # to be opened it would need room
        wait_for_round(deployment, round_of(deployment) + 2)
        told = status_of(deployment).organisations["gamma"]
        assert told.outcome != Outcome.VALID, "it answered without room to write that down"
        assert before == (folder / LEDGER).read_bytes()
        (folder / "filler").unlink()
        began = time.monotonic()
        _wait_for_part(deployment, "gamma", valid=True)
        again = time.monotonic() - began
    return f"{told.outcome}, the ledger unchanged; valid again {again:.0f} s after there is room"


@contextmanager
def _small_disk(deployment: Deployment, name: str) -> Iterator[Path]:
    """The site's folder on a small tmpfs for a while; it takes along what happens to it there."""
    folder, aside = deployment.folder / name, deployment.folder / f"{name}.aside"
    deployment.down(name)
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    _system("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "sotto", folder)
    try:
        _system("cp", "-a", f"{aside}/.", folder)
        deployment.up_node(name)
        yield folder
        deployment.down(name)
        shutil.rmtree(aside)
        _system("cp", "-a", folder, aside)
    finally:
        deployment.down(name)
        _system("umount", folder)
    folder.rmdir()
    aside.rename(folder)
    deployment.up_node(name)


def _system(program: str, *arguments: object) -> None:
    subprocess.run([program, *map(str, arguments)], check=True)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


def _wait_for_part(deployment: Deployment, name: str, *, valid: bool) -> None:
    """Waits for a round from now on in which the reply counts, or does not."""
    number = round_of(deployment)

    def found() -> bool:
        status = status_of(deployment)
        told = status.organisations[name].outcome == Outcome.VALID
        return status.round > number and told == valid

    wait_for(f"{name}, {valid=}", found, PATIENCE)


def _charged(deployment: Deployment, name: str) -> int:
    return deployment.spent(name)[1]


# --- a partner that lies -------------------------------------------------------------------------

_ANSWER = "            return app(message, context)\n"
"""In client/node/worker.py."""


def _lie(lie: str) -> Callable[[Deployment], str]:
    def happen(deployment: Deployment) -> str:
        with _changed_code(deployment, "beta") as file:
            _wait_for_part(deployment, "beta", valid=True)
            file.write_text(lie)
            _wait_for_part(deployment, "beta", valid=False)
            told = status_of(deployment).organisations["beta"].outcome
            assert told == LIES[lie], told
            file.write_text("")
            _wait_for_part(deployment, "beta", valid=True)
        return f"{told}, and valid again with the truth"

    return happen


@contextmanager
def _changed_code(deployment: Deployment, name: str) -> Iterator[Path]:
    """Runs a node from a copy of the packages that may lie; yields the file that says how."""
    copy = deployment.folder / "changed"
    shutil.rmtree(copy, ignore_errors=True)
    for package in ("client", "server", "shared", "simulations"):
        ignored = shutil.ignore_patterns("__pycache__", "data")
        shutil.copytree(SOURCE / package, copy / package, ignore=ignored)
    worker = copy / "client" / "worker.py"
    text = worker.read_text()
    assert text.count(_ANSWER) == 1
    changed = _ANSWER.replace("app(message, context)", "told(message, app(message, context))")
    worker.write_text(f"{text.replace(_ANSWER, changed)}\n\nfrom {lies.__name__} import told\n")
    file = copy / lies.LIE.relative_to(SOURCE)
    file.write_text("")
    deployment.down(name)
    deployment.up_node(name, copy)
    try:
        yield file
    finally:
        deployment.down(name)
        deployment.up_node(name)


# --- the certificate -----------------------------------------------------------------------------


def _expired(deployment: Deployment) -> str:
    """The public certificate ends while all runs, and is renewed later."""
    deployment.down("server")
    ends = _shorten(deployment.server, timedelta(seconds=LIFE))
    deployment.up_server()
    time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 1.0)
    with deployment.wire.cut():  # everybody has to connect again
        time.sleep(1.0)
    before = round_of(deployment)
    time.sleep(30.0)
    assert round_of(deployment) == before, "a node took the expired certificate"
    told = _refusal_of_tls(deployment)
    deployment.down("server")
    assert "has expired" in _refusal_of(deployment, "server", "up", "--server", deployment.server)
    deployment.call("server", "renew", "--server", deployment.server)
    deployment.up_server()
    return f"nodes: {told}; `up` refuses until `renew`; renewed after 30 s"


def _shorten(folder: Path, life: timedelta) -> datetime:
    """Signs the coordinator's public certificate anew, to end soon; says when."""
    old = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    signer = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    ends = datetime.now(UTC) + life
    builder = x509.CertificateBuilder(
        issuer_name=old.issuer,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=old.not_valid_before_utc.replace(tzinfo=None),
        not_valid_after=ends.replace(tzinfo=None, microsecond=0),
        extensions=[*old.extensions],
    )
    signed = builder.sign(signer, hashes.SHA384())
    (folder / "server.crt").write_bytes(signed.public_bytes(Encoding.PEM))
    return ends


def _refusal_of(deployment: Deployment, *command: object) -> str:
    try:
        deployment.call(*map(str, command))
    except RuntimeError as error:
        return str(error)
    raise AssertionError(f"{command[1]} was not refused")


def _refusal_of_tls(deployment: Deployment) -> str:
    """What a client with the partners' root certificate says of the coordinator's."""
    context = ssl.create_default_context(cafile=str(deployment.server / "ca.crt"))
    try:
        httpx.get(f"https://localhost:{deployment.wire.port}/", verify=context, timeout=20)
    except httpx.ConnectError as error:
        if (told := "certificate has expired") in str(error):
            return told
        raise
    raise AssertionError("the expired certificate is taken")


def main() -> None:
    """Suffers each fault in turn, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        help="faults whose name holds a word, in the order of the words",
    )
    parser.add_argument("--list", action="store_true", help="show the names, and do nothing")
    arguments = parser.parse_args()
    chosen = [fault for word in arguments.only for fault in faults() if word in fault.name]
    if arguments.list or not chosen:
        sys.stdout.writelines(f"{fault.name}\n" for fault in chosen or faults())
        return
    deployment = started(arguments.folder, PARTNERS, ROUNDS)
    try:
        failed = [fault.name for fault in chosen if not _survived(deployment, fault)]
        state = status_of(deployment).state
        spent = {name: deployment.spent(name) for name in PARTNERS}
        assert all(epsilon <= EPSILON for epsilon, _ in spent.values())
        _print({"state": str(state), "spent": spent})
        assert state in (RunState.RUNNING, RunState.RETRYING)
    finally:
        deployment.close()
    if failed:
        raise SystemExit(f"not as it should be: {', '.join(failed)}")


def _survived(deployment: Deployment, fault: Fault) -> bool:
    """Prints what came of it; one that went wrong does not keep the others from being seen."""
    try:
        _print(dataclasses.asdict(suffer(deployment, fault)))
    except (AssertionError, TimeoutError, RuntimeError, SottoError) as error:
        _print({"fault": fault.name, "failed": f"{type(error).__name__}: {error}"})
        return False
    return True


def _print(row: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the wire's threads wait for connections
