"""Notice that many users came or went between two readings of the data.

Half of the users may vanish from an export without any row being wrong. The number of users that
was read last is kept in a file beside the ledger, which never leaves this machine.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from client.site.site import Site
from shared.system.files import write_atomically

__all__ = ["LARGE_CHANGE", "keep_user_count", "users_file"]

LARGE_CHANGE = 0.2
"""A change by more than this share of the larger number is a large one."""


def keep_user_count(site: Site, users: int) -> bool:
    """Keep the number of users, and return whether it differs much from the last one.

    Errors of the file are ignored: a request does not fail for a warning.

    Args:
        site: whose users they are.
        users: how many were read, >= 0.
    """
    file = users_file(site)
    before = _read(file)
    if before == users:
        return False
    with suppress(OSError):
        write_atomically(file, f"{users}\n".encode())
    return before is not None and abs(users - before) > LARGE_CHANGE * max(users, before)


def users_file(site: Site) -> Path:
    """Return where the number of users is kept."""
    return site.ledger_file.with_name(f"{site.ledger_file.name}.users")


def _read(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.read_text(encoding="ascii"))
    return None
