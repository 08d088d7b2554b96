"""The one app bundle that this node runs: installed read-only, and checked whenever it is used.

Three things name it, and all must agree: the ledger's last word on it, the kept bundle
(`trusted.fab`, whose bytes have that fingerprint) and the unpacked app (every file of which is as
in the bundle, and no other is there). File permissions alone would not hold for root, so what is
read is compared instead.

| killed, while a bundle is trusted | what is found then           | what happens             |
|-----------------------------------|------------------------------|--------------------------|
| before the ledger has it          | the old bundle               | it never was             |
| after that                        | the ledger names another one | nothing runs until it is |
|                                   |                              |   trusted again          |
| after the bundle is in its place  | all agree                    | it is trusted            |
"""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.bundle.fab import Bundle
from client.site.site import Site
from shared.errors import BundleError
from shared.system.files import move_durably, write_atomically

__all__ = ["Trusted", "install", "trusted", "vetted"]

KEPT = "trusted.fab"
APPS = "apps"
_READ, _ENTER = 0o444, 0o555
_AGAIN = "Trust the bundle again: sotto-node trust FILE.fab"


@dataclass(frozen=True, slots=True)
class Trusted:
    """A bundle that this node runs.

    Attributes:
        bundle: what it holds.
        folder: where it is unpacked.
    """

    bundle: Bundle
    folder: Path

    def check(self) -> None:
        """Compares what is unpacked with the bundle.

        Raises:
            BundleError: a file differs, is missing, or does not belong there.
        """
        there, files = dict(_content(self.folder)), self.bundle.files
        odd = there.keys() ^ files.keys()
        odd |= {path for path, content in files.items() if there.get(path) != content}
        if odd:
            raise BundleError(
                f"{self.folder}: not as in the bundle that was trusted ({min(odd)!r}, of "
                f"{len(odd)}). {_AGAIN}"
            )

    @property
    def changeable(self) -> bool:
        """Whether the permissions let anybody but root write to it."""
        places = (self.folder, *self.folder.rglob("*"))
        return any(stat.S_IMODE(place.stat().st_mode) & 0o222 for place in places)


def trusted(flower: Path) -> Trusted | None:
    """The bundle that is trusted; None if none ever was. What is unpacked is not looked at.

    Args:
        flower: the folder of what Flower keeps on this node.

    Raises:
        BundleError: the kept bundle is damaged.
    """
    kept = flower / KEPT
    if not kept.exists():
        return None
    bundle = Bundle.load(kept)
    return Trusted(bundle, flower / APPS / bundle.folder)


def vetted(site: Site, sent: str | None = None) -> Trusted:
    """The bundle that the site trusts, with all that names it in agreement.

    Args:
        site: whose node it is.
        sent: fingerprint of the bundle that the coordinator sent; None where it did not.

    Raises:
        BundleError: there is none, something differs, or it is not the one that was sent.
        LedgerError: the ledger does not open.
    """
    found, word = trusted(site.flower_home), site.open_ledger().trusted_fingerprint()
    if found is None:
        raise BundleError("no app bundle is trusted yet: sotto-node trust FILE.fab")
    if found.bundle.fingerprint != word:
        raise BundleError(
            f"{site.flower_home / KEPT} has the fingerprint {found.bundle.fingerprint[:16]}..., "
            f"the ledger says {f'{word[:16]}...' if word else 'nothing of it'}. {_AGAIN}"
        )
    if sent not in (None, word):
        raise BundleError(f"the coordinator sent {sent}, and {word} is trusted")
    found.check()
    return found


def install(flower: Path, content: bytes) -> Trusted:
    """Unpacks a bundle, read-only, and puts it in place of the one that was trusted before.

    Args:
        flower: the folder of what Flower keeps on this node; made if need be.
        content: the bundle's bytes.

    Raises:
        BundleError: the bundle is refused, or cannot be written.
    """
    found = Trusted(bundle := Bundle.read(content), flower / APPS / bundle.folder)
    try:
        (flower / APPS).mkdir(mode=0o755, parents=True, exist_ok=True)
        (flower / APPS).chmod(0o755)
        _unpack(found)
        write_atomically(flower / KEPT, content, mode=_READ)
        for other in (flower / APPS).iterdir():
            if other != found.folder:
                _remove(other)
        (flower / APPS).chmod(_ENTER)
    except OSError as error:
        raise BundleError(
            f"{error.filename or flower}: cannot be written ({error.strerror}). Check the disk, "
            "and who owns the folder."
        ) from error
    found.check()
    return found


def _content(folder: Path) -> Iterator[tuple[str, bytes | None]]:
    """Each path below a folder that is no folder itself, with its bytes; None: no plain file."""
    for place in sorted(folder.rglob("*")):
        kind = place.lstat().st_mode
        if not stat.S_ISDIR(kind):
            name = place.relative_to(folder).as_posix()
            yield name, place.read_bytes() if stat.S_ISREG(kind) else None


def _unpack(found: Trusted) -> None:
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=found.folder.parent))
    for path, content in found.bundle.files.items():
        file = new / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(_READ)
    for place in (new, *new.rglob("*")):
        if place.is_dir():
            place.chmod(_ENTER)
    _remove(found.folder)
    move_durably(new, found.folder)


def _remove(folder: Path) -> None:
    """Takes an app away, or what is left of one."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
        return
    if folder.exists():
        for place in (folder, *(place for place in folder.rglob("*") if place.is_dir())):
            place.chmod(0o700)  # before it is entered: `rglob` goes on from here
        shutil.rmtree(folder)
