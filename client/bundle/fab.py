"""A Flower app bundle (.fab), read with suspicion and without running or unpacking anything.

| what is in it                                         | what follows                         |
|-------------------------------------------------------|--------------------------------------|
| more than 10 MB, 50 MB unpacked, or 2,000 files       | refused                              |
| bytes that are no zip archive, or a damaged one       | refused                              |
| `../x`, `/x`, `c:x`, `a//b`, a hidden or odd name     | refused: it would land elsewhere     |
| a link, a folder's entry, an encrypted entry          | refused                              |
| two entries of one name, capital letters aside        | refused                              |
| a file that is neither source, text nor configuration | refused: .so, .pyc, .pth, .sh ...    |
| a file that `.info/CONTENT` does not list, or wrongly | refused                              |
| no pyproject.toml with name, version and a ClientApp  | refused                              |
| all else                                              | read                                 |

The fingerprint is SHA-256 over all of its bytes, as `sha256sum` gives it.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shared.errors import BundleError

__all__ = ["LARGEST", "Bundle"]

LARGEST = 10 * 1024 * 1024
"""Bytes of a bundle: Flower takes no more either."""
_LARGEST_UNPACKED = 50 * 1024 * 1024
_MOST_FILES = 2000
_SUFFIXES = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl"}
_BARE = {"LICENSE"}
_CONTENT = ".info/CONTENT"
_PROJECT = "pyproject.toml"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]*")
_COMPONENT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a bundle holds.

    Attributes:
        fingerprint: SHA-256 over its bytes, in hex.
        publisher: of the app.
        name: of the app.
        version: of the app.
        clientapp: `module:attribute` of its ClientApp.
        files: path -> content, without the bundle's own list.
    """

    fingerprint: str
    publisher: str
    name: str
    version: str
    clientapp: str
    files: Mapping[str, bytes]

    @classmethod
    def load(cls, file: Path) -> Bundle:
        """Reads a bundle's file.

        Raises:
            BundleError: it cannot be read, or is refused; see the table above.
        """
        try:
            with file.open("rb") as opened:
                content = opened.read(LARGEST + 1)
        except OSError as error:
            raise BundleError(f"{file}: not readable ({error.strerror}). Check the path.") from None
        return cls.read(content, str(file))

    @classmethod
    def read(cls, content: bytes, place: str = "the bundle") -> Bundle:
        """Reads a bundle's bytes; errors call it by its place.

        Raises:
            BundleError: it is refused; see the table above.
        """
        try:
            files = _files(content)
            _check_list(files)
            project = _project(files)
            _check_component(project["clientapp"], files)
        except _Odd as odd:
            raise BundleError(
                f"{place}: refused: {odd}. Ask the coordinator for the bundle again, over another "
                "channel, and look at why it differs."
            ) from None
        files.pop(_CONTENT)
        return cls(fingerprint=hashlib.sha256(content).hexdigest(), files=files, **project)

    @property
    def app(self) -> str:
        """Publisher and name."""
        return f"{self.publisher}/{self.name}"

    @property
    def folder(self) -> str:
        """What Flower calls the folder of the unpacked app."""
        return f"{self.publisher}.{self.name}.{self.version}.{self.fingerprint[:8]}"

    @property
    def packages(self) -> set[str]:
        """The top-level names that its code is imported by."""
        sources = (path for path in self.files if path.endswith(".py"))
        return {PurePosixPath(path).parts[0].removesuffix(".py") for path in sources}

    def listing(self) -> Iterator[tuple[str, int, str]]:
        """Path, bytes and SHA-256 of each file, by path."""
        for path, content in sorted(self.files.items()):
            yield path, len(content), hashlib.sha256(content).hexdigest()

    def differences(self, other: Bundle) -> Iterator[tuple[str, str]]:
        """What another bundle changes: (added, removed or changed; path), by path."""
        for path in sorted({*self.files, *other.files}):
            if path not in self.files:
                yield "added", path
            elif path not in other.files:
                yield "removed", path
            elif self.files[path] != other.files[path]:
                yield "changed", path


class _Odd(Exception):
    """Why a bundle is refused, as a clause without a full stop."""


def _files(content: bytes) -> dict[str, bytes]:
    if len(content) > LARGEST:
        raise _Odd(f"it has more than {LARGEST:,} bytes")
    found: dict[str, bytes] = {}
    seen: set[str] = set()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_FILES:
                raise _Odd(f"it has more than {_MOST_FILES:,} files")
            if sum(entry.file_size for entry in entries) > _LARGEST_UNPACKED:
                raise _Odd(f"it has more than {_LARGEST_UNPACKED:,} bytes when unpacked")
            for entry in entries:
                _check_entry(entry)
                if entry.filename.lower() in seen:
                    raise _Odd(f"it has two files called {entry.filename!r}")
                seen.add(entry.filename.lower())
                found[entry.filename] = archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError):
        raise _Odd("it is no whole zip archive") from None
    return found


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    if entry.flag_bits & _ENCRYPTED:
        raise _Odd(f"{name!r} is encrypted")
    if kind not in (0, stat.S_IFREG):
        raise _Odd(f"{name!r} is no plain file")
    if name == _CONTENT:
        return
    # What zipfile did with the name is judged as well as the name that is stored.
    parts = name.split("/")
    if entry.orig_filename != name or not all(_PART.fullmatch(part) for part in parts):
        raise _Odd(f"{entry.orig_filename!r} is no name of a file in an app")
    if PurePosixPath(name).suffix not in _SUFFIXES and name not in _BARE:
        raise _Odd(f"{name!r} is not of a kind that belongs into an app")


def _check_list(files: Mapping[str, bytes]) -> None:
    """Each line of the bundle's own list: path, SHA-256, bits."""
    if _CONTENT not in files:
        raise _Odd(f"it has no {_CONTENT}")
    lines = files[_CONTENT].decode("utf-8", "replace").splitlines()
    listed = [tuple(line.split(",")) for line in lines]
    there = [
        (path, hashlib.sha256(content).hexdigest(), str(8 * len(content)))
        for path, content in files.items()
        if path != _CONTENT
    ]
    if sorted(listed) != sorted(there):
        odd = sorted({fields[0] for fields in set(listed) ^ set(there)})
        raise _Odd(f"its own list does not fit what it holds ({odd[0]!r}, of {len(odd)})")


def _project(files: Mapping[str, bytes]) -> dict[str, str]:
    try:
        tables = tomllib.loads(files[_PROJECT].decode())
        project, flower = tables["project"], tables["tool"]["flwr"]["app"]
        found = {
            "publisher": flower["publisher"],
            "name": project["name"],
            "version": project["version"],
            "clientapp": flower["components"]["clientapp"],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _Odd(f"its {_PROJECT} is missing, or names no app ({error})") from None
    forms = {"version": _VERSION, "clientapp": _COMPONENT}
    for key, value in found.items():
        if not isinstance(value, str) or not forms.get(key, _WORD).fullmatch(value):
            raise _Odd(f"its {key} is {value!r}")
    return found


def _check_component(clientapp: str, files: Mapping[str, bytes]) -> None:
    module = clientapp.partition(":")[0].replace(".", "/")
    if not {f"{module}.py", f"{module}/__init__.py"} & set(files):
        raise _Odd(f"its ClientApp {clientapp!r} is not in it")
