"""The partner's own interactions, for what is done with them at home.

They are a site's, or a file's, for who has no site yet. All users with an event are read. In
passes, the source is read several times, each time for some of the users: so memory is bounded by
the rows of one pass, whatever the source, and no copy of private data is written.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from client.data.config import DataConfig
from client.data.interactions import Interaction
from client.data.sources import columns_of, feedback_tables, open_source
from client.site.site import Site
from shared.data.catalogue import Catalogue
from shared.data.columns import Columns, require_columns
from shared.data.histories import Histories
from shared.data.reading import histories_from_tables
from shared.errors import DataError
from shared.sections import parse_sections

__all__ = ["OwnData"]

_ROWS = 2**22
"""Rows of one pass, on average: about half a gigabyte while they are read."""
_USERS = 100_000
"""Users of one pass, where they are named."""


@dataclass(frozen=True, slots=True)
class OwnData:
    """Where the interactions are.

    Attributes:
        data: the source and its columns.
        folder: base of relative paths.
        setting: how a reader is told to name a column, see `shared.data.columns`.
        feedback: interactions that are read beside the source.
        times: form of the source's times, of `TIME_FORMS`; "" takes that of the first one.
    """

    data: DataConfig
    folder: Path
    setting: str = '{role} = "{name}"'
    feedback: tuple[Interaction, ...] = ()
    times: str = ""

    @classmethod
    def of_site(cls, site: Site) -> OwnData:
        """Take a site's, with the feedback that it has so far.

        Raises:
            SiteError: the store of feedback cannot be read.
        """
        feedback = tuple(site.read_feedback())
        return cls(site.data, Path(site.folder), feedback=feedback, times=site.serve.times)

    @classmethod
    def of_file(
        cls, source: str, columns: Mapping[str, str], domains: Sequence[str] = ()
    ) -> OwnData:
        """Take a file's, a pattern's or a folder's; paths are from the current folder.

        Args:
            source: a path or a pattern.
            columns: "user", "item" or "time" -> its column, where it is not the usual one.
            domains: of the catalogue, that the items are of; none takes all of it.

        Raises:
            ConfigError: the source cannot be one.
        """
        data = parse_sections(DataConfig, {"source": source, **columns})
        data = replace(data, domains=tuple(domains))
        return cls(data, Path.cwd(), "--{role}-column {name}")

    @property
    def columns(self) -> Columns:
        """The columns that are read."""
        return columns_of(self.data, self.setting)

    def version(self) -> Hashable | None:
        """Return a value that changes with the data; None if only reading them can tell."""
        version = open_source(self.data, self.folder).version()
        return version if version is None else (version, self.feedback, self.times)

    def histories(
        self, catalogue: Catalogue, users: Callable[[str], bool] | None = None
    ) -> Histories:
        """Return the histories of users with an event, all events of each.

        Args:
            catalogue: the items to keep.
            users: whether to read the user of a canonical id; None reads all.

        Raises:
            SiteError: the source cannot be reached or read.
            DataError: its content is refused, see `shared.data.reading`.
        """
        source = open_source(self.data, self.folder)
        with closing(source.tables()) as tables:
            return histories_from_tables(
                chain(tables, feedback_tables(self.feedback, source, self.columns, self.times)),
                catalogue,
                self.columns,
                source=self.data.source,
                min_events=1,
                users=users,
                limits=self.data.limits,
            )

    def count_rows(self) -> int:
        """Return how many rows there are; one column is read.

        Raises:
            SiteError: the source cannot be reached or read.
            DataError: it is not a table, or has no column of users.
        """
        rows, columns = 0, self.columns
        with closing(open_source(self.data, self.folder).tables()) as tables:
            for table in tables:
                roles = {"user": columns.user}
                require_columns(roles, table.columns, table.source, columns.setting)
                rows += sum(batch.num_rows for batch in table.batches([columns.user]))
        return rows

    def passes(
        self, catalogue: Catalogue, users: Sequence[str] | None
    ) -> list[Callable[[], Histories]]:
        """Return functions that read the histories of some users each, and of all together.

        Args:
            catalogue: the items to keep.
            users: canonical ids, each once, in the order that is wanted, with or without events;
                None for all that the data have, in an order that is the same for the same data.

        Raises:
            SiteError: the source cannot be reached or read.
            DataError: there is no row.
        """
        if users is not None:
            shares = [users[start : start + _USERS] for start in range(0, len(users), _USERS)]
            return [partial(self._named, catalogue, part) for part in shares]
        rows = self.count_rows()
        if not rows:
            raise DataError("there are no rows", file=self.data.source, remedy="Export them again.")
        parts = -(-rows // _ROWS)
        if parts == 1:
            return [partial(self.histories, catalogue)]
        return [partial(self.histories, catalogue, _Part(part, parts)) for part in range(parts)]

    def _named(self, catalogue: Catalogue, users: Sequence[str]) -> Histories:
        read = self.histories(catalogue, frozenset(users).__contains__)
        row_of = {user: row for row, user in enumerate(read.users)}
        # One more user, without events, stands for those that the data do not have.
        offsets = np.append(read.offsets, read.offsets[-1])
        extended = Histories((*read.users, ""), read.items, offsets)
        chosen = extended.select([row_of.get(user, len(read)) for user in users])
        return Histories(tuple(users), chosen.items, chosen.offsets)


@dataclass(frozen=True, slots=True)
class _Part:
    """One of several parts of all users."""

    number: int
    of: int

    def __call__(self, user: str) -> bool:
        return zlib.crc32(user.encode()) % self.of == self.number
