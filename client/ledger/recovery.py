"""Recovery of a ledger that does not open, without losing any charge.

| what is left                                    | what to do                                    |
|-------------------------------------------------|-----------------------------------------------|
| a newer copy of the file at fault               | put it back; nothing else is needed           |
| the anchor; the ledger is missing, damaged,     | `restore`: a new ledger starts with all       |
|   changed or older than the anchor              |   charges that the anchor holds               |
| both, and the anchor is an older copy           | `restore`: the anchor is updated              |
| no anchor, or one that is damaged               | `write_off`: a new ledger starts with an      |
|                                                 |   infinite charge, so no budget is left       |

The anchor suffices because nothing is computed or sent before the anchor holds its charge. Files
that are replaced are renamed, never deleted.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from client.ledger.anchor import Anchor
from client.ledger.balance import Balance
from client.ledger.ledger import Ledger
from client.ledger.store import create_database, database_files, ledger_lock, open_database
from shared.errors import LedgerError
from shared.privacy.release import Release, ReleaseKind

__all__ = ["restore", "write_off"]


def restore(path: Path, user_base: str, anchor: Path) -> Ledger:
    """Make ledger and anchor agree on the one with more charges; do nothing if they agree.

    Args:
        path: the ledger's file.
        user_base: the users whose budget it is.
        anchor: the anchor's file.

    Raises:
        LedgerError: the anchor is missing or damaged, so that only `write_off` is left, or it
            belongs to other users. Nothing was changed.
    """
    state = Anchor.load(anchor)
    if state.user_base != user_base:
        raise LedgerError(
            f"{anchor}: this is the anchor of '{state.user_base}', not of '{user_base}'. Set "
            "user_base or anchor back to what they were."
        )
    with ledger_lock(path, anchor):
        balance = _intact_balance(path, state)
        if balance is not None:
            Anchor.of(balance).save(anchor)
        else:
            _set_aside(*database_files(path))
            create_database(path, user_base, anchor, state.releases, restored_from=state.ledger)
    return Ledger(path, user_base, anchor)


def write_off(path: Path, user_base: str, anchor: Path, reason: str) -> Ledger:
    """Start a ledger with an infinite charge, so that no limit leaves any budget.

    Args:
        path: the ledger's file.
        user_base: the users whose budget is given up.
        anchor: the anchor's file.
        reason: the operator's reason, for the record.
    """
    infinite = Release(kind=ReleaseKind.WRITTEN_OFF, noise_multiplier=0.0, sample_rate=1.0, steps=1)
    with ledger_lock(path, anchor):
        _set_aside(*database_files(path), anchor)
        create_database(path, user_base, anchor, [infinite], reason=reason)
    return Ledger(path, user_base, anchor)


def _intact_balance(path: Path, state: Anchor) -> Balance | None:
    """Return the balance of a ledger that is intact and contains the anchor's state, else None."""
    balance, reached = Balance(), False
    try:
        with open_database(path) as database:
            for row in database.execute("SELECT seq, body, hash FROM entries ORDER BY seq"):
                balance.apply(*row)
                reached |= (balance.entries, balance.head.hex()) == (state.entries, state.head)
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None
    return balance if reached and balance.ledger == state.ledger else None


def _set_aside(*files: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    for file in files:
        if file.exists():
            file.rename(file.with_name(f"{file.name}.set-aside-{stamp}"))
