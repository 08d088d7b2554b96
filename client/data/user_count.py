"""Notice that many users came or went between two readings of the data.

Half of the users may vanish from an export without any row being wrong. The number of users that
was read last is kept in a file beside the ledger, and a large change is logged. Neither leaves this
machine.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from client.logs import Event, note
from client.site.site import Site
from shared.system.files import write_atomically

__all__ = ["LARGE_CHANGE", "note_change_of_users"]

LARGE_CHANGE = 0.2
"""A change by more than this share of the larger number is logged."""


def note_change_of_users(site: Site, users: int) -> None:
    """Log a warning if the number of users differs much from the last time, and keep the new one.

    Errors of the file are ignored: a request does not fail for a warning.

    Args:
        site: whose users they are.
        users: how many were read, >= 0.
    """
    file = users_file(site)
    before = _read(file)
    if before == users:
        return
    if before is not None and abs(users - before) > LARGE_CHANGE * max(users, before):
        note(Event.USERS)
    with suppress(OSError):
        write_atomically(file, f"{users}\n".encode())


def users_file(site: Site) -> Path:
    """Return where the number of users is kept."""
    return site.ledger_file.with_name(f"{site.ledger_file.name}.users")


def _read(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.read_text(encoding="ascii"))
    return None
