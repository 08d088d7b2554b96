"""A partner's interactions: the source that `client.data.config` names -> histories.

The rows of every source are checked in the same way, see `shared.data.reading`. Paths are relative
to site.toml.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Generator, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from client.data.config import DataConfig
from client.data.interactions import TIME_FORMS, Interaction, time_text
from shared.data.catalogue import Catalogue
from shared.data.columns import Columns
from shared.data.histories import Histories
from shared.data.reading import histories_from_tables
from shared.data.tables import FileTable, Table, file_tables
from shared.errors import SiteError

__all__ = ["Files", "Source", "columns_of", "feedback_tables", "open_source", "read_source"]


class Source(Protocol):
    """A place where interactions are stored."""

    @property
    def name(self) -> str:
        """The value of `data.source`; it holds no secret."""

    def version(self) -> Hashable | None:
        """Return a value that changes when the data do; None if only reading would show it."""

    def tables(self) -> Generator[Table]:
        """Yield the tables in order; each is valid until the next one is requested."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files on this machine.

    Attributes:
        name: a path or a pattern.
        folder: base of relative paths.
    """

    name: str
    folder: Path

    def version(self) -> Hashable:
        """Return path, modification time and size of each file."""
        stats = ((str(path), path.stat()) for path in self._list_files())
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)

    def tables(self) -> Generator[Table]:
        """Yield the files in order of name."""
        yield from map(FileTable, self._list_files())

    def _list_files(self) -> list[Path]:
        literal = self.folder / self.name
        if literal.exists():
            return [table.path for table in file_tables(literal)]
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
    """Return the source that `data` names, without reading from it.

    Args:
        data: the [data] table.
        folder: base of relative paths.

    Raises:
        SiteError: the credentials or the URL are invalid, or a driver is missing.
    """
    scheme, is_url, _ = data.source.partition("://")
    if not is_url:
        return Files(data.source, folder)
    credentials = folder / data.credentials if data.credentials else None
    if scheme == "s3":
        from client.data.object_store import ObjectStore  # noqa: PLC0415 for this source alone

        return ObjectStore(data.source, endpoint=data.endpoint, credentials=credentials)
    from client.data.databases import Database  # noqa: PLC0415 with SQLAlchemy, for this one alone

    rows = ("query", data.query) if data.query else ("table", data.table)
    return Database(data.source, rows, folder=folder, credentials=credentials)


def read_source(  # noqa: PLR0913 the last two belong to feedback
    data: DataConfig,
    folder: Path,
    catalogue: Catalogue,
    *,
    max_length: int,
    strict: bool = True,
    min_events: int = 2,
    feedback: Collection[Interaction] = (),
    feedback_times: str = "",
) -> Histories:
    """Read every user's last `max_length` events.

    Args:
        data: the [data] table.
        folder: base of relative paths.
        catalogue: the items to keep.
        max_length: number of events to keep of each user, >= 1.
        strict: whether a row that cannot be read is an error; otherwise its user is left out.
        min_events: drop users with fewer events; >= 1.
        feedback: further interactions, which are read as rows of the source: one with the user,
            item and time of a row counts once.
        feedback_times: form of their times, see `feedback_tables`.

    Raises:
        SiteError: the source cannot be reached or read.
        DataError: its content is refused, see `shared.data.reading`.
    """
    columns = columns_of(data)
    source = open_source(data, folder)
    with closing(source.tables()) as tables:
        return histories_from_tables(
            chain(tables, feedback_tables(feedback, source, columns, feedback_times)),
            catalogue,
            columns,
            source=data.source,
            max_length=max_length,
            min_events=min_events,
            strict=strict,
            limits=data.limits,
        )


def columns_of(data: DataConfig, setting: str = '{role} = "{name}"') -> Columns:
    """Return the names of the columns.

    Args:
        data: the [data] table.
        setting: how a reader is told to name a column, see `Columns`.
    """
    return Columns(
        user=data.user,
        item=data.item,
        time=data.time or None,
        missing=data.missing,
        setting=setting,
    )


def feedback_tables(
    feedback: Collection[Interaction], source: Source, columns: Columns, times: str = ""
) -> list[Table]:
    """Return feedback as tables like those of a source; none where there is no feedback.

    Args:
        feedback: the interactions.
        source: whose form of times they take.
        columns: names of the source's columns.
        times: the form, of `TIME_FORMS`; "" takes that of the source's first time, which is one
            user's: what answers a coordinator states the form.
    """
    if not feedback:
        return []
    name, first = _first_time(source, columns, read=not times)
    return [_FeedbackRows(feedback, columns, name, TIME_FORMS.get(times, first))]


def _first_time(source: Source, columns: Columns, *, read: bool) -> tuple[str, str]:
    """Return the name of the source's column of times, and the first time in it; "" for none.

    Args:
        source: the source.
        columns: names of its columns.
        read: whether to read a time; otherwise no row is looked at.
    """
    with closing(source.tables()) as tables:
        for table in tables:
            usual = (name for name in ("timestamp", "position") if name in table.columns)
            name = columns.time or next(usual, "timestamp")
            if name not in table.columns:
                break  # reading the source says so
            if not read:
                return name, ""
            with closing(_batches_of(table, name)) as batches:
                for batch in batches:
                    for text in batch.column(0).drop_null().to_pylist():
                        return name, text
    return columns.time or "timestamp", ""


def _batches_of(table: Table, name: str) -> Generator[pa.RecordBatch]:
    """Yield the batches of one column, from a generator that can be closed."""
    yield from table.batches([name])


class _FeedbackRows:
    """Feedback as a table of text with the source's columns, and times of the same form.

    Args:
        events: the interactions.
        columns: names of the source's columns.
        time: name of the column of times.
        like: a time of the source.
    """

    source = "feedback"

    def __init__(
        self, events: Collection[Interaction], columns: Columns, time: str, like: str
    ) -> None:
        form = "position" if time == "position" else like
        self._texts = {
            columns.user: [event.user for event in events],
            columns.item: [event.item for event in events],
            time: [time_text(event.time, form) for event in events],
        }
        self.columns = list(self._texts)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the named columns."""
        yield pa.RecordBatch.from_pydict({name: self._texts[name] for name in names})
