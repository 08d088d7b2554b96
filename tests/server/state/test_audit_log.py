from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.state.audit_log import AuditEvent, AuditLog
from shared.errors import AuditError

ROOT = Path(__file__).parents[3]
some_fields = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name not in ("n", "event", "at", "self")),
    st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)),
    max_size=3,
).map(lambda found: {k: v for k, v in found.items() if v not in (float("inf"), float("-inf"))})


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl")


@pytest.fixture
def three(log: AuditLog) -> Path:
    """A file of three entries."""
    for number in (1, 2, 3):
        log.record(AuditEvent.ROUND_FINISHED, round=number, outcomes={"alpha": "valid"})
    return log._path


def test_entries_come_back_in_order(three: Path, log: AuditLog) -> None:
    entries = list(log.entries())
    assert log.verify() == 3
    assert [(e["n"], e["event"], e["round"]) for e in entries] == [
        (number, "round-finished", number) for number in (1, 2, 3)
    ]
    assert entries[0]["outcomes"] == {"alpha": "valid"}
    assert entries[0]["at"].endswith("+00:00")
    assert stat.S_IMODE(three.stat().st_mode) == 0o600


def test_without_a_file_there_is_nothing_in_it(log: AuditLog) -> None:
    assert log.verify() == 0
    assert log.head == "0" * 64


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(written=st.lists(some_fields, min_size=1, max_size=4), data=st.data())
def test_one_changed_byte_is_seen(
    tmp_path: Path, written: list[dict[str, str]], data: st.DataObject
) -> None:
    file = tmp_path / "bytes.jsonl"
    file.unlink(missing_ok=True)
    log = AuditLog(file)
    for fields in written:
        log.record(AuditEvent.INVITED, **fields)
    assert log.verify() == len(written)
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 2))  # the last line's end: see the torn line
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    file.write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
    with pytest.raises(AuditError, match=r"changed after it was written|cannot be read"):
        log.verify()


@pytest.mark.parametrize("order", [(0, 2), (1, 2), (0, 2, 1), (0, 0, 1, 2), (0, 1, 1, 2)])
def test_lines_taken_out_or_moved_are_seen(
    three: Path, log: AuditLog, order: tuple[int, ...]
) -> None:
    lines = three.read_text().splitlines(keepends=True)
    three.write_text("".join(lines[number] for number in order))
    with pytest.raises(AuditError, match="changed after it was written"):
        log.verify()


def test_an_end_that_was_cut_off_shows_in_the_head_alone(three: Path, log: AuditLog) -> None:
    head = log.head
    assert json.loads(three.read_text().splitlines()[-1])["hash"] == head
    three.write_text("".join(three.read_text().splitlines(keepends=True)[:2]))
    assert log.verify() == 2
    assert log.head != head


@pytest.mark.parametrize("kept", [1, 50, -1])
def test_a_line_that_a_crash_cut_short_was_never_there(
    three: Path, log: AuditLog, kept: int
) -> None:
    lines = three.read_bytes().splitlines(keepends=True)
    three.write_bytes(lines[0] + lines[1] + lines[2][:kept])
    assert log.verify() == 2
    log.record(AuditEvent.RUN_RESUMED)
    assert [entry["event"] for entry in log.entries()][1:] == ["round-finished", "run-resumed"]


def test_nothing_is_appended_to_what_is_no_log(three: Path, log: AuditLog) -> None:
    with three.open("a") as file:
        file.write('{"entry": {"n": 4}, "hash": "00"}\n')
    before = three.read_bytes()
    with pytest.raises(AuditError, match="the last line was changed"):
        log.record(AuditEvent.PUBLISHED)
    assert three.read_bytes() == before


def test_long_lines_are_found_again(log: AuditLog) -> None:
    for size in (1, 5000, 4096, 20000, 2):
        log.record(AuditEvent.RUN_FAILED, reason="x" * size)
    assert [len(entry["reason"]) for entry in log.entries()] == [1, 5000, 4096, 20000, 2]


def test_a_full_disk_leaves_what_was_there(
    three: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = three.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(AuditError, match=r"cannot be written \(No space left .*: make room"):
        log.record(AuditEvent.RUN_STARTED)
    assert three.read_bytes() == before


def test_processes_take_turns(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from server.state.audit_log import *\n"
        "for i in range(20): AuditLog(Path(sys.argv[1])).record(AuditEvent.INVITED, i=i)"
    )
    file = tmp_path / "audit.jsonl"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(file)],
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        )
        for _ in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert AuditLog(file).verify() == 60
