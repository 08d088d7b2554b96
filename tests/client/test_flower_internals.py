"""Flower's private parts are as they were when the node's uses of them were written."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import client.flower_internals as internals
from client.flower_internals import InMemoryNodeState, make_simple_http_retry_invoker
from tests.flower_internals import CLIENT_MEMBERS, RECORDS, flower_module, shapes, typed_imports
from tests.test_layering import MODULES, ROOT, TREES

PUBLIC = {
    "flwr",
    "flwr.app",
    "flwr.clientapp",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
    "flwr.simulation",
}
SOURCES = vars(internals)["_SOURCES"]
RECORDED: dict[str, Any] = json.loads(RECORDS["client"].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SOURCES)
def test_flower_has_what_the_node_uses_unchanged(name: str) -> None:
    """Where this fails: read Flower's change, adapt our use, then record the new shape."""
    assert json.loads(json.dumps(shapes("client")[name])) == RECORDED[name]


def test_each_entry_is_x() -> None:
    listed = set(internals.__all__) - {"replace_in_supernode"}
    assert listed == set(SOURCES) == set(RECORDED)
    assert typed_imports(internals) == SOURCES
    assert set(CLIENT_MEMBERS) <= listed


def test_what_is_replaced_in_the_supernode_is_used_there() -> None:
    for name, module in vars(internals)["_REPLACEABLE"].items():
        assert name in vars(import_module(module))
        source = Path(str(import_module(module).__file__)).read_text(encoding="utf-8")
        uses = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name) and n.id == name]
        assert uses, f"{module} takes {name} from elsewhere"


def test_attributes_that_are_set_or_read_are_there() -> None:
    state = InMemoryNodeState(flower_module("supercore.object_store").ObjectStoreFactory().store())
    assert state.msg_store == {}
    assert state.object_store is not None
    entry = flower_module("supernode.nodestate.in_memory_nodestate").MessageEntry
    assert {"message", "is_retrieved"} <= set(entry.__dataclass_fields__)
    assert callable(make_simple_http_retry_invoker().should_giveup)


def test_nothing_of_flower_is_loaded_before_it_is_asked_for() -> None:
    script = "import sys, client.flower_internals; print([m for m in sys.modules if 'flwr' in m])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = vars(internals)["__getattr__"]("Nothing")


def test_no_other_module_names_flowers_private_parts() -> None:
    trees = {path: TREES[path] for path in MODULES.values()}
    for path in (ROOT / "tests").rglob("*.py"):
        if "flwr" in (text := path.read_text(encoding="utf-8")):
            trees[path] = ast.parse(text)
    named = {
        path.relative_to(ROOT).as_posix()
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([node.module] if isinstance(node, ast.ImportFrom) else _names(node))
        if str(module).partition(".")[0] == "flwr" and module not in PUBLIC
    }
    assert named == {f"{side}/flower_internals.py" for side in ("client", "server", "tests")}


def _names(node: ast.Import) -> list[str]:
    return [alias.name for alias in node.names]
