from __future__ import annotations

import io
import json
import logging

import pytest

from server.logs import FORMAT_VARIABLE, set_up


def test_a_line_an_event() -> None:
    stream = io.StringIO()
    set_up(stream)
    set_up(stream)  # once is enough
    logging.getLogger("sotto.server").info("round %d\nof %d", 3, 60)
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("Z INFO    sotto.server: round 3 of 60")


def test_an_object_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    stream = io.StringIO()
    set_up(stream)
    logging.getLogger("sotto.server").warning("round 3 goes on without %s", "béta\x1b[2J")
    found = json.loads(stream.getvalue())
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "logger": "sotto.server",
        "message": "round 3 goes on without béta\x1b[2J",
    }
    assert "\x1b" not in stream.getvalue()


def test_other_loggers_are_left_alone() -> None:
    stream = io.StringIO()
    set_up(stream)
    logging.getLogger("flwr").warning("user7")
    assert stream.getvalue() == ""
    assert logging.getLogger("sotto.server").getEffectiveLevel() == logging.INFO
