"""The faults that are injected into real processes name code that exists."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import client.node.supernode
import client.node.worker
from server.cli import app
from simulations.faults.changed_code import ANSWER_LINE, FIRST_LINE
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


def test_the_lines_that_a_changed_copy_replaces_are_there_once() -> None:
    assert Path(client.node.worker.__file__).read_text().count(ANSWER_LINE) == 1
    assert Path(client.node.supernode.__file__).read_text().count(FIRST_LINE) == 1
