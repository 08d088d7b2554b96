"""The app bundle: the code that partners vet, and that runs at every one of them.

Built by Flower's own builder from the files that `fab-include` of pyproject.toml names, and from
pyproject.toml itself: the same source gives the same bytes. The fingerprint is SHA-256 over all of
them, as `sha256sum` gives it, and as `sotto-node trust` shows it to a partner.
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

__all__ = ["Bundle", "build", "source"]

_PROJECT = "pyproject.toml"
_LIST = ".info/CONTENT"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A built bundle.

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
        """What to call it."""
        return f"sotto-{self.fingerprint[:12]}.fab"

    @property
    def files(self) -> list[str]:
        """The paths in it."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as opened:
            return sorted(set(opened.namelist()) - {_LIST})

    def unpack(self, folder: Path) -> Path:
        """Writes its files into a new folder, from which Flower builds the same bundle again."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as opened:
            for name in self.files:
                opened.extract(name, folder)
        return folder


def source(settings: Settings) -> Path:
    """The folder of Sotto's source.

    Raises:
        ServerError: there is none where it should be.
    """
    folder = settings.path(settings.app) if settings.app else Path(__file__).parents[2]
    if not (folder / _PROJECT).is_file():
        raise ServerError(
            f"{folder} holds no {_PROJECT}: the app bundle is built from Sotto's source. Name the "
            "folder of a clone as `app` in server.toml."
        )
    return folder


def build(folder: Path) -> Bundle:
    """Builds the bundle of the app in `folder`.

    Raises:
        ServerError: a file is missing, or Flower declines to bundle what is there.
    """
    from flwr.cli.build import build_fab_from_files  # noqa: PLC0415 takes a second to import

    try:
        project = (folder / _PROJECT).read_bytes()
        app = tomllib.loads(project.decode("utf-8"))["tool"]["flwr"]["app"]
        files: dict[str, bytes | Path] = {_PROJECT: project}
        for pattern in app["fab-include"]:
            files |= {file.relative_to(folder).as_posix(): file for file in folder.glob(pattern)}
        return Bundle(build_fab_from_files(files)[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"{folder}: no bundle can be built ({error}): `app` in server.toml must name an "
            "unchanged clone of Sotto."
        ) from error
