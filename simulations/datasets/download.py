"""Download a data set that may not be shipped, verify it, and unpack it."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from shared.errors import FetchError

__all__ = ["SOURCES", "Source", "fetch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a data set is published, and the checksum that verifies a download.

    Attributes:
        url: a zip archive.
        algorithm: `hashlib`'s name of the checksum that the publisher gives.
        digest: that checksum, in hex.
        members: the only files of the archive that are unpacked.
    """

    url: str
    algorithm: str
    digest: str
    members: tuple[str, ...]


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "ml-1m": Source(
            url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            algorithm="md5",
            digest="c4d9eecfca2ab87c1945afe126590906",
            members=("ml-1m/README", "ml-1m/movies.dat", "ml-1m/ratings.dat", "ml-1m/users.dat"),
        )
    }
)


def fetch(
    name: str,
    destination: Path | str,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Download a data set that may not be shipped, verify it, and unpack it.

    Args:
        name: a key of `SOURCES`.
        destination: the folder in which the folder `name` is created, complete or not at all.
        url: a mirror; its archive must have the same checksum.
        sha256: the checksum to require instead of the published one, in hex.
        progress: called with the bytes so far and the bytes in all, None if unknown.

    Returns:
        The new folder, which `load` reads.

    Raises:
        FetchError: the name is unknown, the folder is already there, the download failed, or the
            archive is not the one expected.
    """
    if name not in SOURCES:
        raise FetchError(f"no data set is called {name!r}. Known are: {', '.join(SOURCES)}.")
    source, folder = SOURCES[name], Path(destination) / name
    if folder.exists():
        raise FetchError(f"{folder} is already there. Use it, or remove it first.")
    algorithm, digest = ("sha256", sha256.lower()) if sha256 else (source.algorithm, source.digest)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
            archive, unpacked = Path(scratch) / "archive.zip", Path(scratch) / name
            received = _download(url or source.url, archive, algorithm, progress)
            if received != digest:
                raise FetchError(
                    f"{url or source.url} has the {algorithm} {received}, not {digest}. "
                    "Try again, or another mirror."
                )
            _unpack(archive, unpacked, source.members)
            unpacked.rename(folder)
    except OSError as fault:
        raise FetchError(f"{folder} could not be written: {fault}. Check the folder.") from fault
    return folder


def _download(
    url: str, target: Path, algorithm: str, progress: Callable[[int, int | None], None] | None
) -> str:
    """Stream `url` into `target` and return the checksum of the received bytes."""
    if not url.startswith(("https://", "http://")):
        raise FetchError(f"{url!r} is not a web address. Give one that starts with https://.")
    digest, received = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        with urllib.request.urlopen(url, timeout=30) as reply, target.open("wb") as file:  # noqa: S310 - checked above
            length = reply.headers.get("Content-Length")
            while block := reply.read(1 << 18):
                digest.update(block)
                file.write(block)
                received += len(block)
                if progress is not None:
                    progress(received, int(length) if length else None)
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise FetchError(
            f"{url} could not be downloaded: {fault}. Check the network, or give a mirror as url."
        ) from fault
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path, members: Sequence[str]) -> None:
    """Write `members` of `archive` into `folder` under their last names, and nothing else."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as package:
            for member in members:
                target = folder / PurePosixPath(member).name
                with package.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)
    except KeyError as fault:
        raise FetchError(
            f"the archive lacks a file: {fault.args[0]}. Try another mirror."
        ) from fault
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as fault:
        raise FetchError(f"the archive is damaged: {fault}. Try another mirror.") from fault
