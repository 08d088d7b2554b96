"""The hint to the allocator is given where it is understood, and nowhere else."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from client.compute.memory import keep_freed_memory

ROOT = Path(__file__).parents[3]


class Library:
    """A C library whose mallopt remembers what it was told."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.told: dict[int, int] = {}

    def mallopt(self, parameter: int, value: int) -> int:
        self.told[parameter] = value
        return self.answer


@pytest.mark.parametrize("answer", [0, 1])
def test_both_thresholds_are_set(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    library = Library(answer)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert keep_freed_memory() is bool(answer)
    if answer:
        assert set(library.told) == {-1, -3}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
    assert all(2**29 < value < 2**31 for value in library.told.values())  # a C int


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    def refuse(name: object) -> None:
        raise AssertionError("no library is opened there")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_freed_memory() is False


@pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")),
    reason="needs glibc",
)
def test_freed_memory_stays_in_the_process() -> None:
    """64 MiB, which glibc gives back at once unless told otherwise."""
    program = """
import sys
from client.compute.memory import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4 // 1024

if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resident()
block = bytearray(64 << 20)
block[::4096] = bytes(len(block[::4096]))
del block
print(resident() - before)
"""
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", program, how], cwd=ROOT))
        for how in ("kept", "given back")
    )
    assert given_back < 16
    assert kept > 48
