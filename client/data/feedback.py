"""What users were shown and did: a durable store, and its interactions as rows of a source.

An SQLite file beside the source by default; PostgreSQL, by its address, where several services
write. Nothing of it is ever sent: see `Site.load_histories` for who reads it.

| table             | rows                                                                   |
|-------------------|------------------------------------------------------------------------|
| `sotto_feedback`  | `schema`: the version of these tables                                  |
| `events`          | one an event, in the order in which they arrived; `id` is the client's |
| `exposures`       | one a list that was recommended to a user: items and scores as JSON    |
| `decisions`       | one a list that the wellbeing guard decided on, by the exposure's id   |

| an event that arrives                        | what happens                                |
|----------------------------------------------|---------------------------------------------|
| with an id that is new                       | stored; on disk when `add` returns          |
| with an id that is there, and the same       | nothing; counted as repeated                |
| with an id that is there, but otherwise      | its whole request is refused                |
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from client.data.credentials import read_credentials, redact
from client.data.interactions import Interaction, Kind
from shared.errors import SiteError

__all__ = [
    "ConflictingEventError",
    "Exposure",
    "FeedbackEvent",
    "FeedbackStore",
    "GuardDecision",
    "Stored",
]

_SCHEMA = "1"
_VARIABLES = {"user": "SOTTO_FEEDBACK_USER", "password": "SOTTO_FEEDBACK_PASSWORD"}
_FORM = "Write it as sqlite:///feedback.sqlite or postgresql://user@host:5432/database."
_CONNECT_SECONDS, _BUSY_SECONDS = 10, 10
_BATCH, _VALUES = 50_000, 500
"""Rows that are read at once; values in one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackEvent:
    """One thing that happened.

    Attributes:
        id: the client's name for it, for ever.
        user: in canonical form.
        item: in canonical form.
        kind: what happened.
        time: microseconds since 1970 in UTC.
        rating: of an event that is rated; None otherwise.
        exposure: id of the list that the item came with; "" for none.
        position: where on the screen the item was, from 1; None where it is not known.
        model: that ranked the list; "" for none.
    """

    id: str
    user: str
    item: str
    kind: Kind
    time: int
    rating: float | None = None
    exposure: str = ""
    position: int | None = None
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A list that was recommended to a user.

    Attributes:
        id: names it in feedback.
        user: in canonical form.
        time: microseconds since 1970 in UTC.
        model: that ranked it.
        items: best first; an item's position is its place here, from 1.
        scores: of the items.
    """

    id: str
    user: str
    time: int
    model: str
    items: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardDecision:
    """What the wellbeing guard decided on a list; read by nobody but the partner.

    Attributes:
        id: of the list, as in `Exposure`.
        user: in canonical form.
        time: microseconds since 1970 in UTC.
        text: JSON, see `client.wellbeing.protection`.
    """

    id: str
    user: str
    time: int
    text: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a request's events.

    Attributes:
        stored: how many are new.
        repeated: how many were there already.
    """

    stored: int
    repeated: int


class ConflictingEventError(SiteError):
    """An event has the id of another one."""


_metadata = sa.MetaData()
_about = sa.Table(
    "sotto_feedback",
    _metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers INTEGER keys alone
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("user", sa.String, nullable=False),
    sa.Column("item", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("rating", sa.Float),
    sa.Column("exposure", sa.String, nullable=False),
    sa.Column("position", sa.Integer),
    sa.Column("model", sa.String, nullable=False),
    sqlite_autoincrement=True,
)
_exposures = sa.Table(
    "exposures",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("user", sa.String, nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("items", sa.Text, nullable=False),
    sa.Column("scores", sa.Text, nullable=False),
)
_decisions = sa.Table(
    "decisions",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("user", sa.String, nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)
_CONTENT = ("user", "item", "kind", "rating", "exposure", "position", "model")
"""What must be the same where an id comes again. Not the time: a client may leave it out."""


class FeedbackStore:
    """The store; safe to use from several threads.

    Args:
        url: a SQLAlchemy URL without a password.
        folder: base of the path of an SQLite file.
        credentials: a file, see `client.data.credentials`; None uses SOTTO_FEEDBACK_USER and
            SOTTO_FEEDBACK_PASSWORD.
        setting: the key of site.toml that errors name.
        create: whether the tables are made where there are none.

    Raises:
        SiteError: the URL is malformed, the database cannot be opened, or its schema is another.
    """

    def __init__(
        self,
        url: str,
        *,
        folder: Path,
        credentials: Path | None = None,
        setting: str = "serve.feedback",
        create: bool = True,
    ) -> None:
        self.name, self._setting, self._lock = url, setting, threading.Lock()
        sqlite = url.startswith("sqlite")
        login = read_credentials(credentials, {} if sqlite else _VARIABLES)
        self._secrets = [login.get("password", ""), os.environ.get("PGPASSWORD", "")]
        self._engine = self._connectable(url, login, folder)
        with self._failures(), self._engine.begin() as connection:
            if create:
                _metadata.create_all(connection)
            self._check_schema(connection)

    @property
    def folder(self) -> Path | None:
        """Folder of an SQLite file, where this user may write; None for another database."""
        sqlite = self._engine.dialect.name == "sqlite"
        return Path(str(self._engine.url.database)).parent if sqlite else None

    @staticmethod
    def exists(url: str, folder: Path) -> bool:
        """Return False for an SQLite file that is not there."""
        prefix = "sqlite:///"
        return not url.startswith(prefix) or (folder / url.removeprefix(prefix)).is_file()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def add(self, requests: Sequence[Sequence[FeedbackEvent]]) -> list[Stored | SiteError]:
        """Store the events of several requests in one transaction; they are on disk on return.

        Returns:
            By request, what became of its events; an error where the whole request was refused.

        Raises:
            SiteError: the database refused; nothing was stored, and all may be sent again.
        """
        with self._lock, self._failures(), self._engine.begin() as connection:
            return [self._add_request(connection, events) for events in requests]

    def _add_request(
        self, connection: sa.Connection, events: Sequence[FeedbackEvent]
    ) -> Stored | SiteError:
        distinct: dict[str, FeedbackEvent] = {}
        for event in events:
            if not _same(distinct.setdefault(event.id, event), event):
                return _conflict(event)
        there = self._find(connection, list(distinct))
        for event_id, row in there.items():
            if not _same(row, distinct[event_id]):
                return _conflict(distinct[event_id])
        new = [_row_of(event) for event_id, event in distinct.items() if event_id not in there]
        if new:
            statement = self._insert(_events).on_conflict_do_nothing(index_elements=["id"])
            connection.execute(statement, new)
        return Stored(len(new), len(events) - len(new))

    def _find(self, connection: sa.Connection, ids: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for start in range(0, len(ids), _VALUES):
            some = _events.c.id.in_(ids[start : start + _VALUES])
            found |= {row.id: row for row in connection.execute(sa.select(_events).where(some))}
        return found

    def add_exposures(self, exposures: Sequence[Exposure]) -> None:
        """Store lists that were recommended.

        Raises:
            SiteError: the database refused.
        """
        rows = [
            {
                "id": one.id,
                "user": one.user,
                "time": one.time,
                "model": one.model,
                "items": json.dumps(one.items),
                "scores": json.dumps(one.scores),
            }
            for one in exposures
        ]
        with self._lock, self._failures(), self._engine.begin() as connection:
            statement = self._insert(_exposures).on_conflict_do_nothing(index_elements=["id"])
            connection.execute(statement, rows)

    def add_decisions(self, decisions: Sequence[GuardDecision]) -> None:
        """Store what the wellbeing guard decided.

        Raises:
            SiteError: the database refused.
        """
        rows = [asdict(one) for one in decisions]
        with self._lock, self._failures(), self._engine.begin() as connection:
            statement = self._insert(_decisions).on_conflict_do_nothing(index_elements=["id"])
            connection.execute(statement, rows)

    def decisions(self) -> Iterator[GuardDecision]:
        """Yield what the wellbeing guard decided, in order of time."""
        statement = sa.select(_decisions).order_by(_decisions.c.time, _decisions.c.id)
        for row in self._stream(statement):
            yield GuardDecision(id=row.id, user=row.user, time=row.time, text=row.text)

    def exposures(self, since: int = 0) -> Iterator[Exposure]:
        """Yield the lists that were recommended, in order of time.

        Args:
            since: those before are left out; microseconds since 1970.
        """
        statement = sa.select(_exposures).where(_exposures.c.time >= since)
        for row in self._stream(statement.order_by(_exposures.c.time, _exposures.c.id)):
            items, scores = tuple(json.loads(row.items)), tuple(json.loads(row.scores))
            yield Exposure(
                id=row.id, user=row.user, time=row.time, model=row.model, items=items, scores=scores
            )

    def events(self) -> Iterator[FeedbackEvent]:
        """Yield all events in the order in which they arrived."""
        for row in self._stream(sa.select(_events).order_by(_events.c.number)):
            fields = {name: getattr(row, name) for name in ("id", "time", *_CONTENT)}
            yield FeedbackEvent(**fields | {"kind": Kind(row.kind)})

    def interactions(self, kinds: Collection[str], *, after: int = 0) -> Iterator[Interaction]:
        """Yield the events of some kinds, in the order in which they arrived.

        Args:
            kinds: some of `Kind`.
            after: number of the last event that is not wanted again.

        Raises:
            SiteError: the database refused.
        """
        columns = (_events.c[name] for name in ("number", "user", "item", "time", "kind"))
        wanted = _events.c.kind.in_([str(kind) for kind in kinds])
        statement = sa.select(*columns).where(wanted, _events.c.number > after)
        for row in self._stream(statement.order_by(_events.c.number)):
            yield Interaction(row.number, row.user, row.item, row.time, Kind(row.kind))

    def last_number(self) -> int:
        """Return the number of the last event; 0 without any."""
        with self._failures(), self._engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.max(_events.c.number))) or 0)

    def _stream(self, statement: sa.Select[Any]) -> Generator[Any]:
        with self._failures(), self._engine.connect() as connection:
            streamed = connection.execution_options(stream_results=True, yield_per=_BATCH)
            yield from streamed.execute(statement)

    @property
    def _insert(self) -> Callable[[sa.Table], Any]:
        sqlite = self._engine.dialect.name == "sqlite"
        return sqlite_insert if sqlite else postgresql_insert

    def _connectable(self, url: str, login: dict[str, str], folder: Path) -> sa.Engine:
        where = f"{self._setting} = '{url}'"
        try:
            parsed = sa.make_url(url)
        except (ArgumentError, ValueError):
            raise SiteError(f"{where}: not a URL. {_FORM}") from None
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise SiteError(f"{where}: feedback is kept in SQLite or PostgreSQL. {_FORM}")
        try:
            if parsed.get_backend_name() == "sqlite":
                return _sqlite_engine(parsed, folder, where)
            return sa.create_engine(
                parsed.set(
                    username=login.get("user", parsed.username), password=login.get("password")
                ),
                connect_args={"connect_timeout": _CONNECT_SECONDS},
                pool_pre_ping=True,
            )
        except (NoSuchModuleError, ImportError):
            raise SiteError(
                f"{where}: its driver is not installed: pip install 'psycopg[binary]'."
            ) from None
        except OSError as error:
            raise SiteError(
                f"{where}: the file cannot be made ({error.strerror}). Name another place."
            ) from None

    def _check_schema(self, connection: sa.Connection) -> None:
        version = connection.scalar(sa.select(_about.c.value).where(_about.c.key == "schema"))
        if version is None:
            statement = self._insert(_about).on_conflict_do_nothing(index_elements=["key"])
            connection.execute(statement, {"key": "schema", "value": _SCHEMA})
        elif version != _SCHEMA:
            raise SiteError(
                f"{self._setting} = '{self.name}': it has version {version} of the schema, and "
                f"this Sotto knows version {_SCHEMA}. Update Sotto, or name another store."
            )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            text = redact(str(getattr(error, "orig", None) or error), self._secrets)
            raise SiteError(
                f"{self._setting} = '{self.name}': the database refused ({text}). Check that it "
                "runs, has room, and that this user may write there."
            ) from None


def _sqlite_engine(url: sa.URL, folder: Path, where: str) -> sa.Engine:
    """Open an SQLite file that its owner alone can read, made where there is none."""
    if not url.database:
        raise SiteError(f"{where}: it names no file. {_FORM}")
    file = folder / url.database
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's own files beside it follow
    engine = sa.create_engine(url.set(database=str(file)), connect_args={"timeout": _BUSY_SECONDS})

    def set_up(connection: Any, _: object) -> None:  # noqa: ANN401 sqlite3's connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # on disk at each commit

    sa.event.listen(engine, "connect", set_up)
    return engine


def _row_of(event: FeedbackEvent) -> dict[str, Any]:
    row = {name: getattr(event, name) for name in ("id", "time", *_CONTENT)}
    return row | {"kind": str(event.kind)}


def _same(one: Any, other: FeedbackEvent) -> bool:  # noqa: ANN401 an event or a row
    return all(getattr(one, name) == getattr(other, name) for name in _CONTENT)


def _conflict(event: FeedbackEvent) -> ConflictingEventError:
    return ConflictingEventError(
        f"event id {event.id!r} names another event already: give each event an id of its own."
    )
