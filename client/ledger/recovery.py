"""How a ledger that does not open is put right: never by forgetting.

| what is there                                   | what to do                                    |
|-------------------------------------------------|-----------------------------------------------|
| a newer copy of the file that is at fault       | put it back; nothing else is needed           |
| the anchor; the ledger is missing, damaged,     | `restore`: a new ledger that starts with all  |
|   changed or older than the anchor              |   that the anchor says was charged            |
| both, and the anchor is an older copy           | `restore`: the anchor follows the ledger      |
| no anchor, or one that is damaged               | `write_off`: a new ledger that starts with    |
|                                                 |   an infinite charge: the budget is gone      |

The anchor is enough because nothing is computed or sent before the anchor knows of it. Files that
are replaced are set aside under another name, never deleted.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from client.ledger.anchor import Anchor
from client.ledger.balance import Balance
from client.ledger.ledger import Ledger
from client.ledger.store import connected, files_of, ledger_lock, write_new
from shared.errors import LedgerError
from shared.privacy.release import Release, ReleaseKind

__all__ = ["restore", "write_off"]


def restore(path: Path, user_base: str, anchor: Path) -> Ledger:
    """Makes ledger and anchor agree on the larger of the two; does nothing where they do.

    Raises:
        LedgerError: the anchor is missing or damaged, or belongs to other users: then only
            `write_off` is left. Nothing was changed.
    """
    known = Anchor.load(anchor)
    if known.user_base != user_base:
        raise LedgerError(
            f"{anchor}: this is the anchor of '{known.user_base}', not of '{user_base}'. Set "
            "user_base or anchor back to what they were."
        )
    with ledger_lock(path):
        found = _whole(path, known)
        if found is not None:
            Anchor.of(found).save(anchor)
        else:
            _set_aside(*files_of(path))
            write_new(path, user_base, anchor, known.releases, restored_from=known.ledger)
    return Ledger(path, user_base, anchor)


def write_off(path: Path, user_base: str, anchor: Path, reason: str) -> Ledger:
    """Starts a ledger in which the whole budget is spent, whatever the limit is or becomes.

    Args:
        path: where the ledger lay.
        user_base: whose budget is given up.
        anchor: where the anchor lay.
        reason: the operator's own words, for the record.
    """
    gone = Release(kind=ReleaseKind.WRITTEN_OFF, noise_multiplier=0.0, sample_rate=1.0, steps=1)
    with ledger_lock(path):
        _set_aside(*files_of(path), anchor)
        write_new(path, user_base, anchor, [gone], reason=reason)
    return Ledger(path, user_base, anchor)


def _whole(path: Path, known: Anchor) -> Balance | None:
    """The balance of a ledger that is whole and has all that the anchor knows of."""
    balance, passed = Balance(), False
    try:
        with connected(path) as database:
            for row in database.execute("SELECT seq, body, hash FROM entries ORDER BY seq"):
                balance.follow(*row)
                passed |= (balance.entries, balance.head.hex()) == (known.entries, known.head)
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None
    return balance if passed and balance.ledger == known.ledger else None


def _set_aside(*files: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    for file in files:
        if file.exists():
            file.rename(file.with_name(f"{file.name}.set-aside-{stamp}"))
