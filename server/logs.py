"""The coordinator's own log: a line an event, in our own words.

What a partner sends, and what an error that is not ours says, is never part of a line: a reply's
fault is told by outcome and reason (`server.rounds.collection`), a fault of ours by its type and
place.

| variable    | value           | what it does                            |
|-------------|-----------------|-----------------------------------------|
| `SOTTO_LOG` | lines (default) | one line an event, for people           |
|             | json            | one JSON object an event, for programs  |
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import IO

__all__ = ["FORMAT_VARIABLE", "set_up"]

FORMAT_VARIABLE = "SOTTO_LOG"
LONGEST_LINE = 4000
"""Characters of an event: a reason may name many organisations."""


def set_up(stream: IO[str] | None = None) -> None:
    """Writes what the coordinator logs, from INFO on, and leaves other loggers alone.

    Args:
        stream: where to; stderr without one.
    """
    log = logging.getLogger("sotto")
    if any(isinstance(handler.formatter, _Lines | _Json) for handler in log.handlers):
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    wanted = os.environ.get(FORMAT_VARIABLE, "lines")
    handler.setFormatter(_Json() if wanted == "json" else _Lines())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = _text(record).replace("\n", " ")
        return f"{_time(record)} {record.levelname:<7} {record.name}: {text}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": _time(record),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _text(record),
            }
        )


def _text(record: logging.LogRecord) -> str:
    return record.getMessage()[:LONGEST_LINE]


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
