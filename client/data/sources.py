"""A partner's interactions where they live: the [data] table of site.toml -> histories.

| `source`                             | what is read                                           |
|--------------------------------------|--------------------------------------------------------|
| `events.parquet`, `/data/events.csv` | that file                                              |
| `part-*.csv`, `**/*.parquet`         | all files that match, by name                          |
| `s3://bucket/prefix` | the object, or all tables below, see `client.data.object_store` |
| `postgresql://host/database`         | a query or a table, see `client.data.databases` |
| `sqlite:///file.db`                  | the same                                               |

Whatever the source, the rows go through one validation, `shared.data.reading`. Paths are relative
to site.toml.
"""

from __future__ import annotations

import glob
from collections.abc import Generator, Hashable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from client.data.credentials import refuse_secrets
from client.data.databases import Database
from client.data.object_store import ObjectStore
from shared.data.catalogue import Catalogue
from shared.data.histories import Histories
from shared.data.reading import Columns, histories_from_tables
from shared.data.tables import FileTable, Table
from shared.errors import ConfigError, SiteError
from shared.sections import Require, section

__all__ = ["DataConfig", "Files", "Source", "open_source", "read_source"]


@section("data")
class DataConfig:
    """The [data] table.

    Attributes:
        source: path, pattern or URL, see the table on top of this module.
        query: of a database: a SELECT that gives the rows.
        table: of a database, in place of `query`: `name` or `schema.name`.
        user: column of the user's id.
        item: column of the item's id.
        time: column of the time; "" takes `timestamp` or `position`.
        credentials: file with the secrets that the source asks for; "" looks at the environment.
        endpoint: of an object store other than Amazon's: `https://host:port`.

    Raises:
        ConfigError: the keys do not fit together, or one holds a secret.
    """

    source: Annotated[str, Require(str.strip, "name a file, a pattern or a URL")]
    query: str = ""
    table: str = ""
    user: str = "user_id"
    item: str = "item_id"
    time: str = ""
    credentials: str = ""
    endpoint: str = ""

    def __post_init__(self) -> None:
        refuse_secrets({"source": self.source, "endpoint": self.endpoint}, "data.")
        scheme, is_url, _ = self.source.partition("://")
        database, store = bool(is_url) and scheme != "s3", bool(is_url) and scheme == "s3"
        if database and bool(self.query) is bool(self.table):
            raise ConfigError(
                f"data.query = '{self.query}', data.table = '{self.table}': "
                "a database needs one of the two."
            )
        login = bool(is_url) and not scheme.startswith("sqlite")
        reserved = {"query": database, "table": database, "endpoint": store, "credentials": login}
        for key, fits in reserved.items():
            if (value := getattr(self, key)) and not fits:
                raise ConfigError(
                    f"data.{key} = '{value}' means nothing to this source: remove it."
                )


class Source(Protocol):
    """Where interactions live."""

    @property
    def name(self) -> str:
        """`data.source`: no secret stands in it."""

    def version(self) -> Hashable | None:
        """Differs when the data do; None where only reading can tell."""

    def tables(self) -> Generator[Table]:
        """What there is to read, in order; each is gone when the next one comes."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files on this machine.

    Attributes:
        name: a path or a pattern.
        folder: what it is relative to.
    """

    name: str
    folder: Path

    def version(self) -> Hashable:
        """Name, size and time of change of each file."""
        stats = ((str(path), path.stat()) for path in self._found())
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)

    def tables(self) -> Generator[Table]:
        """The files, by name."""
        yield from map(FileTable, self._found())

    def _found(self) -> list[Path]:
        literal = self.folder / self.name
        if literal.exists():
            return [literal]
        names = glob.glob(self.name, root_dir=self.folder, recursive=True)  # noqa: PTH207
        paths = [path for name in sorted(names) if (path := self.folder / name).is_file()]
        if not paths:
            pattern = glob.has_magic(self.name)
            problem = "no file matches" if pattern else "the file does not exist"
            raise SiteError(
                f"data.source = '{self.name}': {problem} in {self.folder}. Check the path."
            )
        return paths


def open_source(data: DataConfig, folder: Path) -> Source:
    """The source that `data` names; nothing is read yet.

    Args:
        data: the [data] table.
        folder: what paths are relative to.

    Raises:
        SiteError: the credentials or the URL are not what they should be, or a driver is missing.
    """
    scheme, is_url, _ = data.source.partition("://")
    if not is_url:
        return Files(data.source, folder)
    credentials = folder / data.credentials if data.credentials else None
    if scheme == "s3":
        return ObjectStore(data.source, endpoint=data.endpoint, credentials=credentials)
    rows = ("query", data.query) if data.query else ("table", data.table)
    return Database(data.source, rows, folder=folder, credentials=credentials)


def read_source(
    data: DataConfig, folder: Path, catalogue: Catalogue, *, max_length: int
) -> Histories:
    """Every user's last `max_length` events.

    Args:
        data: the [data] table.
        folder: what its paths are relative to.
        catalogue: the items that count.
        max_length: >= 1.

    Raises:
        SiteError: the source cannot be reached or read.
        DataError: what it holds is refused, see `shared.data.reading`.
    """
    columns = Columns(user=data.user, item=data.item, time=data.time or None)
    with closing(open_source(data, folder).tables()) as tables:
        return histories_from_tables(
            tables, catalogue, columns, source=data.source, max_length=max_length
        )
