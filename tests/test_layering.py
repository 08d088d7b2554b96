"""The arrows of the design: which room may import which, who names record keys, what is exported.

Read from the sources with `ast`: nothing is imported here. Each rule is one test that lists every
breach.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "shared": {"shared"},
    "client": {"client", "shared"},
    "server": {"server", "shared"},
    "simulations": {"simulations", "client", "server", "shared"},
}
"""Which of our packages each one may import."""

ROOMS: dict[str, dict[str, set[str]]] = {
    "shared": {
        "outcomes": set(),
        "errors": {"outcomes"},
        "hash_chain": set(),
        "sections": {"errors"},
        "groups": {"errors", "sections"},
        "over_use_task": {"errors", "sections"},
        "config": {"errors", "groups", "over_use_task", "sections"},
        "message_records": {"errors"},
        "messages": {
            *("config", "errors", "groups", "message_records", "outcomes", "over_use_task"),
            *("secure_aggregation", "sections"),
        },
        "system": {"errors"},
        "data": {"errors", "system"},
        "evaluation": {"data"},
        "rerank": {"data", "errors", "evaluation", "sections"},
        "models": {"config", "data", "errors"},
        "over_use": {"config", "data", "errors", "models", "over_use_task"},
        "item_features": {"data", "errors", "models"},
        "privacy": {"errors", "models"},
        "secure_aggregation": {"errors"},
    },
    "client": {
        "flower_internals": set(),
        "logs": set(),
        "data": set(),
        "ledger": set(),
        "compute": set(),
        "site": {"compute", "data", "ledger", "logs"},
        "home": set(),
        "wellbeing": {"site"},
        "serving": {"data", "home", "logs", "site", "wellbeing"},
        "library": {"serving"},
        "guard": {"ledger", "site"},
        "secure_aggregation": set(),
        "app": {"compute", "guard", "logs", "secure_aggregation", "site"},
        "bundle": {"site"},
        "checks": {"bundle", "data", "flower_internals", "ledger", "site"},
        "node": {"bundle", "checks", "flower_internals", "ledger", "logs", "site"},
        "console": {"checks", "home", "ledger", "logs", "serving", "site"},
        "commands": {
            *("bundle", "checks", "console", "home", "ledger", "node", "serving", "site"),
        },
        "cli": {"commands"},
    },
    "server": {
        "flower_internals": set(),
        "logs": set(),
        "settings": set(),
        "noise_plan": set(),
        "training_plan": {"noise_plan"},
        "state": set(),
        "aggregation": {"state"},
        "rounds": {"aggregation", "flower_internals", "state"},
        "warm_start": {"rounds"},
        "runs": {
            *("flower_internals", "noise_plan", "rounds", "settings", "state", "training_plan"),
        },
        "service": {"flower_internals", "runs", "settings", "state"},
        "app": {
            "aggregation",
            "logs",
            "noise_plan",
            "rounds",
            "runs",
            "state",
            "warm_start",
        },
        "commands": {"aggregation", "runs", "service", "settings", "state", "warm_start"},
        "cli": {"commands"},
    },
    "simulations": {
        "datasets": set(),
        "experiment": {"datasets"},
        "commands": {"datasets", "experiment", "over_use"},
        "attack": {"commands", "experiment"},
        "over_use": {"datasets", "experiment"},
        "audit": {"commands", "experiment"},
        "calibrate": {"commands", "datasets", "experiment"},
        "report": {"datasets", "experiment"},
        "sweep": {"commands", "experiment"},
        "faults": {"experiment"},
        "benchmarks": {"datasets", "experiment"},
        "cli": {"attack", "audit", "calibrate", "commands", "over_use", "report", "sweep"},
        "__main__": {"cli"},
    },
}
"""The rooms of each package (folders, and the few flat files), and the rooms that each may import.

A new room, a flat file more, or an arrow more is a decision: it is made here.
"""
DOORS = {"client.library.sotto"}
"""Installed under a name of its own: what a partner's code imports, out of one file."""
MOST_ROOMS, MOST_ARROWS = 19, 45
"""Of `client` and `server`: a floor on which a newcomer finds the way."""

GENERATED = re.compile(r"_pb2(_grpc)?\.py$")
"""What a compiler writes is not read here."""
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if not GENERATED.search(path.name)
)


class Trees(dict[Path, ast.Module]):
    """What each source says, parsed when it is asked for: every test worker loads this file."""

    def __missing__(self, path: Path) -> ast.Module:
        self[path] = ast.parse(path.read_text(encoding="utf-8"))
        return self[path]


TREES = Trees()
RECORDS = {"ArrayRecord", "ConfigRecord", "MetricRecord"}
RECORD_VIEWS = {"array_records", "config_records", "metric_records"}


def module(path: Path) -> str:
    """shared/privacy/noise.py -> shared.privacy.noise."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in SOURCES}


PLACE = re.compile(r"((?:client|server|simulations)[\w.]*):(\w+)")
"""Where a command is, in the table of a command line that imports it when it is typed."""


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each imported module, with the name taken from it, wherever in the file."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Constant) and (place := PLACE.fullmatch(str(node.value))):
            yield place[1], place[2]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((str(node.module), alias.name) for alias in node.names)


def imported_packages(name: str) -> set[str]:
    """The top-level packages that a module imports."""
    return {imported.partition(".")[0] for imported, _ in imports(MODULES[name])}


def imported_modules(name: str) -> set[str]:
    """The modules of ours that a module imports, also as `from package import module`."""
    pairs = list(imports(MODULES[name]))
    named = {imported for imported, _ in pairs} | {f"{m}.{taken}" for m, taken in pairs}
    return named & set(MODULES)


def room(name: str) -> str:
    """client.ledger.anchor -> ledger."""
    return name.split(".")[1]


def arrows(package: str) -> dict[str, set[str]]:
    """Which rooms of its own package each room imports."""
    drawn: dict[str, set[str]] = {}
    for name in MODULES:
        if name.startswith(f"{package}."):
            ours = {m for m in imported_modules(name) if m.startswith(f"{package}.")}
            drawn.setdefault(room(name), set()).update({room(m) for m in ours} - {room(name)})
    return drawn


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
    defined: dict[str, ast.stmt] = {}
    for node in TREES[path].body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            defined[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            defined[ast.unparse(node.target)] = node
        elif isinstance(node, ast.Assign):
            targets = [n for target in node.targets for n in ast.walk(target)]
            defined |= {n.id: node for n in targets if isinstance(n, ast.Name)}
        elif isinstance(node, ast.If) and node.orelse and "TYPE_CHECKING" in ast.dump(node.test):
            # What is imported when it is asked for, and re-exported.
            taken = [n for n in node.body if isinstance(n, ast.ImportFrom)]
            defined |= {name.asname or name.name: n for n in taken for name in n.names}
    return defined


def is_script(path: Path) -> bool:
    """Whether it is run, and never imported."""
    return "__name__ == '__main__'" in ast.unparse(TREES[path])


def test_there_is_something_to_look_at() -> None:
    assert {name.partition(".")[0] for name in MODULES} == set(PACKAGES)
    assert {"shared.messages", "client.guard", "server.rounds.strategy"} <= set(MODULES)


# --- arrows ------------------------------------------------------------------------------------


def test_a_package_imports_only_those_below_it() -> None:
    breaches = {
        name: wrong
        for name in MODULES
        if (wrong := imported_packages(name) & {*PACKAGES, "tests"} - PACKAGES[name.split(".")[0]])
    }
    assert breaches == {}


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_only_those_that_it_lists(package: str) -> None:
    drawn, allowed = arrows(package), ROOMS[package]
    assert set(drawn) == set(allowed), "rooms and flat files are those of the picture"
    breaches = {name: more for name in drawn if (more := drawn[name] - allowed[name])}
    assert breaches == {}
    unused = {name: more for name in drawn if (more := allowed[name] - drawn[name])}
    assert unused == {}, "the picture shows no arrow that is not there"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_each_other_in_one_direction(package: str) -> None:
    TopologicalSorter(ROOMS[package]).prepare()  # raises CycleError


@pytest.mark.parametrize("package", ["client", "server"])
def test_a_floor_stays_small(package: str) -> None:
    assert len(ROOMS[package]) <= MOST_ROOMS
    assert sum(map(len, ROOMS[package].values())) <= MOST_ARROWS


def test_modules_import_each_other_in_one_direction() -> None:
    """Packages are left out: their `__init__.py` imports nothing."""
    files = {name for name, path in MODULES.items() if path.name != "__init__.py"}
    TopologicalSorter({name: imported_modules(name) & files for name in files}).prepare()


def test_a_room_says_what_is_inside_and_imports_nothing() -> None:
    """So that a process loads what it uses: a request's starts in a tenth of a second."""
    unnamed = set()
    for name, path in MODULES.items():
        if path.name != "__init__.py":
            continue
        assert name in DOORS or list(imports(path)) == [], name
        inside = {
            entry.stem
            for entry in path.parent.iterdir()
            if (entry.suffix == ".py" or (entry / "__init__.py").is_file())
            and not entry.name.startswith("__")
        }
        description = ast.get_docstring(TREES[path]) or ""
        unnamed |= {f"{name}.{entry}" for entry in inside if entry not in description}
    assert unnamed == set(), "the docstring of a room names each module in it"


def test_what_computes_knows_no_message_and_no_file() -> None:
    computing = (
        "client.compute.steps",
        "client.compute.trainer",
        "shared.models.",
        "shared.privacy.",
        "shared.secure_aggregation.",
    )
    foreign = {"flwr", "pathlib", "sqlite3", "shared.messages"}
    breaches = {
        (name, imported)
        for name in MODULES
        if name.startswith(computing)
        for imported, _ in imports(MODULES[name])
        if {imported, imported.partition(".")[0]} & foreign
    }
    assert breaches == set()


# --- records -----------------------------------------------------------------------------------

RECORD_MAKERS = {"server.rounds.strategy", "server.aggregation.records"}
"""The server also makes records that it hands to Flower's own strategies."""


def test_only_one_module_makes_and_opens_records() -> None:
    for name, path in MODULES.items():
        made = {called for called, _ in calls(path) if called in RECORDS}
        filled = [call for called, call in calls(path) if called == "RecordDict" and call.args]
        opened = {
            node.attr
            for node in ast.walk(TREES[path])
            if isinstance(node, ast.Attribute) and node.attr in RECORD_VIEWS
        }
        if name == "shared.message_records":
            assert made
            assert opened
            continue
        assert not opened, name
        assert name in RECORD_MAKERS or not (made or filled), name


def test_the_node_takes_nothing_but_its_place_from_the_run_config() -> None:
    """The run config is the coordinator's."""
    readers = {
        name
        for name, path in MODULES.items()
        if name.startswith("client.") and "run_config" in ast.dump(TREES[path])
    }
    assert readers == {"client.app", "client.site.locate"}


# --- the risk of over-use ----------------------------------------------------------------------

WORDS = {"risk", "risks"}


def client_modules_with(names: set[str]) -> set[str]:
    """Modules of a partner in which a variable, attribute, argument or function has such a name."""
    kinds = (ast.Attribute, "attr"), (ast.Name, "id"), (ast.arg, "arg"), (ast.keyword, "arg")
    return {
        name
        for name in MODULES
        if name.startswith("client.")
        for node in ast.walk(TREES[MODULES[name]])
        for kind, field in kinds
        if isinstance(node, kind) and getattr(node, field) in names
    }


def client_importers(package: str) -> set[str]:
    return {
        name
        for name in MODULES
        if name.startswith("client.")
        if any(imported.startswith(package) for imported in imported_modules(name))
    }


def test_only_the_guard_reads_a_risk() -> None:
    """What ranks, explains, adapts or answers a coordinator has no name for it."""
    guard = {name for name in MODULES if name.startswith("client.wellbeing.")}
    # They train it, and ask for nobody's risk, as the next line shows.
    trains = {"client.compute.over_use", "client.app"}
    assert client_importers("shared.over_use.model") - trains == {"client.wellbeing.protection"}
    assert client_modules_with(WORDS) == {"client.wellbeing.protection", "client.wellbeing.guard"}
    assert client_importers("client.wellbeing") - guard == {
        "client.serving.batch",
        "client.serving.guarded",
        "client.serving.service.current",
        "client.serving.service.guarding",
    }
    # Nothing reads the partner's log of decisions; it is written in two steps.
    assert client_modules_with({"decisions", "_decisions"}) == {
        "client.data.feedback",
        "client.serving.service.writer",
    }


def test_who_is_whose_friend_is_read_at_home_and_for_steps_that_are_clipped_for_it() -> None:
    """Statistics, metrics, and what answers a coordinator otherwise have no name for the table."""
    assert client_importers("client.compute.friends") == {"client.app"}
    (beside,) = (
        node.name
        for node in ast.walk(TREES[MODULES["client.app"]])
        if isinstance(node, ast.FunctionDef) and "friends_beside" in ast.dump(node)
    )
    readers = {name for name, _ in calls(MODULES["client.app"])} & {"friends_beside", beside}
    assert readers == {"friends_beside", "_beside"}
    assert client_importers("shared.data.friends") == {
        "client.checks.data",
        "client.commands.adapt",
        "client.commands.bound_friends",
        "client.compute.friends",
        "client.home.friends",
        "client.home.friends_part",
        "client.home.store",
        "client.serving.quality",
    }


# --- what is public ----------------------------------------------------------------------------


def test_a_module_says_what_it_is() -> None:
    assert [name for name in MODULES if not ast.get_docstring(TREES[MODULES[name]])] == []


def test_what_is_exported_is_there_public_and_documented() -> None:
    for name, path in MODULES.items():
        names, defined = exported(path), definitions(path)
        if names is None and (path.name == "__init__.py" or is_script(path)):
            continue
        assert names is not None, f"{name} says what it exports"
        assert len(set(names)) == len(names), name
        for public in names:
            assert not public.startswith("_"), f"{name}.{public}"
            assert public in defined, f"{name}.{public}"
            node = defined[public]
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                assert ast.get_docstring(node), f"{name}.{public} has no docstring"


def test_what_others_import_is_exported() -> None:
    taken_unexported = {
        f"{name} takes {imported}.{taken}"
        for name in MODULES
        for imported, taken in imports(MODULES[name])
        if taken is not None and imported in MODULES and f"{imported}.{taken}" not in MODULES
        if not GENERATED.search(f"{taken}.py")
        if taken not in (exported(MODULES[imported]) or [])
    }
    assert taken_unexported == set()
