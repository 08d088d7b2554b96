"""The coordinator's audit log: what was done, when and to whom, as a hash chain.

The file holds JSON lines and is only appended to. Each line has an entry and a hash over it and all
lines before (`shared.hash_chain`), so that a changed, removed or inserted entry is detected. A line
is on disk when `record` returns; a line that a crash cut short was never acknowledged, and the next
writer removes it. Several processes may write.

The chain does not detect that its last lines were cut off. To detect that, keep `AuditLog.head`
where the coordinator's machine cannot write.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from shared.errors import AuditError
from shared.hash_chain import INITIAL_HASH, canonical_text, next_hash
from shared.system.files import append_durably, open_locked

__all__ = ["FILE", "AuditEvent", "AuditLog"]

FILE = "audit.jsonl"
"""Its name, in the folder of the run or coordinator that it records."""
_BLOCK = 4096
Plain = str | int | float | bool | None
"""A field holds plain values, or lists and tables of them."""
Field = Plain | list[Plain] | Mapping[str, Plain]


class AuditEvent(StrEnum):
    """Every kind of entry."""

    INITIALISED = "initialised"
    INVITED = "invited"
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    SERVICE_STARTED = "service-started"
    SERVICE_STOPPED = "service-stopped"
    RUN_STARTED = "run-started"
    RUN_RESUMED = "run-resumed"
    RUN_CHANGED = "run-changed"
    RUN_DISCARDED = "run-discarded"
    PARTNER_JOINED = "partner-joined"
    PARTNER_LEFT = "partner-left"
    PARTNER_DECLINED = "partner-declined"
    PLAN_ADMITTED = "plan-admitted"
    PLAN_MISSED = "plan-missed"
    STATISTIC_COLLECTED = "statistic-collected"
    STATISTIC_MISSED = "statistic-missed"
    ROUND_FINISHED = "round-finished"
    ROUND_MISSED = "round-missed"
    GROUPS_MEASURED = "groups-measured"
    RUN_PAUSED = "run-paused"
    RUN_FAILED = "run-failed"
    RUN_FINISHED = "run-finished"
    PUBLISHED = "published"


class AuditLog:
    """One file of entries.

    Args:
        path: the file; the first entry creates it, for its owner alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, event: AuditEvent, **fields: Field) -> None:
        """Append an entry, which is on disk when this returns.

        Args:
            event: what happened.
            fields: the details; no secret, nothing of a user, and no text that a partner chose
                except its name.

        Raises:
            AuditError: it cannot be written, or the last line is not one of this log.
        """
        try:
            with open_locked(self._path) as file:
                number, head = _last(file, self._path)
                at = datetime.now(UTC).isoformat(timespec="milliseconds")
                entry = fields | {"n": number + 1, "event": str(event), "at": at}
                line = _line(entry, next_hash(head, canonical_text(entry)))
                append_durably(file, line, end=_end_of_last_line(file))
        except OSError as error:
            raise AuditError(
                f"{self._path} cannot be written ({error.strerror}): make room or correct "
                "its permissions. What cannot be recorded is not done."
            ) from error

    def entries(self) -> Iterator[Mapping[str, Any]]:
        """Yield every entry in order, each one checked.

        Raises:
            AuditError: the file cannot be read, or an entry was changed, removed or inserted.
        """
        head = INITIAL_HASH
        try:
            with self._path.open(encoding="utf-8", newline="\n") as file:
                for number, line in enumerate(file, start=1):
                    if not line.endswith("\n"):
                        return  # cut short by a crash, or still being written
                    entry, digest = _parsed(line, self._path, number)
                    if entry["n"] != number or next_hash(head, canonical_text(entry)) != digest:
                        raise _changed(self._path, number)
                    head = digest
                    yield entry
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise AuditError(f"{self._path} cannot be read ({error}): restore a copy.") from error

    def verify(self) -> int:
        """Check every entry, and return how many there are.

        Raises:
            AuditError: as `entries`.
        """
        return sum(1 for _ in self.entries())

    @property
    def head(self) -> str:
        """Hash of the last entry in hex, to be kept elsewhere; all zeros for an empty log.

        Raises:
            AuditError: the file cannot be read.
        """
        if not self._path.exists():
            return INITIAL_HASH.hex()
        try:
            with self._path.open("rb") as file:
                return _last(file, self._path)[1].hex()
        except OSError as error:
            raise AuditError(f"{self._path} cannot be read ({error.strerror}).") from error


def _end_of_last_line(file: IO[bytes]) -> int:
    """Return the offset at which the last complete line ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _last(file: IO[bytes], path: Path) -> tuple[int, bytes]:
    """Return number and hash of the last complete line."""
    end = _end_of_last_line(file)
    if not end:
        return 0, INITIAL_HASH
    text, start = b"", end - 1
    while start and b"\n" not in text:
        start = max(0, start - _BLOCK)
        file.seek(start)
        text = file.read(end - 1 - start)
    entry, digest = _parsed(text.rpartition(b"\n")[2].decode(errors="replace") + "\n", path, 0)
    return int(entry["n"]), digest


def _line(entry: Mapping[str, Any], digest: bytes) -> bytes:
    return (canonical_text({"entry": entry, "hash": digest.hex()}) + "\n").encode()


def _parsed(line: str, path: Path, number: int) -> tuple[dict[str, Any], bytes]:
    """Return a line's entry and hash, if the line is exactly as this log writes it."""
    try:
        fields = json.loads(line)
        entry, digest = fields["entry"], bytes.fromhex(fields["hash"])
        as_written = _line(entry, digest) == line.encode() and isinstance(entry["n"], int)
    except (ValueError, TypeError, KeyError, RecursionError):
        as_written = False
    if not as_written:
        raise _changed(path, number)
    return entry, digest


def _changed(path: Path, number: int) -> AuditError:
    which = f"line {number}, or one before it," if number else "the last line"
    return AuditError(
        f"{path}: {which} was changed after it was written: restore a copy of the file, or "
        "move it away and keep it as evidence."
    )
