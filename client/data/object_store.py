"""Tables in an object store that speaks S3, read through Arrow's file system.

`s3://bucket/key` is one object. A prefix means every .csv, .csv.gz and .parquet object below it,
except where a part of the name begins with `_` or `.`. `*`, `?` and `[...]` match within one part
of the path.

The objects are copied one after the other to a private temporary folder (`TMPDIR`) and read there
like any file. Memory use is bounded, and disk use is that of the largest object.

Without a credentials file, Arrow uses the sources of Amazon's own tools: environment variables such
as AWS_ACCESS_KEY_ID, ~/.aws, and the machine's role.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Generator, Hashable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs

from client.data.credentials import read_credentials, redact
from shared.data.tables import SUFFIXES, FileTable, Table, refuse_table_formats
from shared.errors import SiteError

__all__ = ["ObjectStore"]

_VARIABLES = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}
_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 5, 60, 2


class ObjectStore:
    """Objects below a prefix, or that match a pattern.

    Args:
        url: `s3://bucket/...`.
        endpoint: `https://host:port`; "" uses AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or Amazon's.
        credentials: a file, see `client.data.credentials`; None uses the sources of Amazon's tools.

    Raises:
        SiteError: the URL names no bucket, or the credentials are invalid.
    """

    def __init__(self, url: str, *, endpoint: str = "", credentials: Path | None = None) -> None:
        self.name, self._path = url, url.removeprefix("s3://").strip("/")
        variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        self._endpoint = endpoint or next(filter(None, map(os.environ.get, variables)), "")
        if not self._path or glob.has_magic(self._path.partition("/")[0]):
            raise SiteError(f"data.source = '{url}': name a bucket, as in s3://bucket/prefix.")
        self._keys = read_credentials(credentials, _VARIABLES)
        if credentials and not {"access_key_id", "secret_access_key"} <= set(self._keys):
            needed = "access_key_id and secret_access_key"
            raise SiteError(f"data.credentials = '{credentials}': it must hold {needed}.")

    def version(self) -> Hashable:
        """Return path, modification time and size of each object."""
        with self._failures():
            return tuple((info.path, info.mtime_ns, info.size) for info in self._list_objects())

    def tables(self) -> Generator[Table]:
        """Yield the objects in order of name."""
        with self._failures():
            objects = self._list_objects()
        with tempfile.TemporaryDirectory(prefix="sotto-") as folder:
            for info in objects:
                copy = Path(folder, info.base_name)
                with self._failures():
                    fs.copy_files(
                        info.path, str(copy), self._store, fs.LocalFileSystem(), use_threads=False
                    )
                yield FileTable(copy, f"s3://{info.path}")
                copy.unlink()

    def _list_objects(self) -> list[fs.FileInfo]:
        parts = self._path.split("/")
        fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        base = self._store.get_file_info("/".join(parts[:fixed]))
        if base.type is fs.FileType.File and fixed == len(parts):
            return [base]
        below = fs.FileSelector(base.path, recursive=True, allow_not_found=True)
        present = self._store.get_file_info(below)
        refuse_table_formats((info.path.removeprefix(base.path) for info in present), self.name)
        tables = [
            info
            for info in present
            if info.type is fs.FileType.File and _matches(info.path.split("/"), parts, fixed)
        ]
        if not tables:
            raise SiteError(
                f"data.source = '{self.name}': no {', '.join(SUFFIXES)} object is there. "
                "Check the bucket and the prefix."
            )
        return sorted(tables, key=lambda info: info.path)

    @cached_property
    def _store(self) -> fs.S3FileSystem:
        endpoint = urlsplit(self._endpoint if "://" in self._endpoint else f"//{self._endpoint}")
        return fs.S3FileSystem(
            access_key=self._keys.get("access_key_id"),
            secret_key=self._keys.get("secret_access_key"),
            session_token=self._keys.get("session_token"),
            endpoint_override=endpoint.netloc or None,
            scheme=endpoint.scheme or None,
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            where = f" at endpoint {self._endpoint}" if self._endpoint else ""
            raise SiteError(
                f"data.source = '{self.name}'{where}: it cannot be read "
                f"({redact(str(error), self._keys.values())}). Check the bucket, data.endpoint, "
                "AWS_REGION, the network, and that the credentials may list and read it."
            ) from None


def _matches(path: list[str], pattern: list[str], fixed: int) -> bool:
    """Return whether an object matches the pattern, or is a table below the prefix.

    Args:
        path: parts of the object's path.
        pattern: parts of the pattern or prefix.
        fixed: number of leading parts without a wildcard.
    """
    if fixed < len(pattern):
        return len(path) == len(pattern) and all(map(fnmatchcase, path, pattern))
    hidden = any(part.startswith(("_", ".")) for part in path[fixed:])
    return not hidden and path[-1].lower().endswith(SUFFIXES)
