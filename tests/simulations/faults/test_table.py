"""The faults that are injected into real processes name code that exists."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import client.node.worker
from server.cli import app
from simulations.faults.node_faults import _ANSWER_LINE
from simulations.faults.processes import NODE_PROCESSES, SERVER_PROCESSES
from simulations.faults.table import faults


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in faults()]
    assert len(names) == len(set(names)) > 20


def test_the_patterns_of_processes_name_modules_and_commands_that_exist() -> None:
    for pattern in (*SERVER_PROCESSES.values(), *NODE_PROCESSES.values()):
        program, _, command = re.sub(r"\\(.)", r"\1", pattern).partition(" ")
        if "." in program:
            assert find_spec(program) is not None
        assert not command or command in app.commands


def test_the_line_that_false_replies_change_is_there_once() -> None:
    assert Path(client.node.worker.__file__).read_text().count(_ANSWER_LINE) == 1
