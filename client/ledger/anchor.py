"""A small file, kept away from the ledger, that says how far the ledger had come.

A ledger that is an older copy of itself is a whole and valid ledger; only something outside it
can tell. The anchor also holds what was charged in all, so that a ledger that is lost can be
replaced without forgetting.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.ledger.balance import UNIT, Balance, release_of
from shared.errors import LedgerError
from shared.hash_chain import encoded
from shared.privacy.release import Release
from shared.system.files import write_atomically

__all__ = ["Anchor", "default_anchor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """How far a ledger had come.

    Attributes:
        ledger: which ledger; see `Balance`.
        user_base: whose budget it is.
        entries: how many it had.
        head: the last entry's hash, in hex.
        charged: (kind, noise multiplier, sample rate, steps) in all.
    """

    ledger: str
    user_base: str
    entries: int
    head: str
    charged: tuple[tuple[str, float, float, int], ...]

    @classmethod
    def of(cls, balance: Balance) -> Anchor:
        """What the anchor of this balance says."""
        return cls(
            ledger=balance.ledger,
            user_base=balance.user_base,
            entries=balance.entries,
            head=balance.head.hex(),
            charged=tuple((*form, steps) for form, steps in balance.steps.items()),
        )

    @property
    def releases(self) -> list[Release]:
        """All that was charged."""
        return [release_of((kind, noise, rate), n) for kind, noise, rate, n in self.charged]

    @classmethod
    def load(cls, file: Path) -> Anchor:
        """Reads an anchor.

        Raises:
            LedgerError: it is missing or damaged.
        """
        try:
            read = json.loads(file.read_bytes())
            fields = _checked(read["anchor"], read["sha256"])
            charged = tuple(
                (str(k), float(n), float(q), int(s)) for k, n, q, s in fields["charged"]
            )
            return cls(**fields | {"charged": charged})
        except FileNotFoundError as error:
            raise LedgerError(
                f"{file}: the ledger's anchor is missing, so nobody can tell whether the ledger is "
                "the newest. Nothing is released. Put the anchor back from the machine or the "
                "backup it is on; if there is none, the budget must be written off."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{file}: the ledger's anchor cannot be read ({error}). Nothing is released. "
                "Put a copy of it back; if there is none, the budget must be written off."
            ) from error

    def save(self, file: Path) -> None:
        """Replaces the anchor durably; a crash leaves the old one or the new one.

        Raises:
            LedgerError: it cannot be written.
        """
        fields = {name: getattr(self, name) for name in self.__slots__}
        text = json.dumps({"anchor": fields, "sha256": _checksum(fields)}, indent=1)
        try:
            # Root, who looks after another user's node, leaves the file that user's.
            write_atomically(file, text.encode(), keep_owner=True)
        except OSError as error:
            raise LedgerError(
                f"{file}: the ledger's anchor cannot be written ({error.strerror}), so nothing is "
                "released. Check the disk and the folder's permissions."
            ) from error


def default_anchor(user_base: str) -> Path:
    """Where the anchor of a user base lies unless site.toml says otherwise.

    In the user's state folder (`$XDG_STATE_HOME`, else ~/.local/state), under a name that depends
    on the user base and the privacy unit alone: a site folder that is set up anew finds it.
    """
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    digest = hashlib.sha256(f"{UNIT}\0{user_base}".encode()).hexdigest()
    readable = re.sub(r"[^a-z0-9]+", "-", user_base.lower()).strip("-")[:40]
    return Path(state, "sotto", "anchors", f"{readable or 'users'}-{digest[:12]}.json")


def _checked(fields: dict[str, Any], checksum: str) -> dict[str, Any]:
    if _checksum(fields) != checksum:
        raise ValueError("its checksum is another")
    return fields


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(encoded(fields).encode()).hexdigest()
