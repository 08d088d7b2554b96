"""Add organisations to [roster.peers] of site.toml, and remove them; its comments stay.

The file is replaced in one step, under a lock, and only where what results is a valid site.toml. It
counts from the node's next request.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from client.site.roster import PEERS, Peers
from client.site.site import FILE, Site
from shared.errors import ConfigError, SiteError
from shared.secure_aggregation.signing import public_to_text
from shared.system.files import write_atomically
from shared.system.locks import exclusive_lock

__all__ = ["add_peer", "remove_peer"]

_LOCK = ".site.lock"
_PATIENCE = 10.0
"""Seconds to wait for another command that changes the file."""
_ROSTER = "roster"


def add_peer(site: Site, name: str, key: bytes) -> Site:
    """Add an organisation to the roster; return the site as it is then.

    Args:
        site: whose roster.
        name: of the organisation, as it states it itself.
        key: its public aggregation key, 49 bytes.

    Raises:
        ConfigError: the name cannot be one, or name or key is there already.
        SiteError: site.toml cannot be written, or would not be valid.
    """

    def add(current: Peers) -> Peers:
        if current.get(name) == key:
            return current
        if name in current:
            raise ConfigError(
                f"roster.peers: '{name}' has another key. If it has truly changed its key, and you "
                f"have compared the new fingerprint: sotto-node peers remove '{name}', and add it "
                "again."
            )
        return current.joined(name, key)

    return _edit(site, add)


def remove_peer(site: Site, name: str) -> Site:
    """Remove an organisation from the roster; return the site as it is then.

    Raises:
        ConfigError: the roster does not name it.
        SiteError: site.toml cannot be written, or would not be valid.
    """

    def remove(current: Peers) -> Peers:
        if name not in current:
            names = ", ".join(current) or "nobody"
            raise ConfigError(f"roster.peers does not name '{name}'; it names {names}.")
        return Peers({other: key for other, key in current.items() if other != name})

    return _edit(site, remove)


def _edit(site: Site, change: Callable[[Peers], Peers]) -> Site:
    """Replace [roster.peers] in the file as it is now."""
    file = Path(site.folder, FILE)

    def conflict(holder: str) -> SiteError:
        return SiteError(
            f"{file}: another command (process {holder}) has been changing it for {_PATIENCE:g} s. "
            "End it if it hangs."
        )

    try:
        with exclusive_lock(file.with_name(_LOCK), conflict, patience=_PATIENCE):
            before = Site.load(file)
            peers = change(before.roster.peers)
            if dict(peers) == dict(before.roster.peers):
                return before
            text = _with_peers(file.read_text(encoding="utf-8"), peers, file)
            after = Site.parse(text, file)
            # A link leads to the file that is to be replaced.
            write_atomically(file.resolve(), text.encode(), keep_access=True)
            return after
    except OSError as error:
        raise SiteError(
            f"{file}: cannot be changed ({error.strerror}). Run the command as the file's owner, "
            "or as root."
        ) from error


def _with_peers(text: str, peers: Peers, file: Path) -> str:
    """Return the text of a site.toml with these peers and no others."""
    try:
        document = tomlkit.parse(text)
        roster: Any = document.setdefault(_ROSTER, tomlkit.table())
        table: Any = roster.setdefault(PEERS, tomlkit.table())
        for name in set(table) - set(peers):
            del table[name]
        for name, key in peers.items():
            if name not in table:
                table[name] = public_to_text(key)
        if not table:
            del roster[PEERS]
        return tomlkit.dumps(document)
    except TOMLKitError as error:
        raise SiteError(
            f"{file}: [roster] cannot be changed by the command ({error}). Edit it by hand."
        ) from error
