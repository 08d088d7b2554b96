"""The one app bundle that this node runs: installed read-only, and checked at every use.

Three records must agree: the fingerprint that the ledger holds, the stored bundle (`trusted.fab`,
whose bytes have this fingerprint), and the unpacked app (which has exactly the bundle's files).
File permissions alone would not stop root, so the contents are compared.

| killed while a bundle is being trusted | state                    | what happens                |
|----------------------------------------|--------------------------|-----------------------------|
| before the ledger records it           | the old bundle           | the old bundle runs         |
| after that                             | the ledger names another | nothing runs until a bundle |
|                                        |   bundle                 |   is trusted again          |
| after the bundle is installed          | all three agree          | the new bundle runs         |
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

__all__ = ["TrustedApp", "install", "read_trusted", "verify_trusted"]

STORED = "trusted.fab"
APPS = "apps"
_READ, _ENTER = 0o444, 0o555
_REMEDY = "Trust the bundle again: sotto-node trust FILE.fab"


@dataclass(frozen=True, slots=True)
class TrustedApp:
    """A trusted bundle and its unpacked app.

    Attributes:
        bundle: the bundle's content.
        folder: folder of the unpacked app.
    """

    bundle: Bundle
    folder: Path

    def check(self) -> None:
        """Compare the unpacked app with the bundle.

        Raises:
            BundleError: a file differs, is missing, or is not in the bundle.
        """
        actual, files = dict(_contents(self.folder)), self.bundle.files
        wrong = actual.keys() ^ files.keys()
        wrong |= {path for path, content in files.items() if actual.get(path) != content}
        if wrong:
            raise BundleError(
                f"{self.folder}: not as in the bundle that was trusted ({min(wrong)!r}, of "
                f"{len(wrong)}). {_REMEDY}"
            )

    @property
    def changeable(self) -> bool:
        """Whether the permissions let anybody but root write to it."""
        paths = (self.folder, *self.folder.rglob("*"))
        return any(stat.S_IMODE(path.stat().st_mode) & 0o222 for path in paths)


def read_trusted(flower: Path) -> TrustedApp | None:
    """Return the stored bundle, without checking the unpacked app; None if there is none.

    Args:
        flower: folder of Flower's files on this node.

    Raises:
        BundleError: the stored bundle is damaged.
    """
    stored = flower / STORED
    if not stored.exists():
        return None
    bundle = Bundle.load(stored)
    return TrustedApp(bundle, flower / APPS / bundle.folder)


def verify_trusted(site: Site, sent: str | None = None) -> TrustedApp:
    """Return the trusted app after checking ledger, stored bundle and unpacked app.

    Args:
        site: the node's site.
        sent: fingerprint of the bundle that the coordinator sent; None if it sent none.

    Raises:
        BundleError: there is no trusted bundle, the records differ, or it is not the one sent.
        LedgerError: the ledger does not open.
    """
    app, recorded = read_trusted(site.flower_home), site.open_ledger().trusted_fingerprint()
    if app is None:
        raise BundleError("no app bundle is trusted yet: sotto-node trust FILE.fab")
    if app.bundle.fingerprint != recorded:
        raise BundleError(
            f"{site.flower_home / STORED} has the fingerprint {app.bundle.fingerprint[:16]}..., "
            f"the ledger says {f'{recorded[:16]}...' if recorded else 'none is trusted'}. {_REMEDY}"
        )
    if sent not in (None, recorded):
        raise BundleError(f"the coordinator sent {sent}, and {recorded} is trusted")
    app.check()
    return app


def install(flower: Path, content: bytes) -> TrustedApp:
    """Unpack a bundle read-only, and replace the previous one.

    Args:
        flower: folder of Flower's files on this node; created if missing.
        content: the bundle's bytes.

    Raises:
        BundleError: the bundle is refused, or cannot be written.
    """
    app = TrustedApp(bundle := Bundle.parse(content), flower / APPS / bundle.folder)
    try:
        (flower / APPS).mkdir(mode=0o755, parents=True, exist_ok=True)
        (flower / APPS).chmod(0o755)
        _unpack(app)
        write_atomically(flower / STORED, content, mode=_READ)
        for other in (flower / APPS).iterdir():
            if other != app.folder:
                _remove(other)
        (flower / APPS).chmod(_ENTER)
    except OSError as error:
        raise BundleError(
            f"{error.filename or flower}: cannot be written ({error.strerror}). Check the disk, "
            "and who owns the folder."
        ) from error
    app.check()
    return app


def _contents(folder: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield each path below a folder, except folders, with its bytes; None if no plain file."""
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode):
            name = path.relative_to(folder).as_posix()
            yield name, path.read_bytes() if stat.S_ISREG(mode) else None


def _unpack(app: TrustedApp) -> None:
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=app.folder.parent))
    for name, content in app.bundle.files.items():
        file = new / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(_READ)
    for path in (new, *new.rglob("*")):
        if path.is_dir():
            path.chmod(_ENTER)
    _remove(app.folder)
    move_durably(new, app.folder)


def _remove(folder: Path) -> None:
    """Remove an unpacked app, or the rest of one."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
        return
    if folder.exists():
        for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            path.chmod(0o700)  # so that its entries can be deleted
        shutil.rmtree(folder)
