"""One session a run: the state of its current attempt, as a file.

An app's process may last for one request, so the protocol's state is written before each answer
leaves, and read again for the next step. A session's attempts have growing numbers:

| the file                           | an attempt with a number        | gets                      |
|------------------------------------|---------------------------------|---------------------------|
| is of attempt N                    | above N                         | a new state; N's is gone  |
| is of attempt N                    | N                               | the kept state            |
| is of attempt N                    | below N                         | refused                   |
| is of attempt N, and damaged       | N or below                      | refused: dropped out of   |
| is lost, or an older copy          | any                             | what the file says        |

In the last row the ledger refuses a second masked input: it knows which attempts were answered
(`client.guard.Guard.masked`). Where no masked input left, nothing is under the lost state's masks.
A copy of the folder from within an attempt must not be put back: it could sign a second list of
survivors.

A file holds the secrets of one attempt until its last step, for the owner alone. At most
`MOST_SESSIONS` are kept; the oldest goes first, and its attempts with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Refused, SecureAggregationError, SiteError
from shared.outcomes import Refusal
from shared.secure_aggregation.partner import Partner
from shared.secure_aggregation.roster import Roster
from shared.secure_aggregation.signing import Identity
from shared.system.files import write_atomically
from shared.system.locks import folder_lock

__all__ = ["MOST_SESSIONS", "Session", "Sessions"]

MOST_SESSIONS = 100
"""Runs whose sessions are kept."""
_PATIENCE = 600.0
"""Seconds to wait for another request of this site, which may be computing its answer."""
_SUFFIX = ".session"
_NUMBER, _DIGEST = 8, 32
"""Bytes of an attempt's number, and of the digest of run and number."""


@dataclass(slots=True)
class Session:
    """A run's session, held by this process alone.

    Attributes:
        file: where it is kept.
        name: digest of the run's.
        number: of the last attempt that began; 0 before the first.
        partner: its state; None before the first, and where it is damaged.
    """

    file: Path
    name: bytes
    number: int = 0
    partner: Partner | None = None

    def begin(self, partner: Partner, number: int) -> None:
        """Take the state of a new attempt; it is on disk once it is saved."""
        self.number, self.partner = number, partner

    def of(self, number: int) -> Partner:
        """Return the state of an attempt.

        Raises:
            Refused: it is not the last one that began, or was dropped out of.
        """
        if number != self.number:
            raise Refused(
                Refusal.DROPPED,
                f"attempt {number} is asked for; the last one that began here is {self.number}",
            )
        if self.partner is None:
            raise Refused(
                Refusal.DROPPED, f"attempt {number} was dropped out of: its state is gone"
            )
        return self.partner

    def save(self) -> None:
        """Write the state durably. Call it before an answer leaves."""
        state = b"" if self.partner is None else self.partner.to_bytes()
        write_atomically(self.file, _header(self.name, self.number) + state)


class Sessions:
    """The sessions of one site.

    Args:
        folder: where they are kept; made where it is missing.
        identity: the site's name and key.
        roster: whom it believes in.
    """

    def __init__(self, folder: Path, identity: Identity, roster: Roster) -> None:
        self._folder, self.identity, self.roster = folder, identity, roster

    @contextmanager
    def open(self, run: str) -> Iterator[Session]:
        """Hold a run's session; no other process of this site takes a step meanwhile.

        Raises:
            SiteError: another process does not let go.
            OSError: the folder cannot be read or written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

        def conflict() -> SiteError:
            return SiteError(
                f"{self._folder}: another process has been taking a step of secure aggregation for "
                f"{_PATIENCE:g} s. End it if it hangs."
            )

        with folder_lock(self._folder, conflict, patience=_PATIENCE):
            yield self._read(run)

    def _read(self, run: str) -> Session:
        name = hashlib.sha256(run.encode()).digest()
        session = Session(self._folder / f"{name.hex()[:32]}{_SUFFIX}", name)
        try:
            content = session.file.read_bytes()
        except FileNotFoundError:
            self._make_room()
            return session
        head, state = content[: _NUMBER + _DIGEST], content[_NUMBER + _DIGEST :]
        number = int.from_bytes(head[:_NUMBER], "big")
        if head != _header(name, number):
            return session  # not even its number can be told: as if it were lost
        session.number = number
        try:
            session.partner = Partner.from_bytes(state, self.identity, self.roster)
        except SecureAggregationError:
            session.partner = None
        if session.partner is not None and session.partner.aggregation.round != number:
            session.partner = None
        return session

    def _make_room(self) -> None:
        files = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda file: file.stat().st_mtime)
        for file in files[: max(0, len(files) - MOST_SESSIONS + 1)]:
            file.unlink(missing_ok=True)


def _header(name: bytes, number: int) -> bytes:
    written = number.to_bytes(_NUMBER, "big")
    return written + hashlib.sha256(name + written).digest()
