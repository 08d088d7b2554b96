"""Flower's private parts are as they were when the coordinator's uses of them were written."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import server.flower_internals as internals
from server.flower_internals import HttpGrid, is_http_grid
from server.service.superexec import _Launcher
from tests.flower_internals import RECORDS, SERVER_MEMBERS, flower_module, shapes, typed_imports
from tests.test_layering import ROOT

SOURCES = vars(internals)["_SOURCES"]
RECORDED: dict[str, Any] = json.loads(RECORDS["server"].read_text(encoding="utf-8"))
OURS = {"is_http_grid", "replace_task_launcher"}


@pytest.mark.parametrize("name", SOURCES)
def test_flower_has_what_the_coordinator_uses_unchanged(name: str) -> None:
    """Where this fails: read Flower's change, adapt our use, then record the new shape."""
    assert json.loads(json.dumps(shapes("server")[name])) == RECORDED[name]


def test_each_entry_is_listed_typed_and_recorded() -> None:
    listed = set(internals.__all__) - OURS
    assert listed == set(SOURCES) == set(RECORDED)
    assert typed_imports(internals) == SOURCES
    assert set(SERVER_MEMBERS) <= listed


def test_flowers_executor_uses_no_more_of_subprocess_than_our_launcher_has() -> None:
    executor = flower_module("supercore.superexec.executor.subprocess_executor")
    used = {
        node.attr
        for node in ast.walk(ast.parse(Path(executor.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "subprocess"
    }
    assert used == {"Popen", "DEVNULL"}
    assert all(hasattr(_Launcher, name) for name in used)


def test_flowers_own_grids_are_recognised() -> None:
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="t")
    assert is_http_grid(grid)
    assert hasattr(grid, "node"), "as it is put into requests"
    assert not is_http_grid(object())  # type: ignore[arg-type]


def test_the_slow_parts_of_flower_are_loaded_when_they_are_asked_for() -> None:
    script = "import sys, server.rounds.grid; print('flwr.superlink.grid' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "False\n"
