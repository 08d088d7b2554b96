"""Programs kept running, and ended without a trace."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import shared.system.supervise
from shared.errors import ProcessError
from shared.system.supervise import (
    Account,
    KeptProgram,
    Patience,
    Program,
    Restart,
    Start,
    keep_running,
)

ROOT = Path(__file__).parents[3]
QUICK = Patience(first=0.02, longest=0.05, settled=5.0, brief=5.0, starts=3, end=5.0)
# Ends the service as an operator would: a program's parent is this process.
SIGNAL_PARENT = "kill -TERM $PPID; exec sleep 60"


@dataclass
class Stage:
    """Shell scripts in place of programs; each notes its starts.

    Attributes:
        folder: where they note.
        restarts: all that was told.
    """

    folder: Path
    changes: list[Start | Restart] = field(default_factory=list)

    def program(self, name: str, script: str, **rest: object) -> Program:
        file = self.folder / name
        file.write_text(f"#!/bin/sh\necho start >> {self.folder}/{name}.starts\n{script}\n")
        file.chmod(0o755)
        variables = {"PATH": os.environ["PATH"]}
        return Program(name=name, command=[str(file)], variables=variables, **rest)  # type: ignore[arg-type]

    def run(self, *programs: Program, patience: Patience = QUICK, fds: Sequence[int] = ()) -> None:
        keep_running(programs, patience=patience, notify=self.changes.append, pass_fds=fds)

    @property
    def restarts(self) -> list[Restart]:
        return [change for change in self.changes if isinstance(change, Restart)]

    def starts(self, name: str) -> int:
        return len((self.folder / f"{name}.starts").read_text().split())


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def gone(pid: int) -> bool:
    """Whether no such process runs; one that nobody has waited for yet does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(holds: Callable[[], object], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


# --- kept running ------------------------------------------------------------------------------


def test_it_starts_again_until_it_is_no_use(stage: Stage) -> None:
    program = stage.program("link", "exit 7", advice="Ask somebody.")
    with pytest.raises(ProcessError, match=r"link ended with 7, and 3 starts in .* Ask somebody"):
        stage.run(program)
    assert stage.starts("link") == 3
    assert [(told.program, told.code) for told in stage.restarts] == [("link", 7)] * 2


def test_without_a_limit_it_never_gives_up(stage: Stage) -> None:
    often = f"[ $(wc -l < {stage.folder}/link.starts) -lt 20 ] && exit 7\n"
    patience = Patience(first=0.001, longest=0.002)
    assert patience.starts is None
    stage.run(stage.program("link", often + SIGNAL_PARENT), patience=patience)
    assert stage.starts("link") == 20


def test_one_that_dies_by_a_signal_is_started_again(stage: Stage) -> None:
    once = f"[ $(wc -l < {stage.folder}/link.starts) = 1 ] && kill -KILL $$\n"
    stage.run(stage.program("link", once + SIGNAL_PARENT))
    assert stage.starts("link") == 2
    assert [told.code for told in stage.restarts] == [-signal.SIGKILL]


def test_one_that_ends_leaves_the_others_alone(stage: Stage) -> None:
    often = f"[ $(wc -l < {stage.folder}/b.starts) -lt 3 ] && exit 1\n"
    stage.run(
        stage.program("a", "exec sleep 60"),
        stage.program("b", often + SIGNAL_PARENT),
        patience=Patience(first=0.02, longest=0.05),
    )
    assert (stage.starts("a"), stage.starts("b")) == (1, 3)
    told = Counter(change.program for change in stage.changes if isinstance(change, Start))
    assert told == {"a": 1, "b": 3}


def test_what_would_end_the_same_is_not_tried_again(stage: Stage) -> None:
    with pytest.raises(ProcessError, match="link does not understand its arguments"):
        stage.run(stage.program("link", "exit 2"))
    assert stage.starts("link") == 1


def test_a_run_that_lasted_counts_as_none_that_failed(stage: Stage) -> None:
    often = f"[ $(wc -l < {stage.folder}/link.starts) -lt 6 ] && exit 7\n"
    patience = Patience(first=0.01, longest=0.02, settled=0.0, brief=0.0, starts=3, end=5.0)
    stage.run(stage.program("link", often + SIGNAL_PARENT), patience=patience)
    assert stage.starts("link") == 6


def test_waits_double_up_to_the_longest() -> None:
    program = Program(name="link", command=["true"], variables={})
    kept, waits = KeptProgram(program=program, patience=Patience()), []
    for _ in range(7):
        kept.plan_restart(7, 1.0)
        waits.append(kept.wait)
    assert waits == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
    kept.plan_restart(7, 121.0)
    assert kept.wait == 10.0


# --- ended -------------------------------------------------------------------------------------


def test_nothing_is_left_when_it_ends(stage: Stage) -> None:
    """Neither the programs, deaf to SIGTERM, nor what they started."""
    deaf = "trap '' TERM\nsleep 60 &\necho $$ $! >> {}/pids\n"
    started = deaf.format(stage.folder)
    stage.run(
        stage.program("a", started + "while :; do sleep 60; done"),
        stage.program("b", started + "sleep 0.5; kill -TERM $PPID; while :; do sleep 60; done"),
        patience=Patience(end=0.3),
    )
    pids = (stage.folder / "pids").read_text().split()
    assert len(pids) == 4
    until(lambda: all(gone(int(pid)) for pid in pids), seconds=5)


def test_all_are_asked_at_once(stage: Stage) -> None:
    slow = "trap 'sleep 1; exit 0' TERM\n"
    wait = "sleep 60 & while :; do wait; done"
    programs = [stage.program(f"p{n}", slow + wait) for n in range(3)]
    ready = f"until [ -e {stage.folder}/p2.starts ]; do sleep 0.05; done; sleep 0.2\n"
    programs.append(stage.program("last", ready + SIGNAL_PARENT))
    began = time.monotonic()
    stage.run(*programs, patience=Patience(end=10))
    assert time.monotonic() - began < 3.0  # not one after the other


def test_signals_are_ours_again_afterwards(stage: Stage) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stage.run(stage.program("link", "kill -INT $PPID; exec sleep 60"))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


HOLD = """
import os, sys
from shared.system.supervise import Patience, Program, keep_running
program = Program(name="it", command=sys.argv[1:], variables=dict(os.environ))
keep_running([program], patience=Patience(), notify=print)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ends a child with its parent")
def test_one_that_is_killed_leaves_no_child(tmp_path: Path) -> None:
    script = tmp_path / "it"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    script.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(script)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as holder:
        until((tmp_path / "pid").exists)
        until((tmp_path / "pid").read_text)
        child = int((tmp_path / "pid").read_text())
        assert not gone(child)
        holder.kill()
    until(lambda: gone(child))


# --- what a program gets -----------------------------------------------------------------------


def test_a_secret_comes_on_standard_input_and_nowhere_else(stage: Stage) -> None:
    script = (
        f"cat /dev/stdin > {stage.folder}/read\ncat /proc/$$/cmdline /proc/$$/environ "
        f"> {stage.folder}/shown\n{SIGNAL_PARENT}"
    )
    stage.run(stage.program("link", script, secret=b"s3cret"))
    assert (stage.folder / "read").read_bytes() == b"s3cret"
    assert b"s3cret" not in (stage.folder / "shown").read_bytes()
    held = [p for p in stage.folder.iterdir() if p.name != "read" and b"s3cret" in p.read_bytes()]
    assert held == []


def test_without_a_secret_standard_input_is_empty(stage: Stage) -> None:
    stage.run(stage.program("link", f"cat > {stage.folder}/read\n{SIGNAL_PARENT}"))
    assert (stage.folder / "read").read_bytes() == b""


def test_open_files_are_passed_on(stage: Stage) -> None:
    with (stage.folder / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), False)
        script = f"echo held > /dev/fd/{lock.fileno()}\n{SIGNAL_PARENT}"
        stage.run(stage.program("link", script), fds=[lock.fileno()])
    assert (stage.folder / "lock").read_text() == "held\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes of other users")
def test_a_program_of_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    # This Python may lie where others do not reach it, and it is only there to tie them to us.
    monkeypatch.setattr(shared.system.supervise, "TIED", ())
    nobody = Account.of("nobody")
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    folder.chmod(0o755)
    stage = Stage(folder)
    out = folder / "out"
    out.mkdir()
    os.chown(out, nobody.user, nobody.group)
    (folder / "private").write_text("root's")
    (folder / "private").chmod(0o600)
    (folder / "theirs.starts").touch()
    os.chown(folder / "theirs.starts", nobody.user, nobody.group)
    script = (
        f"cat /dev/stdin > {out}/secret; id -u > {out}/uid; id -G > {out}/groups\n"
        f"echo $HOME $USER > {out}/home; cat {folder}/private > {out}/stolen\nexec sleep 60"
    )
    ending = f"until [ -e {out}/stolen ]; do sleep 0.05; done\n{SIGNAL_PARENT}"
    try:
        stage.run(
            stage.program("theirs", script, account=nobody, secret=b"s3cret"),
            stage.program("ours", ending),
        )
        assert (out / "secret").read_bytes() == b"s3cret"
        assert int((out / "uid").read_text()) == nobody.user
        assert set(map(int, (out / "groups").read_text().split())) == {nobody.group}
        assert (out / "home").read_text() == f"{nobody.home} nobody\n"
        assert (out / "stolen").read_bytes() == b""
    finally:
        subprocess.run(["rm", "-r", "--", str(folder)], check=True)


def test_what_cannot_be_started_is_said(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.system.supervise, "TIED", ())
    program = Program(name="link", command=[str(stage.folder / "gone")], variables={})
    with pytest.raises(ProcessError, match=r"link cannot be started: .*gone: No such file"):
        stage.run(program)


def test_an_account_by_name_and_by_number() -> None:
    found = pwd.getpwuid(os.getuid())
    assert Account.of(found.pw_name) == Account.of(found.pw_uid)
    with pytest.raises(ProcessError, match=r"'no-such-user'.*useradd"):
        Account.of("no-such-user")


@pytest.mark.parametrize("stays", [True, False])
def test_children_outlive_a_death_only_where_they_may(stage: Stage, *, stays: bool) -> None:
    """And never the end of everything."""
    pid, seen = stage.folder / "pid", stage.folder / "seen"
    first = f"[ -e {pid} ] || {{ sleep 60 & echo $! > {pid}; exit 7; }}"
    look = f"sleep 0.2; cut -d' ' -f3 /proc/$(cat {pid})/stat > {seen}"
    stage.run(stage.program("a", f"{first}; {look}; {SIGNAL_PARENT}", children_stay=stays))
    assert (seen.read_text().strip() in ("S", "R")) is stays
    until(lambda: gone(int(pid.read_text())))
