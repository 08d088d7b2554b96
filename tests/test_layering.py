"""The arrows of the design: who may import whom, who names record keys, and what is exported.

Read from the sources with `ast`: nothing is imported here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARROWS = {
    "shared": {"shared"},
    "client": {"client", "shared"},
    "server": {"server", "shared"},
    "simulations": {"simulations", "client", "server", "shared"},
}
SOURCES = sorted(path for package in ARROWS for path in (ROOT / package).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
RECORDS = {"ArrayRecord", "ConfigRecord", "MetricRecord"}
RECORD_VIEWS = {"array_records", "config_records", "metric_records"}


def module(path: Path) -> str:
    """shared/privacy/noise.py -> shared.privacy.noise."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in SOURCES}
every_module = pytest.mark.parametrize("name", MODULES)


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each imported module, with the name taken from it, wherever in the file."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((str(node.module), alias.name) for alias in node.names)


def imported_packages(name: str) -> set[str]:
    """The top-level packages that a module imports."""
    return {imported.partition(".")[0] for imported, _ in imports(MODULES[name])}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Each call by the last part of what is called."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call):
            target = node.func
            if isinstance(target, ast.Name | ast.Attribute):
                yield target.id if isinstance(target, ast.Name) else target.attr, node


def exported(path: Path) -> list[str] | None:
    """What `__all__` lists; None without one."""
    for node in TREES[path].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def definitions(path: Path) -> dict[str, ast.stmt]:
    """Top-level names."""
    found: dict[str, ast.stmt] = {}
    for node in TREES[path].body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            found[ast.unparse(node.target)] = node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            if node.orelse:  # what is imported when it is asked for, and re-exported
                taken = [n for n in node.body if isinstance(n, ast.ImportFrom)]
                found |= {name.asname or name.name: n for n in taken for name in n.names}
        elif isinstance(node, ast.Assign):
            targets = [n for target in node.targets for n in ast.walk(target)]
            found |= {n.id: node for n in targets if isinstance(n, ast.Name)}
    return found


def is_script(path: Path) -> bool:
    """Whether it is run, and never imported."""
    return "__name__ == '__main__'" in ast.unparse(TREES[path])


def test_there_is_something_to_look_at() -> None:
    assert {module.partition(".")[0] for module in MODULES} == set(ARROWS)
    assert {"shared.messages", "client.guard", "server.rounds.strategy"} <= set(MODULES)


# --- arrows ------------------------------------------------------------------------------------


@every_module
def test_a_module_imports_only_where_an_arrow_leads(name: str) -> None:
    ours = imported_packages(name) & set(ARROWS)
    assert ours <= ARROWS[name.partition(".")[0]]
    assert "tests" not in imported_packages(name)


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("client.compute.trainer", {"flwr", "pathlib", "sqlite3", "shared.messages", "client"}),
        ("shared.models.attention", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
        ("shared.models.losses", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
        ("shared.privacy.accounting.accountant", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
        ("shared.privacy.clipping.factors", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
        ("shared.privacy.clipping.clipping", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
        (
            "shared.privacy.accounting.composition",
            {"flwr", "pathlib", "sqlite3", "shared.messages"},
        ),
        ("shared.privacy.clipping.layers", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
        ("shared.privacy.noise", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
        ("shared.privacy.clipping.probe", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
        ("shared.privacy.release", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
        ("shared.privacy.sampling", {"flwr", "pathlib", "sqlite3", "shared.messages"}),
    ],
)
def test_what_computes_knows_no_message_and_no_file(name: str, unknown: set[str]) -> None:
    for imported, _ in imports(MODULES[name]):
        assert imported not in unknown
        assert imported.partition(".")[0] not in unknown


# --- records -----------------------------------------------------------------------------------


@every_module
def test_only_the_wire_makes_and_opens_records(name: str) -> None:
    """The server also makes those that it hands to Flower's own strategies."""
    path = MODULES[name]
    made = {called for called, _ in calls(path) if called in RECORDS}
    filled = [call for called, call in calls(path) if called == "RecordDict" and call.args]
    opened = {
        node.attr
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Attribute) and node.attr in RECORD_VIEWS
    }
    if name == "shared.messages":
        assert made
        assert opened
        return
    assert not opened
    if name not in ("server.rounds.strategy", "server.aggregation.records"):
        assert not made
        assert not filled


def test_the_node_takes_nothing_but_its_place_from_the_run_config() -> None:
    """The run config is the coordinator's."""
    readers = {
        name
        for name, path in MODULES.items()
        if name.startswith("client.") and "run_config" in ast.dump(TREES[path])
    }
    assert readers == {"client.app", "client.site.locate"}


# --- what is public ----------------------------------------------------------------------------


@every_module
def test_a_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(TREES[MODULES[name]])


@every_module
def test_what_is_exported_is_there_public_and_documented(name: str) -> None:
    path, found = MODULES[name], definitions(MODULES[name])
    names = exported(path)
    if names is None and (path.name == "__init__.py" or is_script(path)):
        return
    assert names is not None, "a module says what it exports"
    assert len(set(names)) == len(names)
    for public in names:
        assert not public.startswith("_")
        assert public in found
        node = found[public]
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            assert ast.get_docstring(node), f"{public} has no docstring"


@every_module
def test_what_others_import_is_exported(name: str) -> None:
    for imported, taken in imports(MODULES[name]):
        if taken is not None and imported in MODULES and f"{imported}.{taken}" not in MODULES:
            assert taken in (exported(MODULES[imported]) or []), f"{imported}.{taken}"
