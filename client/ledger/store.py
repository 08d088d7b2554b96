"""The SQLite file of a ledger: its tables, and how it is opened, locked and created.

Triggers in the database make it append-only: every statement that would change or delete an entry
is aborted. Only the bodies of old answers may be deleted; the entries that say what was sent, and
when, stay.
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
from client.ledger.balance import FORMAT, UNIT, Balance, EntryType
from shared.errors import LedgerError
from shared.hash_chain import canonical_text, next_hash
from shared.privacy.release import Release
from shared.system.files import PRIVATE, move_durably
from shared.system.locks import folder_lock

__all__ = [
    "append_entry",
    "create_database",
    "database_files",
    "entry_text",
    "ledger_lock",
    "open_database",
]

PATIENCE = 60.0
"""Seconds to wait for another process that holds the ledger."""

# The columns after `hash` are generated from `body`, so they cannot differ from what was hashed.
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
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger file so that a commit is on disk when it returns.

    Raises:
        sqlite3.Error: the file is not a database, or cannot be read or written.
    """
    # Mode rw, so that a missing file is an error and not created.
    uri = f"{path.resolve().as_uri()}?mode=rw"
    with closing(
        sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
    ) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
        yield database  # closing it rolls back an open transaction


@contextmanager
def ledger_lock(path: Path, anchor: Path) -> Iterator[None]:
    """Hold a ledger and its anchor exclusively among all processes and threads.

    Both folders are locked: two copies of a ledger that share an anchor must not charge at once.
    The operating system releases the locks when the process ends.

    Args:
        path: the ledger's file.
        anchor: the anchor's file; a folder that does not exist is not locked.

    Raises:
        LedgerError: another process has held one of them for `PATIENCE` seconds.
    """

    def conflict() -> LedgerError:
        return LedgerError(
            f"{path}: another process has held the ledger or its anchor for {PATIENCE:g} s. Look "
            "for a node of these users that hangs, and end it."
        )

    with ExitStack() as stack:
        # Folders are locked: a lock file could be deleted while it is held.
        for folder in _folders_to_lock(path, anchor):
            try:
                stack.enter_context(folder_lock(folder, conflict, patience=PATIENCE))
            except OSError as error:
                raise LedgerError(f"{folder}: cannot be opened ({error.strerror}).") from error
        yield


def _folders_to_lock(path: Path, anchor: Path) -> list[Path]:
    """Return the folders of both files, each once, in an order that all processes agree on."""
    folders = [path.parent, *[anchor.parent] * anchor.parent.is_dir()]
    try:
        by_inode = {(s.st_dev, s.st_ino): f for f in folders for s in [f.stat()]}
    except OSError as error:
        raise LedgerError(f"{path.parent}: cannot be opened ({error.strerror}).") from error
    return [by_inode[inode] for inode in sorted(by_inode)]


def entry_text(what: EntryType, fields: Mapping[str, Any]) -> str:
    """Return the canonical text of an entry, with the time and the app's fingerprint."""
    common = {"entry": str(what), "at": datetime.now(UTC).isoformat(), "app": app_fingerprint()}
    return canonical_text(common | dict(fields))


def append_entry(database: sqlite3.Connection, balance: Balance, text: str) -> None:
    """Write the next entry in the open transaction, and add it to `balance`."""
    number, digest = balance.entries + 1, next_hash(balance.head, text)
    database.execute(
        "INSERT INTO entries (seq, body, hash) VALUES (?, ?, ?)", (number, text, digest)
    )
    balance.apply(number, text, digest)


def create_database(
    path: Path, user_base: str, anchor: Path, carried: Sequence[Release], **notes: object
) -> None:
    """Write a new ledger to a temporary file, then its anchor, then move the ledger into place.

    A crash in between leaves an anchor without its ledger, from which it can be restored.

    Args:
        path: the ledger's file; an existing one is replaced.
        user_base: the users whose budget it is.
        anchor: the anchor's file.
        carried: releases that the user base was charged for before.
        notes: further fields of the first entry.

    Raises:
        LedgerError: a file cannot be created.
    """
    new = path.with_name(path.name + ".new")
    try:
        for left in database_files(new):
            left.unlink(missing_ok=True)
        new.touch(mode=PRIVATE, exist_ok=False)
        anchor.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open_database(new) as database:
            database.executescript(_SCHEMA)
            balance = _write_first_entries(database, {"user_base": user_base} | notes, carried)
        Anchor.of(balance).save(anchor)
        move_durably(new, path)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be made ({error.strerror}).") from error


def database_files(path: Path) -> list[Path]:
    """Return the ledger's file and those that SQLite may keep beside it."""
    return [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]


def _write_first_entries(
    database: sqlite3.Connection, notes: Mapping[str, object], carried: Sequence[Release]
) -> Balance:
    balance = Balance()
    opening = {"format": FORMAT, "unit": UNIT, "ledger": secrets.token_hex(16)}
    database.execute("BEGIN IMMEDIATE")
    append_entry(database, balance, entry_text(EntryType.OPENED, opening | dict(notes)))
    for release in carried:
        append_entry(database, balance, entry_text(EntryType.CARRIED, release.fields))
    database.execute("COMMIT")
    return balance
