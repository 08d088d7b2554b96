"""The coordinator's own log: one line an event, in Sotto's own words.

A line never contains what a partner sent, or the message of an error that is not Sotto's. A reply
is described by outcome and reason (`server.rounds.collection`), a fault by its type and place.

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
    """Write the coordinator's log from INFO on; other loggers stay as they are.

    Args:
        stream: to write to; None takes stderr.
    """
    log = logging.getLogger("sotto")
    if any(isinstance(handler.formatter, _Lines | _Json) for handler in log.handlers):
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    form = os.environ.get(FORMAT_VARIABLE, "lines")
    handler.setFormatter(_Json() if form == "json" else _Lines())
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
