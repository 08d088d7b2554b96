"""Build the app bundle: the code that partners vet, and that runs at each of them.

Flower's own builder packs pyproject.toml and the files that its `fab-include` names: the same
source gives the same bytes. The fingerprint is SHA-256 over all bytes, as `sha256sum` prints it and
as `sotto-node trust` shows it to a partner.
"""

from __future__ import annotations

import hashlib
import io
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from server.settings import Settings
from shared.errors import ServerError

__all__ = ["BuiltBundle", "build_bundle", "source_folder"]

_PROJECT = "pyproject.toml"
_LIST = ".info/CONTENT"


@dataclass(frozen=True, slots=True)
class BuiltBundle:
    """An app bundle that was built here.

    Attributes:
        content: its bytes.
    """

    content: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def file_name(self) -> str:
        """File name for it."""
        return f"sotto-{self.fingerprint[:12]}.fab"

    @property
    def files(self) -> list[str]:
        """Paths of the files in it, without the bundle's own list."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as opened:
            return sorted(set(opened.namelist()) - {_LIST})

    def unpack(self, folder: Path) -> Path:
        """Write its files into a new folder, from which Flower builds the same bundle again."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as opened:
            for name in self.files:
                opened.extract(name, folder)
        return folder


def source_folder(settings: Settings) -> Path:
    """Return the folder of Sotto's source.

    Raises:
        ServerError: it holds no pyproject.toml.
    """
    folder = settings.path(settings.app) if settings.app else Path(__file__).parents[2]
    if not (folder / _PROJECT).is_file():
        raise ServerError(
            f"{folder} holds no {_PROJECT}: the app bundle is built from Sotto's source. Name the "
            "folder of a clone as `app` in server.toml."
        )
    return folder


def build_bundle(folder: Path) -> BuiltBundle:
    """Build the bundle of the app in `folder`.

    Raises:
        ServerError: a file is missing, or Flower refuses to bundle the folder.
    """
    # It takes a second to load.
    from server.flower_internals import build_fab_from_files  # noqa: PLC0415

    try:
        project = (folder / _PROJECT).read_bytes()
        app = tomllib.loads(project.decode("utf-8"))["tool"]["flwr"]["app"]
        files: dict[str, bytes | Path] = {_PROJECT: project}
        for pattern in app["fab-include"]:
            files |= {file.relative_to(folder).as_posix(): file for file in folder.glob(pattern)}
        return BuiltBundle(build_fab_from_files(files)[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"{folder}: no bundle can be built ({error}): `app` in server.toml must name an "
            "unchanged clone of Sotto."
        ) from error
