"""Makes a new site: its folder, key pair, ledger, anchor and site.toml.

In this order, so that a folder with a site.toml is whole. What is there already is never written
over: a key stays and is used; so is a ledger of the same users. A crash or a mistake in between
leaves nothing that a second attempt trips over.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.site.keys import make_key, public_file, public_key
from client.site.site import FILE, Site
from client.site.template import site_toml
from shared.errors import SiteError
from shared.sections import Value
from shared.system.files import move_durably, write_atomically

__all__ = ["PATHS", "NewSite", "make_site", "new_file"]

PATHS = ("data.source", "data.credentials", "catalogue", "coordinator.root_certificates", "anchor")
"""Keys that hold a path, which a command line means from where it is typed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSite:
    """What was made.

    Attributes:
        site: the site, as it stands on disk.
        public_key: for the coordinator, as one line.
        public_file: the file that holds it.
        open_to_others: the folder's permissions where it was there before and others may enter.
    """

    site: Site
    public_key: str
    public_file: Path
    open_to_others: str = ""


def make_site(folder: Path, values: Mapping[str, Value]) -> NewSite:
    """Sets up a site in `folder`, which is made if need be.

    Args:
        folder: where it shall lie; a new one is its owner's alone.
        values: of site.toml, by `section.key`; paths are from the current folder.

    Raises:
        SiteError: a value does not make sense; then nothing was made. Or a site is there already.
        LedgerError: these users have a ledger elsewhere.
    """
    file = new_file(folder)
    folder = file.parent
    seen = {key: _seen_from(folder, values[key]) for key in PATHS if key in values}
    text = site_toml({**values, **seen})
    _check(text)
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
        site = _fill(file, text)
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
    """Where site.toml would be written.

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
    """Refuses what no site.toml may say, before anything is made."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, FILE)
        file.write_text(text, encoding="utf-8")
        try:
            Site.load(file)
        except SiteError as error:
            raise SiteError(
                str(error).replace(str(file.resolve()), FILE).replace(f"{scratch}/", "")
            ) from None


def _fill(file: Path, text: str) -> Site:
    new = file.with_name(FILE + ".new")
    write_atomically(new, text.encode())
    site = Site.load(new)
    if not site.key_file.exists():
        make_key(site.key_file)
    public_key(site.key_file)
    if site.ledger_file.exists():
        site.open_ledger()
    else:
        site.create_ledger()
    move_durably(new, file)
    return site


def _seen_from(folder: Path, path: Value) -> str:
    """The same place, from `folder` if it lies below it, else absolute; a URL stays."""
    text = str(path)
    if not text or "://" in text:
        return text
    # Not resolved: a link that is moved on to newer data stays a link.
    place = Path(os.path.normpath(Path(text).expanduser().absolute()))
    return str(place.relative_to(folder) if place.is_relative_to(folder) else place)
