"""The anchor: a small file, stored apart from the ledger, with the ledger's newest state.

An older copy of a ledger is a valid chain, so only information outside the ledger can show that it
is old. The anchor also holds the sum of all charges: a lost ledger can be replaced without losing
what was spent.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.ledger.balance import UNIT, Balance, release_of
from shared.errors import LedgerError
from shared.hash_chain import canonical_text
from shared.privacy.release import Release
from shared.system.files import write_atomically

__all__ = ["Anchor", "default_anchor", "state_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The state of a ledger after its last entry.

    Attributes:
        ledger: id of the ledger; see `Balance`.
        user_base: the users whose budget it is.
        entries: number of entries.
        head: hash of the last entry, in hex.
        charged: (kind, noise multiplier, sample rate, total steps) of all charges, and the shares
            where they are not 1.
    """

    ledger: str
    user_base: str
    entries: int
    head: str
    charged: tuple[tuple[str, float, float, int] | tuple[str, float, float, int, int], ...]

    @classmethod
    def of(cls, balance: Balance) -> Anchor:
        """Return the anchor of this balance."""
        return cls(
            ledger=balance.ledger,
            user_base=balance.user_base,
            entries=balance.entries,
            head=balance.head.hex(),
            charged=tuple(
                (kind, noise, rate, steps, shares) if shares > 1 else (kind, noise, rate, steps)
                for (kind, noise, rate, shares), steps in (
                    *balance.steps.items(),
                    *balance.home_steps.items(),
                )
            ),
        )

    @property
    def releases(self) -> list[Release]:
        """All charged releases."""
        return [
            release_of((kind, noise, rate, *(shares or [1])), steps)  # type: ignore[arg-type]
            for kind, noise, rate, steps, *shares in self.charged
        ]

    @classmethod
    def load(cls, file: Path) -> Anchor:
        """Read an anchor file.

        Raises:
            LedgerError: it is missing or damaged.
        """
        try:
            stored = json.loads(file.read_bytes())
            fields = _verify_checksum(stored["anchor"], stored["sha256"])
            charged = tuple(
                (str(k), float(n), float(q), *map(int, counts))
                for k, n, q, *counts in fields["charged"]
            )
            return cls(**fields | {"charged": charged})
        except FileNotFoundError as error:
            raise LedgerError(
                f"{file}: the ledger's anchor is missing, so it is not known whether the ledger is "
                "the newest. Nothing is released. Put the anchor back from the machine or the "
                "backup it is on; if there is none, the budget must be written off."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{file}: the ledger's anchor cannot be read ({error}). Nothing is released. "
                "Put a copy of it back; if there is none, the budget must be written off."
            ) from error

    def save(self, file: Path) -> None:
        """Replace the anchor file durably; after a crash it holds the old state or the new one.

        Raises:
            LedgerError: it cannot be written.
        """
        fields = {name: getattr(self, name) for name in self.__slots__}
        text = json.dumps({"anchor": fields, "sha256": _checksum(fields)}, indent=1)
        try:
            # When root maintains another user's node, the file must stay that user's.
            write_atomically(file, text.encode(), keep_owner=True)
        except OSError as error:
            raise LedgerError(
                f"{file}: the ledger's anchor cannot be written ({error.strerror}), so nothing is "
                "released. Check the disk and the folder's permissions."
            ) from error


def default_anchor(user_base: str) -> Path:
    """Return the anchor file of a user base that is used unless site.toml names another.

    It is in the state folder of the system's user, see `state_file`.
    """
    return state_file("anchors", user_base)


def state_file(kind: str, user_base: str) -> Path:
    """Return the file that the system's user keeps about a user base.

    It is in the user's state folder (`$XDG_STATE_HOME`, else ~/.local/state). Its name depends only
    on the user base and the privacy unit, so that a new site folder of the same user base finds it.

    Args:
        kind: name of the folder: "anchors" or "user-bases".
        user_base: the users.

    Raises:
        OSError: the user has no home folder.
    """
    try:
        state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError as error:
        raise OSError(errno.ENOENT, "the system's user has no home folder") from error
    digest = hashlib.sha256(f"{UNIT}\0{user_base}".encode()).hexdigest()
    readable = re.sub(r"[^a-z0-9]+", "-", user_base.lower()).strip("-")[:40]
    return Path(state, "sotto", kind, f"{readable or 'users'}-{digest[:12]}.json")


def _verify_checksum(fields: dict[str, Any], checksum: str) -> dict[str, Any]:
    if _checksum(fields) != checksum:
        raise ValueError("its checksum does not match")
    return fields


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_text(fields).encode()).hexdigest()
