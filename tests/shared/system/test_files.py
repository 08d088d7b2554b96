"""Writes are whole, durable, and leave nothing; no other module locks, syncs or replaces."""

from __future__ import annotations

import ast
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import SottoError
from shared.system.files import (
    UMASK,
    append_durably,
    atomic_replacement,
    create_atomically,
    move_durably,
    open_locked,
    write_atomically,
)
from shared.system.locks import exclusive_lock
from tests.shared.system.test_supervise import ROOT
from tests.test_layering import MODULES, TREES, imports

VARIABLES = os.environ | {"PYTHONPATH": str(ROOT)}


def full(_: int) -> None:
    raise OSError(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_permissions_that_were_asked_for(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "private", b"1")
        create_atomically(tmp_path / "key", b"2")
        write_atomically(tmp_path / "shown", b"3", mode=UMASK)
        write_atomically(tmp_path / "read", b"4", mode=0o444)
        (tmp_path / "open").touch(0o666)
        write_atomically(tmp_path / "open", b"5")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    shown, read = 0o666 & ~mask, 0o444 & ~mask
    assert modes == {
        "private": 0o600,
        "key": 0o600,
        "shown": shown,
        "read": read,
        "open": 0o600,
    }


def test_a_temporary_file_is_never_wider_open_than_the_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    def look(_: int) -> None:
        modes.extend(file.stat().st_mode & 0o777 for file in tmp_path.iterdir())

    monkeypatch.setattr("os.fsync", look)
    write_atomically(tmp_path / "file", b"secret")
    assert set(modes) == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_leaves_a_file_its_owners_where_asked(tmp_path: Path) -> None:
    for name in ("kept", "taken"):
        (tmp_path / name).touch()
        os.chown(tmp_path / name, 1234, 1235)
    write_atomically(tmp_path / "kept", b"1", keep_owner=True)
    write_atomically(tmp_path / "taken", b"1")
    write_atomically(tmp_path / "new", b"1", keep_owner=True)
    owners = {file.name: (file.stat().st_uid, file.stat().st_gid) for file in tmp_path.iterdir()}
    assert owners == {"kept": (1234, 1235), "taken": (0, 0), "new": (0, 0)}


def test_a_file_that_exists_is_never_created(tmp_path: Path) -> None:
    create_atomically(tmp_path / "key", b"first")
    with pytest.raises(FileExistsError):
        create_atomically(tmp_path / "key", b"second")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        create_atomically(tmp_path / "dangling", b"through a link")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert names(tmp_path) == ["dangling", "key"]


Write = Callable[[Path], None]


def replaced(file: Path) -> None:
    with atomic_replacement(file) as new:
        new.write_bytes(b"new")


WRITES: dict[str, Write] = {
    "write_atomically": lambda file: write_atomically(file, b"new"),
    "atomic_replacement": replaced,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_content_is_synced_before_it_takes_its_place_and_the_folder_after(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, move = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append("folder" if os.path.isdir(f"/dev/fd/{handle}") else "file")  # noqa: PTH112
        sync(handle)

    def moved(self: Path, target: Path) -> Path:
        done.append("move")
        return move(self, target)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    write(tmp_path / "file")
    assert done == ["file", "move", "folder"]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("fault", ["sync", "move", "interrupt"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, write: Write, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if fault == "sync":
            patch.setattr("os.fsync", full)
        else:
            patch.setattr(Path, "replace", full if fault == "move" else interrupt)
        with pytest.raises((OSError, KeyboardInterrupt, TypeError)):
            write(file)
    assert names(tmp_path) == ["file"]
    assert file.read_bytes() == b"old"
    write(file)
    assert file.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_a_block_that_fails_replaces_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def write() -> None:
        with atomic_replacement(file) as new:
            new.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert (names(tmp_path), file.read_bytes()) == (["file"], b"old")


def test_a_disk_that_fills_up_in_the_middle_of_a_write_changes_nothing(tmp_path: Path) -> None:
    """The system itself cuts the write short: no file of this process may pass 100 bytes."""
    script = """
import resource, signal, sys
from pathlib import Path
from shared.system.files import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
folder = Path(sys.argv[1])

def append():
    with open_locked(folder / "log") as file:
        append_durably(file, b"x" * 200, end=4)

for act in (
    lambda: write_atomically(folder / "file", b"x" * 200),
    lambda: create_atomically(folder / "key", b"x" * 200),
    append,
):
    try:
        act()
    except OSError:
        pass
    else:
        sys.exit("it was written")
"""
    for name in ("file", "log"):
        (tmp_path / name).write_bytes(b"old\n")
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=VARIABLES, check=True)
    assert names(tmp_path) == ["file", "log"]
    assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"old\n"}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_process_killed_at_any_call_leaves_old_or_new_content(tmp_path: Path) -> None:
    driver = Path(__file__).with_name("crash_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(tmp_path)],
        env=VARIABLES,
        check=True,
        capture_output=True,
        text=True,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    calls = {line for line in done.stdout.splitlines() if not line.startswith("{")}
    assert {"fsync", "link", "open", "unlink", "close", "flock"} <= calls
    assert {"replace", "rename"} & calls
    assert {report["operation"] for report in reports if report["finished"]} == {
        "write",
        "first write",
        "create",
        "replacement",
        "append",
    }
    whole = {
        "write": ("old", "new"),
        "first write": (None, "new"),
        "create": (None, "new"),
        "replacement": ("old", "new"),
        "append": ("old", "old+new"),
    }
    for report in reports:
        before, after = whole[report["operation"]]
        assert report["after_kill"].get("file") in (before, after), report
        if report["finished"]:
            assert report["after_kill"] == {"file": after}, report
        assert report["after_retry"]["file"] == after, report
        if report["operation"] in ("write", "first write"):
            assert report["after_retry"] == {"file": after}, "leftovers take room"


def test_two_processes_that_write_at_once_never_mix(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from shared.system.files import write_atomically
for _ in range(100):
    write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 50000)
"""
    file = tmp_path / "file"
    write_atomically(file, b"a" * 50000)
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(file), letter], env=VARIABLES)
        for letter in "ab"
    ]
    while any(writer.poll() is None for writer in writers):
        content = file.read_bytes()
        assert content in (b"a" * 50000, b"b" * 50000)
    assert [writer.wait() for writer in writers] == [0, 0], "neither takes the other's for left"
    assert names(tmp_path) == ["file"]


def test_leftovers_are_removed_and_what_only_looks_like_one_stays(tmp_path: Path) -> None:
    for name in (".file.0badf00d.new", ".file.x.new", ".other.0badf00d.new", "file.new", ".file.1"):
        (tmp_path / name).write_bytes(b"half")
    os.mkfifo(tmp_path / ".file.pipe.new")  # opening it to read would wait for a writer
    (tmp_path / ".file.link.new").symlink_to(tmp_path / "file.new")
    write_atomically(tmp_path / "file", b"new")
    kept = {".other.0badf00d.new", "file.new", ".file.1", ".file.link.new", "file"}
    assert set(names(tmp_path)) - {".file.pipe.new"} == kept


def test_a_file_system_without_locks_is_written_to_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    (tmp_path / ".file.0.new").write_bytes(b"half")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    with (
        pytest.raises(OSError, match="not implemented"),
        exclusive_lock(tmp_path / "l", SottoError),
    ):
        pytest.fail("a lock that cannot be held")


def test_a_missing_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    for write in WRITES.values():
        with pytest.raises(FileNotFoundError):
            write(tmp_path / "no" / "file")


def test_a_folder_is_moved_too(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").touch()
    move_durably(tmp_path / "new", tmp_path / "there")
    assert (names(tmp_path), names(tmp_path / "there")) == (["there"], ["file"])


def test_an_append_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "folder" / "log"
    with open_locked(file) as opened:
        append_durably(opened, b"one\n", end=0)
    monkeypatch.setattr("os.fsync", full)
    with open_locked(file) as opened, pytest.raises(OSError, match="No space"):
        append_durably(opened, b"two\n", end=4)
    assert file.read_bytes() == b"one\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_no_other_module_locks_syncs_or_replaces_a_file() -> None:
    """A benchmark measures what one fsync costs."""

    def does(node: ast.AST) -> bool:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            return False
        moves = node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
        if node.func.attr not in ("fsync", "replace", "mkstemp"):
            return False
        return moves or ast.unparse(node.func) in ("os.fsync", "os.replace", "tempfile.mkstemp")

    elsewhere = {
        name
        for name, path in MODULES.items()
        if any(module in ("fcntl", "filelock") for module, _ in imports(path))
        or any(does(node) for node in ast.walk(TREES[path]))
    }
    places = {"shared.system.files", "shared.system.locks"}
    assert elsewhere - places <= {"simulations.benchmarks.ledger"}
