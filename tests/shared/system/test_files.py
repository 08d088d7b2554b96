"""One holder at a time, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.errors import SottoError
from shared.system.files import alone, in_use
from tests.shared.system.test_supervise import ROOT, until

HOLD = """
import sys, time
from pathlib import Path
from shared.errors import SottoError
from shared.system.files import alone
with alone(Path(sys.argv[1]), SottoError):
    Path(sys.argv[1] + ".held").touch()
    time.sleep(60)
"""


def busy(holder: str) -> SottoError:
    return SottoError(f"held by {holder}")


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not in_use(file)
    with alone(file, busy):
        assert in_use(file)
        with pytest.raises(SottoError, match=f"held by {os.getpid()}"), alone(file, busy):
            pytest.fail("two at once")
        assert in_use(file), "the second one's failure frees nothing"
    assert not in_use(file)
    with alone(file, busy):
        assert in_use(file)


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    with alone(tmp_path / "lock", busy):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_a_holder_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as holder:
        until((tmp_path / "lock.held").exists)
        with pytest.raises(SottoError, match=f"held by {holder.pid}"), alone(file, busy):
            pytest.fail("two at once")
        holder.send_signal(signal.SIGKILL)
    with alone(file, busy):
        assert in_use(file)


def test_whoever_only_looks_keeps_nobody_out(tmp_path: Path) -> None:
    """Looking takes the lock for an instant, for the system offers no other way to look."""
    file, enough = tmp_path / "lock", threading.Event()

    def looking() -> None:
        while not enough.wait(0.0005):
            in_use(file)

    looker = threading.Thread(target=looking)
    looker.start()
    try:
        for _ in range(300):
            with alone(file, busy):
                assert file.read_text() == f"{os.getpid()}\n"
    finally:
        enough.set()
        looker.join()


def test_what_cannot_be_opened_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), alone(tmp_path / "no" / "lock", busy):
        pytest.fail("it holds nothing")
