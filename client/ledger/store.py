"""The file that a ledger lies in: its tables, how it is opened, locked and made.

Append-only is a rule of the tables themselves: what changes or takes out an entry is aborted,
whoever asks. Only the bodies of old answers may go; what was sent, and when, stays.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.ledger.anchor import Anchor
from client.ledger.app_version import app_fingerprint
from client.ledger.balance import FORMAT, UNIT, Balance, What
from shared.errors import LedgerError
from shared.hash_chain import encoded, linked
from shared.privacy.release import Release
from shared.system.files import PRIVATE, folder_lock, move_durably

__all__ = ["append", "connected", "entry_text", "files_of", "ledger_lock", "write_new"]

PATIENCE = 60.0
"""Seconds to wait for another process that holds the ledger."""

# The columns after `hash` are read out of `body`, so they cannot differ from what was hashed.
_SCHEMA = """
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash BLOB NOT NULL,
    entry TEXT AS (json_extract(body, '$.entry')), run TEXT AS (json_extract(body, '$.run')),
    kind TEXT AS (json_extract(body, '$.kind')), round INTEGER AS (json_extract(body, '$.round'))
);
CREATE UNIQUE INDEX charges ON entries (run, kind, round) WHERE entry = 'charge';
CREATE UNIQUE INDEX answers ON entries (run, kind, round) WHERE entry = 'answer';
CREATE TABLE layouts (sha256 TEXT PRIMARY KEY, arrays TEXT NOT NULL);
CREATE TABLE bodies (seq INTEGER PRIMARY KEY REFERENCES entries (seq), body BLOB NOT NULL);

CREATE TRIGGER entries_in_order BEFORE INSERT ON entries
    WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM entries)
    BEGIN SELECT RAISE (ABORT, 'entries are appended, in order'); END;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
    BEGIN SELECT RAISE (ABORT, 'entries are never changed'); END;
CREATE TRIGGER entries_last BEFORE DELETE ON entries
    BEGIN SELECT RAISE (ABORT, 'entries are never deleted'); END;
CREATE TRIGGER layouts_stay BEFORE UPDATE ON layouts
    BEGIN SELECT RAISE (ABORT, 'layouts are never changed'); END;
CREATE TRIGGER layouts_last BEFORE DELETE ON layouts
    BEGIN SELECT RAISE (ABORT, 'layouts are never deleted'); END;
CREATE TRIGGER bodies_once BEFORE INSERT ON bodies
    WHEN EXISTS (SELECT 1 FROM bodies WHERE seq = NEW.seq)
    BEGIN SELECT RAISE (ABORT, 'answers are never changed'); END;
CREATE TRIGGER bodies_stay BEFORE UPDATE ON bodies
    BEGIN SELECT RAISE (ABORT, 'answers are never changed'); END;
"""


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """An open ledger file, whose commits are on disk when they return.

    Raises:
        sqlite3.Error: it is not a database, or cannot be read or written.
    """
    # Mode rw: a file that went missing is not made anew.
    uri = f"{path.resolve().as_uri()}?mode=rw"
    with closing(
        sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
    ) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
        yield database  # closing rolls back what was not committed


@contextmanager
def ledger_lock(path: Path) -> Iterator[None]:
    """Keeps every other process and thread from the ledger; ends with the process at the latest.

    Raises:
        LedgerError: another one does not let go.
    """

    def conflict() -> LedgerError:
        return LedgerError(
            f"{path}: another process has held the ledger for {PATIENCE:g} s. Look for a node of "
            "this site that hangs, and end it."
        )

    with ExitStack() as stack:
        try:  # the folder is locked: a lock file could be deleted while it is held
            stack.enter_context(folder_lock(path.parent, conflict, patience=PATIENCE))
        except OSError as error:
            raise LedgerError(f"{path.parent}: cannot be opened ({error.strerror}).") from error
        yield


def entry_text(what: What, fields: Mapping[str, Any]) -> str:
    """An entry's text, with the time and the version of the app."""
    common = {"entry": str(what), "at": datetime.now(UTC).isoformat(), "app": app_fingerprint()}
    return encoded(common | dict(fields))


def append(database: sqlite3.Connection, balance: Balance, text: str) -> None:
    """Writes the next entry in the transaction that is open; `balance` follows."""
    number, digest = balance.entries + 1, linked(balance.head, text)
    database.execute(
        "INSERT INTO entries (seq, body, hash) VALUES (?, ?, ?)", (number, text, digest)
    )
    balance.follow(number, text, digest)


def write_new(
    path: Path, user_base: str, anchor: Path, carried: Sequence[Release], **notes: object
) -> None:
    """Writes a ledger beside its place, then its anchor, and only then puts it there.

    A crash before the end leaves an anchor without its ledger, from which it can be restored.

    Args:
        path: where it shall lie; what is there is replaced.
        user_base: whose it is.
        anchor: where its anchor shall lie.
        carried: what the user base has spent before.
        notes: what the first entry says besides.

    Raises:
        LedgerError: a file cannot be made.
    """
    new = path.with_name(path.name + ".new")
    try:
        for left in files_of(new):
            left.unlink(missing_ok=True)
        new.touch(mode=PRIVATE, exist_ok=False)
        anchor.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with connected(new) as database:
            database.executescript(_SCHEMA)
            balance = _started(database, {"user_base": user_base} | notes, carried)
        Anchor.of(balance).save(anchor)
        move_durably(new, path)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be made ({error.strerror}).") from error


def files_of(path: Path) -> list[Path]:
    """The ledger's file and those that SQLite keeps beside it, there or not."""
    return [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]


def _started(
    database: sqlite3.Connection, notes: Mapping[str, object], carried: Sequence[Release]
) -> Balance:
    balance = Balance()
    opening = {"format": FORMAT, "unit": UNIT, "ledger": secrets.token_hex(16)}
    database.execute("BEGIN IMMEDIATE")
    append(database, balance, entry_text(What.OPENED, opening | dict(notes)))
    for release in carried:
        append(database, balance, entry_text(What.CARRIED, release.fields))
    database.execute("COMMIT")
    return balance
