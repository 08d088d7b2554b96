"""Create a new site: its folder, key pairs, ledger, anchor and site.toml, in this order.

So a folder with a site.toml is complete. Nothing that exists is overwritten: an existing key is
used, and so is an existing ledger of the same users. After a crash or a mistake, the same command
can be repeated.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.ledger.recovery import restore as restore_ledger
from client.site.aggregation_key import make_aggregation_key
from client.site.coordinator import CoordinatorConfig
from client.site.keys import make_key, public_file, public_key
from client.site.local_port import find_free_port
from client.site.site import FILE, Site
from client.site.template import site_toml
from shared.errors import SiteError
from shared.sections import Value
from shared.system.files import move_durably, write_atomically

__all__ = ["PATHS", "NewSite", "make_site", "new_file"]

_PORT = "coordinator.local_port"
PATHS = ("data.source", "data.credentials", "catalogue", "coordinator.root_certificates", "anchor")
"""Keys that hold a path; on a command line it is relative to the current folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSite:
    """A site that was created.

    Attributes:
        site: the site, as stored.
        public_key: to be registered by the coordinator; one line.
        public_file: the file that holds it.
        open_to_others: permissions of a folder that existed and that others may enter; else "".
    """

    site: Site
    public_key: str
    public_file: Path
    open_to_others: str = ""


def make_site(folder: Path, values: Mapping[str, Value], *, restore: bool = False) -> NewSite:
    """Create a site in `folder`, which need not exist.

    Args:
        folder: of the site; a new folder is open to its owner alone.
        values: of site.toml, by `section.key`; paths are from the current folder.
        restore: whether a lost ledger is replaced by one that starts with its anchor's charges.

    Raises:
        SiteError: a value does not fit, and nothing was created; or there is a site already.
        LedgerError: these users have a ledger elsewhere, or there is no anchor to restore from.
    """
    file = new_file(folder)
    folder = file.parent
    paths = {key: _relative_to(folder, values[key]) for key in PATHS if key in values}
    text = site_toml({**values, **paths, **_local_port(values)})
    _check(text)
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
        site = _fill(file, text, restore)
        mode = folder.stat().st_mode & 0o777
    except OSError as error:
        raise SiteError(
            f"{folder}: cannot be set up ({error}). Check the path and disk."
        ) from error
    return NewSite(
        site=site,
        public_key=public_key(site.key_file),
        public_file=public_file(site.key_file),
        open_to_others=f"{mode:o}" if mode & 0o077 else "",
    )


def new_file(folder: Path) -> Path:
    """Return where site.toml would be written.

    Raises:
        SiteError: one is there.
    """
    file = folder.expanduser().resolve() / FILE
    if file.exists():
        raise SiteError(
            f"{file}: a site is there already and stays. Edit it, or name a new folder."
        )
    return file


def _check(text: str) -> None:
    """Refuse values that do not fit, before anything is created."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, FILE)
        file.write_text(text, encoding="utf-8")
        try:
            Site.load(file)
        except SiteError as error:
            raise SiteError(
                str(error).replace(str(file.resolve()), FILE).replace(f"{scratch}/", "")
            ) from None


def _fill(file: Path, text: str, restore: bool) -> Site:
    new = file.with_name(FILE + ".new")
    write_atomically(new, text.encode())
    site = Site.load(new)
    if not site.key_file.exists():
        make_key(site.key_file)
    public_key(site.key_file)
    make_aggregation_key(site)
    if restore:
        restore_ledger(site.ledger_file, site.user_base, site.anchor_file)
    if site.ledger_file.exists():
        site.open_ledger()
    else:
        site.create_ledger()
    move_durably(new, file)
    return site


def _local_port(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the next free port if none is given and the default is in use, as by another node."""
    default = CoordinatorConfig().local_port
    if _PORT in values or (port := find_free_port(default)) == default:
        return {}
    return {_PORT: port}


def _relative_to(folder: Path, path: Value) -> str:
    """Return a path relative to `folder` if it lies below it, else absolute; a URL stays."""
    text = str(path)
    if not text or "://" in text:
        return text
    # Not resolved: a link that is moved on to newer data stays a link.
    place = Path(os.path.normpath(Path(text).expanduser().absolute()))
    return str(place.relative_to(folder) if place.is_relative_to(folder) else place)
