"""The coordinator's record of its partners, partners.json: who was invited, accepted and revoked.

invite -> invited -> accept -> accepted -> revoke -> revoked -> invite -> ...

Flower knows a node by its key and a number alone; names are kept here and in the audit log. The
file is replaced in one step, under a lock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from shared.errors import ServerError
from shared.system.files import write_atomically
from shared.system.locks import exclusive_lock

__all__ = ["FILE", "Member", "PartnerRegistry", "PartnerState", "read_key"]

FILE, _LOCK = "partners.json", "partners.lock"
_LONGEST_NAME = 100
_MARKUP = "<>[]|`\\"
_REVOKED_KEY = (
    "this key was revoked, and Flower registers no key twice. The partner makes a new one (A new "
    "node key in docs/node-reference.md) and sends its line: accept that one. Its budget stays as "
    "it is."
)
_PATIENCE = 60.0
"""Seconds to wait for another command that changes the record."""


class PartnerState(StrEnum):
    """PartnerState of a partner."""

    INVITED = "invited"
    ACCEPTED = "accepted"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One organisation as the coordinator has recorded it.

    Attributes:
        name: as the coordinator calls it.
        state: invited, accepted or revoked.
        since: when it entered that state, ISO 8601, UTC.
        node: Flower's number of its node; "" until it is accepted. A text: JSON readers lose
            digits of numbers as large.
        key: SHA-256 of its public key's line; "" until it is accepted.
        revoked_keys: SHA-256 of its earlier keys, which Flower does not register again.
        aggregation_key: the public key that its node stated last, in base64; "" before, and where
            its site has none. It is not the node's key, and others decide whether to believe it.
    """

    name: str
    state: PartnerState
    since: str
    node: str = ""
    key: str = ""
    revoked_keys: tuple[str, ...] = ()
    aggregation_key: str = ""


class PartnerRegistry:
    """The record of partners in a coordinator's folder.

    Args:
        folder: the coordinator's.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._lock = folder / FILE, folder / _LOCK

    def all(self) -> list[Member]:
        """Return every partner, sorted by name.

        Raises:
            ServerError: the file is damaged.
        """
        return sorted(self._read().values(), key=lambda partner: partner.name)

    def names_by_node(self) -> dict[int, str]:
        """Return the name of each accepted partner by Flower's number of its node.

        Raises:
            ServerError: the file is damaged.
        """
        accepted = (p for p in self._read().values() if p.state is PartnerState.ACCEPTED)
        return {int(partner.node): partner.name for partner in accepted}

    def invite(self, name: str) -> Member:
        """Record an invitation.

        Raises:
            ServerError: the name is not printable, begins markup, or is taken.
        """
        if not name.isprintable() or name != name.strip() or not 0 < len(name) <= _LONGEST_NAME:
            raise ServerError(f"name = {name!r}: give 1 to {_LONGEST_NAME} printable characters.")
        if markup := sorted(set(name) & set(_MARKUP)):
            raise ServerError(
                f"name = {name!r}: leave out {' '.join(markup)}, which begin markup where the name "
                "is shown."
            )
        with self._changing() as partners:
            partner = partners.get(name)
            if partner is not None and partner.state is not PartnerState.REVOKED:
                raise ServerError(
                    f"'{name}' is {partner.state} already, since {partner.since}: choose another "
                    "name, or revoke that one first."
                )
            revoked = (*partner.revoked_keys, partner.key) if partner is not None else ()
            partners[name] = Member(
                name=name,
                state=PartnerState.INVITED,
                since=_now(),
                revoked_keys=tuple(filter(None, revoked)),
            )
            return partners[name]

    def check_key(self, name: str, key: str) -> None:
        """Check that a key could be accepted for a name; change nothing.

        Raises:
            ServerError: no partner of that name is invited, or the key is another partner's or was
                revoked.
        """
        partners = self._read()
        partner = partners.get(name)
        if partner is None or partner.state is not PartnerState.INVITED:
            state = "not invited" if partner is None else f"{partner.state}, not invited"
            raise ServerError(f"'{name}' is {state}: first sotto-server invite '{name}'")
        for other in partners.values():
            if other.key == key and other.state is PartnerState.ACCEPTED:
                raise ServerError(
                    f"this key belongs to {other.name}: each organisation has its own. Ask "
                    f"'{name}' for the line that its sotto-node init printed."
                )
            if key in other.revoked_keys or (
                other.key == key and other.state is PartnerState.REVOKED
            ):
                raise ServerError(_REVOKED_KEY)

    def accept(self, name: str, *, key: str, node: str) -> Member:
        """Record that Flower has registered the partner's key under the number `node`."""
        return self._change(name, state=PartnerState.ACCEPTED, key=key, node=node)

    def keep_aggregation_key(self, name: str, key: str) -> None:
        """Record the aggregation key that a partner's node stated; nothing if it is on record.

        Raises:
            ServerError: the record is damaged, or another command keeps it locked.
            OSError: it cannot be written.
        """
        partner = self._read().get(name)
        if partner is None or not key or partner.aggregation_key == key:
            return
        with self._changing() as partners:
            if name in partners:
                partners[name] = replace(partners[name], aggregation_key=key)

    def accepted(self, name: str) -> Member:
        """Return the partner of that name, which must be accepted.

        Raises:
            ServerError: there is none, or it was not accepted.
        """
        partner = self._read().get(name)
        if partner is None or partner.state is not PartnerState.ACCEPTED:
            state = "not known" if partner is None else str(partner.state)
            raise ServerError(f"'{name}' is {state}, not accepted: see sotto-server list")
        return partner

    def revoke(self, name: str) -> Member:
        """Record that the partner no longer takes part; its key and number stay on record.

        Raises:
            ServerError: there is none of that name, or it is revoked already.
        """
        partner = self._read().get(name)
        if partner is None or partner.state is PartnerState.REVOKED:
            state = "not known" if partner is None else "revoked already"
            raise ServerError(f"'{name}' is {state}: see sotto-server list")
        return self._change(name, state=PartnerState.REVOKED)

    def _change(self, name: str, **fields: str) -> Member:
        with self._changing() as partners:
            changed = asdict(replace(partners[name], since=_now())) | fields
            partners[name] = _partner(changed)
            return partners[name]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Member]]:
        def conflict(holder: str) -> ServerError:
            return ServerError(
                f"{self._file}: another command (process {holder}) has been changing it for "
                f"{_PATIENCE:g} s. End it if it hangs."
            )

        with exclusive_lock(self._lock, conflict, patience=_PATIENCE):
            partners = self._read()
            yield partners
            rows = [asdict(partner) for partner in partners.values()]
            write_atomically(self._file, (json.dumps(rows, indent=1) + "\n").encode())

    def _read(self) -> dict[str, Member]:
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))
            return {row["name"]: _partner(row) for row in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ServerError(
                f"{self._file} cannot be read ({type(error).__name__}): restore a copy; the "
                "audit log has the same facts."
            ) from error


def read_key(text: str) -> tuple[bytes, str]:
    """Return a partner's public key, given as a file's name or as the line itself.

    Returns:
        The line, without its comment, and its SHA-256 in hex.

    Raises:
        ServerError: it is neither, or of a kind that Flower does not accept.
    """
    line = text.strip()
    try:
        if not line.startswith(("ecdsa-", "ssh-")):
            line = Path(line).expanduser().read_text(encoding="ascii").strip()
        key = load_ssh_public_key(line.encode("ascii"))
    except OSError as error:
        raise ServerError(
            f"{text}: not readable ({error.strerror}). Give the partner's public key: the line "
            "that its sotto-node init printed, in quotation marks, or a file that holds it."
        ) from error
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise ServerError(
            "this is not a public P-384 key in OpenSSH form, which begins with "
            "ecdsa-sha2-nistp384. Ask for the line that sotto-node init printed; never for the "
            "file node_key, which is private."
        )
    plain = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return plain, hashlib.sha256(plain).hexdigest()


def _partner(row: dict[str, str]) -> Member:
    revoked = tuple(row.get("revoked_keys", ()))
    fields = {**row, "state": PartnerState(row["state"]), "revoked_keys": revoked}
    return Member(**fields)  # type: ignore[arg-type]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
