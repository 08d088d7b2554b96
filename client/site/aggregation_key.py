"""The site's aggregation key: under secure aggregation it signs with it, and peers know it by it.

It is a long-term key of the site's own, not the node's: the app's process reads this one, and not
that one. `aggregation_key` and `aggregation_key.pub` lie in the site's folder. Whoever has the
private one can take this site's place in a sum.

Where the site names an `executor_user` and root makes the key, the key is that user's.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from client.site.keys import load_key, make_key, public_file, public_line
from client.site.site import Site
from shared.errors import ConfigError, SecureAggregationError, SiteError
from shared.secure_aggregation import roster as protocol
from shared.secure_aggregation.signing import (
    Identity,
    public_from_openssh,
    public_from_text,
    public_to_text,
)
from shared.system.files import UMASK, write_atomically
from shared.system.supervise import Account

__all__ = [
    "key_file",
    "load_identity",
    "make_aggregation_key",
    "protocol_roster",
    "public_if_any",
    "public_line_of",
    "read_public",
]

_FILE = "aggregation_key"
_WHAT = "the aggregation key"
_LABEL = "sotto aggregation key of "
"""Begins the comment of a public key's line, so that a node's key is not taken for one."""
_OPENSSH = "ecdsa-"


def key_file(site: Site) -> Path:
    """Return the file of the private key; the public one is beside it, with `.pub` at its end."""
    return Path(site.folder, _FILE)


def make_aggregation_key(site: Site) -> Identity:
    """Return the site's name and key; make the key where there is none.

    Raises:
        SiteError: the key cannot be written, or is not readable.
        ProcessError: this machine has no user of the name `executor_user`.
    """
    file = key_file(site)
    if not file.exists():
        account = _account(site)
        try:
            make_key(file, comment=_LABEL + site.organisation)
        except SiteError:
            if not file.exists():  # else another command made it meanwhile
                raise
        _give(account, file)
    identity, public = load_identity(site), public_file(file)
    line = f"{public_line_of(identity)}\n"
    if not public.exists() or public.read_text(encoding="utf-8") != line:
        write_atomically(public, line.encode(), mode=UMASK)
    return identity


def load_identity(site: Site) -> Identity:
    """Return the site's name and private key, as the protocol signs with them.

    Raises:
        SiteError: there is no key, or it is not readable.
    """
    remedy = (
        f"Make one: sotto-node peers key --site {site.folder}; where node.executor_user is set, "
        "the key has to be that user's"
    )
    return Identity(name=site.organisation, key=load_key(key_file(site), _WHAT, remedy))


def public_if_any(site: Site) -> str:
    """Return the public key as a node tells it; "" where there is no key that can be read.

    A site whose key is missing or damaged still takes part in runs without masks.
    """
    try:
        return public_to_text(load_identity(site).public)
    except SiteError:
        return ""


def protocol_roster(site: Site) -> protocol.Roster:
    """Return whom the site believes in, as the protocol asks for it.

    Raises:
        ConfigError: no sum can be masked with this roster; the message says what would do.
        SiteError: the site's own key is not readable, or stands there as a peer's.
    """
    roster, own = site.roster, load_identity(site).public
    if not roster.peers:
        raise ConfigError(
            "[roster] names no organisation, and without their keys no answer can be masked: "
            "sotto-node peers add"
        )
    for name, key in roster.peers.items():
        if key == own:
            raise SiteError(
                f"{site.folder}: the key of roster.peers.{name} is this site's own. Remove it "
                f"(sotto-node peers remove), and ask {name} for its line."
            )
    if roster.problem:
        raise ConfigError(f"{roster.problem}.")
    return protocol.Roster(
        peers=dict(roster.peers), colluding=roster.colluding, fewest=roster.fewest
    )


def public_line_of(identity: Identity) -> str:
    """Return the public key as one line of OpenSSH's form, with the organisation's name."""
    return f"{public_line(identity.key)} {_LABEL}{identity.name}"


def read_public(text: str) -> tuple[bytes, str]:
    """Return the public key of a line or file that `sotto-node peers key` made, and the name on it.

    Args:
        text: the line; the name of a file that holds it; or the key alone in base64, as
            [roster.peers] has it, which names nobody: the name is then "".

    Raises:
        ConfigError: it is none of these.
    """
    line = text.strip()
    with suppress(SecureAggregationError):
        return public_from_text(line), ""
    if not line.startswith(_OPENSSH):
        line = _read_line(line)
    public = public_from_openssh(line)
    comment = (line.split(maxsplit=2) + [""] * 3)[2].strip()
    if not comment.startswith(_LABEL):
        raise ConfigError(
            f"{line!r:.60}: the line does not say that it is an aggregation key; a node's key "
            f"(node_key.pub) is another one. It ends with '{_LABEL}NAME': ask the organisation "
            "for what its `sotto-node peers key` prints."
        )
    return public, comment.removeprefix(_LABEL).strip()


def _read_line(name: str) -> str:
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text"
        raise ConfigError(
            f"{name!r:.80}: not readable ({reason}). Give the line that the organisation's "
            "`sotto-node peers key` prints, in quotation marks, or a file that holds it."
        ) from None
    if "PRIVATE KEY" in text:  # none of its characters belongs in a message
        raise ConfigError(
            f"{name}: this is a private key. Nobody else may have it: if it is another "
            "organisation's, tell them to make a new one, and ask for the public one."
        )
    return text


def _account(site: Site) -> Account | None:
    """Return whose the key has to be, where root makes it for another user."""
    user = site.node.executor_user
    return Account.of(user) if user and os.geteuid() == 0 else None


def _give(account: Account | None, file: Path) -> None:
    if account is None:
        return
    try:
        os.chown(file, account.user, account.group, follow_symlinks=False)
    except OSError as error:
        raise SiteError(f"{file}: cannot be given to {account.name} ({error.strerror}).") from error
