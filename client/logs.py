"""The node's own log: lines of fields, none of which depends on a user.

A line is built from the fields of `Fields` and from nothing else: no exception's text, no message
of a library. What an error said may hold a piece of data (a value of a row, a query's parameter),
so a failure is logged by its type and the line of code that raised it. The texts of `Refused`,
`WireError` and `LedgerError` are logged, because they depend only on the request, the policy and
the ledger.

| variable            | value            | what it does                                           |
|---------------------|------------------|--------------------------------------------------------|
| `SOTTO_LOG`         | lines (default)  | one line an event, for people                          |
|                     | json             | one JSON object an event, for programs                 |
| `SOTTO_LOG_DETAILS` | a file           | whole tracebacks and libraries' messages, which may    |
|                     |                  | hold data: off unless it is set, and its owner's alone |
| `SOTTO_LOG_FLOWER`  | on               | Flower's own messages, too, in Flower's own form       |

Without `set_up`, as in a simulation, warnings reach Python's own log, with the same fields.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, TypedDict, Unpack

from shared.errors import LedgerError, Refused, WireError

__all__ = [
    "DETAILS_VARIABLE",
    "FLOWER_VARIABLE",
    "FORMAT_VARIABLE",
    "Event",
    "Fields",
    "Format",
    "about",
    "cause",
    "errors_only",
    "note",
    "request",
    "set_up",
]

FORMAT_VARIABLE, DETAILS_VARIABLE = "SOTTO_LOG", "SOTTO_LOG_DETAILS"
FLOWER_VARIABLE = "SOTTO_LOG_FLOWER"
LONGEST_TEXT = 500
"""Characters of a field."""
_ROOT = Path(__file__).parents[1]
_OURS = tuple(_ROOT / package for package in ("client", "shared"))
log = logging.getLogger("sotto.node")


class Format(StrEnum):
    """How a line is written."""

    LINES = "lines"
    JSON = "json"


class Event(StrEnum):
    """Every kind of log line, with its fixed sentence."""

    STARTED = "started"
    STOPPED = "stopped"
    RESTARTING = "restarting"
    ANSWERED = "answered"
    DECLINED = "declined"
    FAILED = "failed"
    DIED = "died"
    OVERRAN = "overran"
    CONNECTED = "connected"
    AWAY = "away"
    NOT_ACCEPTED = "not-accepted"
    LEASE = "lease"
    PORT = "port"
    LATE = "late"
    USERS = "users"
    UNREADABLE = "unreadable"
    LIMITED = "limited"
    LIBRARY = "library"
    SETTING = "setting"
    SERVING = "serving"
    SERVED = "served"
    INDEXED = "indexed"
    NOT_INDEXED = "not-indexed"
    RELOADED = "reloaded"
    NOT_RELOADED = "not-reloaded"

    @property
    def sentence(self) -> str:
        """The fixed sentence of this event."""
        return _SENTENCES[self]


_SENTENCES = {
    Event.STARTED: "the node is up",
    Event.STOPPED: "the node is down",
    Event.RESTARTING: "a process of the node ended, and will be started again",
    Event.ANSWERED: "a reply was handed over",
    Event.DECLINED: "a request was refused; no budget was spent",
    Event.FAILED: "a request failed on this node; sotto-node check may show why",
    Event.DIED: "the process of a request died; no answer was sent, and a repeat costs nothing",
    Event.OVERRAN: "a request took longer than policy.answer_seconds: the coordinator saw how long",
    Event.CONNECTED: "the coordinator has accepted the connection",
    Event.AWAY: "no connection to the coordinator; it is tried again; sotto-node check shows why",
    Event.NOT_ACCEPTED: (
        "the coordinator has not accepted this node's key: send it the file and ask for accept; "
        "the connection is tried again"
    ),
    Event.LEASE: (
        "the coordinator still waits for this node's last connection, for up to a minute; it is "
        "tried again"
    ),
    Event.PORT: "the port of the node's own processes is in use; sotto-node check names a free one",
    Event.LATE: "a part of the reply was not taken: the coordinator has it, or it comes too late",
    Event.USERS: (
        "the data has over 20% more or fewer users than when it was last read; sotto-node check "
        "shows how many"
    ),
    Event.UNREADABLE: (
        "some rows of the data cannot be read, and their users are left out; sotto-node check "
        "shows the first row, and how many users"
    ),
    Event.LIMITED: (
        "events of some users were dropped by the limits in [data]; sotto-node check shows how many"
    ),
    Event.LIBRARY: "a library wrote a message; its text could hold data and is left out",
    Event.SETTING: f"{FORMAT_VARIABLE} must be 'lines' or 'json'; 'lines' is used",
    Event.SERVING: "recommendations are served",
    Event.SERVED: "recommendations are no longer served",
    Event.INDEXED: "an approximate index of the items is searched",
    Event.NOT_INDEXED: (
        "the items are searched exactly: an index would not find enough of them, or faiss is not "
        "installed (pip install 'sotto[ann]'); serve.index_above = 0 asks for none"
    ),
    Event.RELOADED: "what changed on disk is in use; no request was dropped",
    Event.NOT_RELOADED: "what changed on disk cannot be used; what was there before is in use",
}
_LEVELS = {
    Event.NOT_INDEXED: logging.WARNING,
    Event.RESTARTING: logging.WARNING,
    Event.DECLINED: logging.WARNING,
    Event.AWAY: logging.WARNING,
    Event.NOT_ACCEPTED: logging.WARNING,
    Event.LEASE: logging.WARNING,
    Event.PORT: logging.ERROR,
    Event.LATE: logging.WARNING,
    Event.USERS: logging.WARNING,
    Event.UNREADABLE: logging.WARNING,
    Event.FAILED: logging.ERROR,
    Event.DIED: logging.ERROR,
    Event.OVERRAN: logging.WARNING,
    Event.SETTING: logging.WARNING,
    Event.NOT_RELOADED: logging.ERROR,
}


class Fields(TypedDict, total=False):
    """All that a line may hold besides time, level and event; none depends on a user.

    Attributes:
        organisation: this site's name.
        kind: of the request.
        run: as the coordinator calls it.
        round: 1-based.
        code: what the coordinator was told, where a request was declined; or a process's exit code.
        seconds: that an answer took, or until something is tried again.
        bytes: of arrays that left.
        error: type of an exception.
        where: the line of code that raised it.
        why: of a refusal, or of a ledger that does not open.
        library: whose message was left out.
        program: a process of the node: "SuperNode" or "executor".
        file: the node's public key.
    """

    organisation: str
    kind: str
    run: str
    round: int
    code: str
    seconds: float
    bytes: int
    error: str
    where: str
    why: str
    library: str
    program: str
    file: str


_about: ContextVar[Fields] = ContextVar("about", default={})  # noqa: B039 never changed in place


@contextmanager
def request(**fields: Unpack[Fields]) -> Iterator[None]:
    """Add these fields to every line that is logged within the block."""
    token = _about.set(fields)
    try:
        yield
    finally:
        _about.reset(token)


def about(**fields: Unpack[Fields]) -> None:
    """Add fields to every further line about the current request."""
    _about.set(_with_request_fields(fields))


def note(event: Event, **fields: Unpack[Fields]) -> None:
    """Log an event, with the fields of the current request."""
    all_fields, level = _with_request_fields(fields), _LEVELS.get(event, logging.INFO)
    log.log(level, "%s", _line(event, all_fields), extra={"event": event, "fields": all_fields})


def cause(error: BaseException) -> Fields:
    """Return what may be logged of an error; write the rest to the details file, if one is set."""
    _detail("".join(traceback.format_exception(error)))
    fields = Fields(error=type(error).__name__, where=_where(error))
    if isinstance(error, Refused | WireError | LedgerError):
        fields["why"] = str(error)
    return fields


@contextmanager
def errors_only(library: str) -> Iterator[None]:
    """Leave out what a library says below an error, within the block."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def set_up(stream: IO[str] | None = None) -> None:
    """Send all logging of this process through one handler, which writes these lines only.

    Args:
        stream: where to; stderr without one.
    """
    root = logging.getLogger()
    if any(isinstance(handler.formatter, _Lines | _Json) for handler in root.handlers):
        return
    asked = os.environ.get(FORMAT_VARIABLE, Format.LINES)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if asked == Format.JSON else _Lines())
    handler.addFilter(lambda record: not record.name.startswith("flwr"))  # has its own handler
    _set_up_flower()
    for old in [*root.handlers]:
        root.removeHandler(old)
    root.addHandler(handler)
    log.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    if asked not in list(Format):
        note(Event.SETTING)


def _set_up_flower() -> None:
    """Leave Flower's own messages out, or write them without colour codes into a file.

    Flower logs about seven lines a request, in colour wherever they go. An error is noted as a
    library's message. A filter, because Flower's handler may be made later.
    """
    if os.environ.get(FLOWER_VARIABLE, "").lower() in ("on", "1", "true", "yes"):
        logging.getLogger("flwr").addFilter(_without_colours)
        return
    for name in ("flwr", "uvicorn.error", "uvicorn.access"):  # uvicorn serves Flower's interface
        logging.getLogger(name).addFilter(_note_errors)


def _without_colours(_: logging.LogRecord) -> bool:
    for handler in logging.getLogger("flwr").handlers:
        if hasattr(handler, "colored") and not getattr(handler, "stream", sys.stderr).isatty():
            handler.colored = False
    return True


def _note_errors(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.ERROR:
        event, fields = _event_and_fields(record)
        note(event, **fields)
    return False


class _Lines(logging.Formatter):
    """For people; never calls `getMessage`, whose text may be a library's."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event_and_fields(record)
        return f"{_time(record)} {record.levelname:<7} {_line(event, fields)}"


class _Json(logging.Formatter):
    """For programs."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event_and_fields(record)
        head = {"time": _time(record), "level": record.levelname.lower(), "event": str(event)}
        return json.dumps(head | _safe(fields) | {"message": event.sentence})


def _with_request_fields(fields: Fields) -> Fields:
    return {**_about.get(), **fields}


def _event_and_fields(record: logging.LogRecord) -> tuple[Event, Fields]:
    """Return a line's event and fields; for a library's line, only the place it came from."""
    if hasattr(record, "event") and hasattr(record, "fields"):
        return record.event, record.fields
    with suppress(Exception):  # a library's own mistake in its format
        _detail(f"{record.name}: {record.getMessage()}\n")
    where = f"{_short(record.pathname)}:{record.lineno}"
    return Event.LIBRARY, Fields(library=record.name, where=where)


def _line(event: Event, fields: Fields) -> str:
    shown = " ".join(f"{name}={json.dumps(value)}" for name, value in _safe(fields).items())
    return f"{event}: {event.sentence}. {shown}".rstrip()


def _safe(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten every text: the coordinator chooses some of them."""
    return {name: _short_value(value) for name, value in fields.items()}


def _short_value(value: object) -> object:
    if isinstance(value, float):
        return round(value, 3)
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _where(error: BaseException) -> str:
    """Return the innermost line of our own code, or of any code if none is ours."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if any(Path(f.filename).is_relative_to(own) for own in _OURS)]
    for frame in reversed(ours or frames):
        return f"{_short(frame.filename)}:{frame.lineno}"
    return ""


def _short(file: str) -> str:
    """Return a source file's path without the place of installation."""
    path = Path(file)
    if any(path.is_relative_to(own) for own in _OURS):
        return path.relative_to(_ROOT).as_posix()
    return "/".join(path.parts[-2:])


def _detail(text: str) -> None:
    """Append to the details file. Errors are ignored: logging must not stop a request."""
    file = os.environ.get(DETAILS_VARIABLE)
    if not file:
        return
    with suppress(OSError):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "a", encoding="utf-8") as opened:
            opened.write(f"--- {datetime.now(UTC).isoformat()}\n{text}")
