"""Faults at a partner's node: a changed bundle, a full disk, false replies."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.outcomes import Outcome
from simulations.faults.changed_code import change_packages
from simulations.faults.deployment import Deployment
from simulations.faults.false_replies import FALSE_REPLIES, KIND_FILE, falsify
from simulations.faults.injection import (
    finished_rounds,
    run_status,
    wait_for_reply,
    wait_for_round,
)

__all__ = ["change_bundle", "fill_disk", "send_false_replies"]

LEDGER = "ledger.sqlite"
SMALL_DISK = "256m"
"""With less than 100 MB free a node does not start in the first place."""


def change_bundle(deployment: Deployment) -> str:
    """Change one byte of the installed app bundle while the node runs, for two rounds."""
    (file,) = (deployment.folder / "gamma" / "flower").rglob("client/compute/trainer.py")
    content, mode = file.read_bytes(), file.stat().st_mode
    changed = content.replace(b"noise", b"n0ise", 1)
    assert sum(a != b for a, b in zip(content, changed, strict=True)) == 1
    steps = _charged_steps(deployment, "gamma")
    _overwrite(file, changed, mode)
    wait_for_round(deployment, finished_rounds(deployment) + 3)
    partner = run_status(deployment).organisations["gamma"]
    assert partner.outcome != Outcome.VALID, "it ran code that nobody vetted"
    charges = _charged_steps(deployment, "gamma") - steps
    _overwrite(file, content, mode)
    return f"{partner.outcome}; {charges} charged meanwhile"


def _overwrite(file: Path, content: bytes, mode: int) -> None:
    file.chmod(0o600)
    file.write_bytes(content)
    file.chmod(mode)


def fill_disk(deployment: Deployment) -> str:
    """Fill the file system of a site for two rounds."""
    with _small_disk(deployment, "gamma") as folder:
        wait_for_reply(deployment, "gamma", valid=True)
        _fill(folder / "filler")
        wait_for_reply(deployment, "gamma", valid=False)
        before = (folder / LEDGER).read_bytes()  # read as bytes: opening a ledger needs space
        wait_for_round(deployment, finished_rounds(deployment) + 2)
        partner = run_status(deployment).organisations["gamma"]
        assert partner.outcome != Outcome.VALID, (
            "it answered, though it could not record the answer"
        )
        assert before == (folder / LEDGER).read_bytes()
        (folder / "filler").unlink()
        began = time.monotonic()
        wait_for_reply(deployment, "gamma", valid=True)
        recovery = time.monotonic() - began
    return f"{partner.outcome}, the ledger unchanged; valid {recovery:.0f} s after space was freed"


@contextmanager
def _small_disk(deployment: Deployment, name: str) -> Iterator[Path]:
    """Move a site's folder to a small tmpfs, and back with its changes when the block ends."""
    folder, aside = deployment.folder / name, deployment.folder / f"{name}.aside"
    deployment.down(name)
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    _run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "sotto", folder)
    try:
        _run("cp", "-a", f"{aside}/.", folder)
        deployment.up_node(name)
        yield folder
        deployment.down(name)
        shutil.rmtree(aside)
        _run("cp", "-a", folder, aside)
    finally:
        deployment.down(name)
        _run("umount", folder)
    folder.rmdir()
    aside.rename(folder)
    deployment.up_node(name)


def _run(program: str, *arguments: object) -> None:
    subprocess.run([program, *map(str, arguments)], check=True)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


def _charged_steps(deployment: Deployment, name: str) -> int:
    return deployment.spent(name)[1]


def send_false_replies(kind: str) -> Callable[[Deployment], str]:
    """Return a fault: a partner sends false replies of this kind (`FALSE_REPLIES`)."""

    def cause(deployment: Deployment) -> str:
        with _changed_code(deployment, "beta") as file:
            wait_for_reply(deployment, "beta", valid=True)
            file.write_text(kind)
            wait_for_reply(deployment, "beta", valid=False)
            outcome = run_status(deployment).organisations["beta"].outcome
            assert outcome == FALSE_REPLIES[kind], outcome
            file.write_text("")
            wait_for_reply(deployment, "beta", valid=True)
        return f"{outcome}, and valid again with true replies"

    return cause


@contextmanager
def _changed_code(deployment: Deployment, name: str) -> Iterator[Path]:
    """Run a node from a changed copy of the packages; yield the file that names the false reply."""
    copy = deployment.folder / "changed"
    file = change_packages(copy, falsify) / KIND_FILE.name
    file.write_text("")
    deployment.down(name)
    deployment.up_node(name, copy)
    try:
        yield file
    finally:
        deployment.down(name)
        deployment.up_node(name)
