"""Locks have one holder and none that is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from shared.errors import SottoError
from shared.system.locks import (
    exclusive_lock,
    folder_lock,
    inheritable_lock,
    is_locked,
    locks_exclude,
)
from tests.shared.system.test_supervise import ROOT, until

VARIABLES = os.environ | {"PYTHONPATH": str(ROOT)}
HOLD = """
import sys, time
from pathlib import Path
from shared.errors import SottoError
from shared.system.locks import {lock}
with {lock}(Path(sys.argv[1]), SottoError):
    Path(sys.argv[1] + ".held").touch()
    time.sleep(60)
"""
Lock = Callable[[Path, Callable[[str], SottoError]], AbstractContextManager[Any]]
both_locks = pytest.mark.parametrize("lock", [exclusive_lock, inheritable_lock])


def conflict(holder: str) -> SottoError:
    return SottoError(f"held by {holder}")


def full(_: int) -> None:
    raise OSError(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@both_locks
def test_a_second_holder_learns_who_the_first_one_is(tmp_path: Path, lock: Lock) -> None:
    file = tmp_path / "lock"
    assert not is_locked(file)
    with lock(file, conflict):
        assert is_locked(file)
        for other in (exclusive_lock, inheritable_lock):
            with (
                pytest.raises(SottoError, match=f"held by {os.getpid()}$"),
                other(file, conflict),
            ):
                pytest.fail("two at once")
        assert is_locked(file), "the second one's failure frees nothing"
    assert not is_locked(file)
    with lock(file, conflict):
        assert is_locked(file)


@both_locks
def test_a_lock_file_is_its_owners_alone(tmp_path: Path, lock: Lock) -> None:
    with lock(tmp_path / "lock", conflict):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


@both_locks
def test_a_holder_that_is_killed_leaves_nothing(tmp_path: Path, lock: Lock) -> None:
    file, script = tmp_path / "lock", HOLD.format(lock=lock.__name__)
    with subprocess.Popen([sys.executable, "-c", script, str(file)], env=VARIABLES) as holder:
        until((tmp_path / "lock.held").exists)
        with (
            pytest.raises(SottoError, match=f"held by {holder.pid}"),
            lock(file, conflict),
        ):
            pytest.fail("two at once")
        holder.send_signal(signal.SIGKILL)
    with lock(file, conflict):
        assert is_locked(file)


@both_locks
def test_an_error_within_frees_the_lock_and_passes_on(tmp_path: Path, lock: Lock) -> None:
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "lock", conflict):
        _ = 1 / 0
    assert not is_locked(tmp_path / "lock")


@both_locks
def test_is_locked_does_not_block_another_holder(tmp_path: Path, lock: Lock) -> None:
    """Looking takes the lock for an instant, for the system offers no other way to look."""
    file, enough = tmp_path / "lock", threading.Event()

    def look() -> None:
        while not enough.wait(0.0005):
            is_locked(file)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(100):
            with lock(file, conflict):
                assert file.read_text() == f"{os.getpid()}\n"
    finally:
        enough.set()
        looker.join()


@both_locks
def test_what_cannot_be_opened_is_an_error_of_the_system(tmp_path: Path, lock: Lock) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), lock(tmp_path / "file" / "lock", conflict):
        pytest.fail("it holds nothing")


def test_a_child_holds_an_inherited_lock_after_its_parent_let_go(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with inheritable_lock(file, conflict) as handle:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(handle,))
    try:
        assert is_locked(file)
    finally:
        child.kill()
        child.wait()
    assert not is_locked(file)


def test_a_child_does_not_inherit_an_exclusive_lock(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with exclusive_lock(file, conflict):
        child = subprocess.Popen(["sleep", "60"])
    try:
        assert not is_locked(file)
    finally:
        child.kill()
        child.wait()


def test_a_patient_one_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    file, held = tmp_path / "lock", threading.Event()

    def hold() -> None:
        with exclusive_lock(file, conflict):
            held.set()
            time.sleep(0.5)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with exclusive_lock(file, conflict, patience=30):
        assert is_locked(file)
    holder.join()


def test_threads_take_turns_by_a_folders_lock(tmp_path: Path) -> None:
    """It counts in steps that would lose some without a lock."""
    count = 0

    def add() -> None:
        nonlocal count
        for _ in range(50):
            with folder_lock(tmp_path, SottoError, patience=60):
                before = count
                time.sleep(0)
                count = before + 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == 200


def test_a_folders_lock_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    def busy() -> SottoError:
        return SottoError("busy")

    with (
        folder_lock(tmp_path, busy, patience=0),
        pytest.raises(SottoError, match="busy"),
        folder_lock(tmp_path, busy, patience=0.05),
    ):
        pytest.fail("two at once")
    with folder_lock(tmp_path, busy, patience=0):
        assert names(tmp_path) == [], "it takes no file"
    with pytest.raises(FileNotFoundError), folder_lock(tmp_path / "no", busy, patience=0):
        pytest.fail("it holds nothing")


def test_a_file_system_without_working_locks_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locks_exclude(tmp_path)
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    assert not locks_exclude(tmp_path)
    assert names(tmp_path) == []
