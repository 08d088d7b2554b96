"""A Flower app bundle (.fab), parsed and checked without running or unpacking anything.

| what is in it                                         | what happens                         |
|-------------------------------------------------------|--------------------------------------|
| more than 10 MB, 50 MB unpacked, or 2,000 files       | refused                              |
| bytes that are no zip archive, or a damaged one       | refused                              |
| `../x`, `/x`, `c:x`, `a//b`, a hidden or unusual name | refused: it may be written elsewhere |
| a link, a folder's entry, an encrypted entry          | refused                              |
| two entries with the same name in lower case          | refused                              |
| a file that is neither source, text nor configuration | refused: .so, .pyc, .pth, .sh ...    |
| a file that `.info/CONTENT` omits, or lists otherwise | refused                              |
| no pyproject.toml with name, version and a ClientApp  | refused                              |
| anything else                                         | accepted                             |

The fingerprint is the SHA-256 of the whole file, as `sha256sum` prints it.
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
"""Largest size of a bundle in bytes; Flower's own limit is the same."""
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
    """The content of a bundle.

    Attributes:
        fingerprint: SHA-256 of its bytes, in hex.
        publisher: the app's publisher.
        name: the app's name.
        version: the app's version.
        clientapp: `module:attribute` of its ClientApp.
        files: path -> content, without the bundle's own list of files.
    """

    fingerprint: str
    publisher: str
    name: str
    version: str
    clientapp: str
    files: Mapping[str, bytes]

    @classmethod
    def load(cls, file: Path) -> Bundle:
        """Read and parse a bundle's file.

        Raises:
            BundleError: it cannot be read, or is refused; see the table above.
        """
        try:
            with file.open("rb") as opened:
                content = opened.read(LARGEST + 1)
        except OSError as error:
            raise BundleError(f"{file}: not readable ({error.strerror}). Check the path.") from None
        return cls.parse(content, str(file))

    @classmethod
    def parse(cls, content: bytes, source: str = "the bundle") -> Bundle:
        """Parse and check a bundle.

        Args:
            content: its bytes.
            source: name of the bundle in errors.

        Raises:
            BundleError: it is refused; see the table above.
        """
        try:
            files = _files(content)
            _check_list(files)
            project = _project(files)
            _check_component(project["clientapp"], files)
        except _Invalid as reason:
            raise BundleError(
                f"{source}: refused: {reason}. Ask the coordinator for the bundle again, over "
                "another channel, and find out why this one differs."
            ) from None
        files.pop(_CONTENT)
        return cls(fingerprint=hashlib.sha256(content).hexdigest(), files=files, **project)

    @property
    def app(self) -> str:
        """The app's publisher and name."""
        return f"{self.publisher}/{self.name}"

    @property
    def folder(self) -> str:
        """Name that Flower gives the folder of the unpacked app."""
        return f"{self.publisher}.{self.name}.{self.version}.{self.fingerprint[:8]}"

    @property
    def packages(self) -> set[str]:
        """Top-level names by which its code is imported."""
        sources = (path for path in self.files if path.endswith(".py"))
        return {PurePosixPath(path).parts[0].removesuffix(".py") for path in sources}

    def listing(self) -> Iterator[tuple[str, int, str]]:
        """Yield path, size in bytes and SHA-256 of each file, sorted by path."""
        for path, content in sorted(self.files.items()):
            yield path, len(content), hashlib.sha256(content).hexdigest()

    def differences(self, other: Bundle) -> Iterator[tuple[str, str]]:
        """Yield ("added", "removed" or "changed"; path) for each file that `other` changes."""
        for path in sorted({*self.files, *other.files}):
            if path not in self.files:
                yield "added", path
            elif path not in other.files:
                yield "removed", path
            elif self.files[path] != other.files[path]:
                yield "changed", path


class _Invalid(Exception):
    """The reason why a bundle is refused, as a clause without a full stop."""


def _files(content: bytes) -> dict[str, bytes]:
    if len(content) > LARGEST:
        raise _Invalid(f"it has more than {LARGEST:,} bytes")
    files: dict[str, bytes] = {}
    seen: set[str] = set()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_FILES:
                raise _Invalid(f"it has more than {_MOST_FILES:,} files")
            if sum(entry.file_size for entry in entries) > _LARGEST_UNPACKED:
                raise _Invalid(f"it has more than {_LARGEST_UNPACKED:,} bytes when unpacked")
            for entry in entries:
                _check_entry(entry)
                if entry.filename.lower() in seen:
                    raise _Invalid(f"it has two files called {entry.filename!r}")
                seen.add(entry.filename.lower())
                files[entry.filename] = archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError):
        raise _Invalid("it is no whole zip archive") from None
    return files


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    if entry.flag_bits & _ENCRYPTED:
        raise _Invalid(f"{name!r} is encrypted")
    if kind not in (0, stat.S_IFREG):
        raise _Invalid(f"{name!r} is no plain file")
    if name == _CONTENT:
        return
    # zipfile may change the stored name, so both names are checked.
    parts = name.split("/")
    if entry.orig_filename != name or not all(_PART.fullmatch(part) for part in parts):
        raise _Invalid(f"{entry.orig_filename!r} is no name of a file in an app")
    if PurePosixPath(name).suffix not in _SUFFIXES and name not in _BARE:
        raise _Invalid(f"{name!r} is not of a kind that belongs into an app")


def _check_list(files: Mapping[str, bytes]) -> None:
    """Compare the files with the bundle's own list, whose lines are "path,SHA-256,bits"."""
    if _CONTENT not in files:
        raise _Invalid(f"it has no {_CONTENT}")
    lines = files[_CONTENT].decode("utf-8", "replace").splitlines()
    listed = [tuple(line.split(",")) for line in lines]
    actual = [
        (path, hashlib.sha256(content).hexdigest(), str(8 * len(content)))
        for path, content in files.items()
        if path != _CONTENT
    ]
    if sorted(listed) != sorted(actual):
        wrong = sorted({fields[0] for fields in set(listed) ^ set(actual)})
        raise _Invalid(f"its own list does not fit what it holds ({wrong[0]!r}, of {len(wrong)})")


def _project(files: Mapping[str, bytes]) -> dict[str, str]:
    try:
        tables = tomllib.loads(files[_PROJECT].decode())
        project, flower = tables["project"], tables["tool"]["flwr"]["app"]
        names = {
            "publisher": flower["publisher"],
            "name": project["name"],
            "version": project["version"],
            "clientapp": flower["components"]["clientapp"],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _Invalid(f"its {_PROJECT} is missing, or names no app ({error})") from None
    forms = {"version": _VERSION, "clientapp": _COMPONENT}
    for key, value in names.items():
        if not isinstance(value, str) or not forms.get(key, _WORD).fullmatch(value):
            raise _Invalid(f"its {key} is {value!r}")
    return names


def _check_component(clientapp: str, files: Mapping[str, bytes]) -> None:
    module = clientapp.partition(":")[0].replace(".", "/")
    if not {f"{module}.py", f"{module}/__init__.py"} & set(files):
        raise _Invalid(f"its ClientApp {clientapp!r} is not in it")
