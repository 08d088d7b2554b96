"""A command imports what it needs, and the tables of commands say what the commands say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

import client.cli
import server.cli
import simulations.cli
from tests.conftest import Sites

PROGRAMS = {"client.cli": client.cli, "server.cli": server.cli, "simulations.cli": simulations.cli}
SLOW = {"torch", "transformers", "opacus", "flwr", "scipy.stats", "matplotlib", "sqlalchemy", "ray"}
"""What takes from half a second to several seconds to import."""
LISTING = """
import json, sys
from {module} import main
sys.argv[1:] = json.loads(sys.argv[1])
try:
    main()
except SystemExit as end:
    print(json.dumps([end.code, sorted(sys.modules)]))
"""


def run(module: str, *words: str) -> tuple[int, set[str]]:
    """Type a command into a process of its own; return its exit code and what it imported."""
    command = [sys.executable, "-c", LISTING.format(module=module), json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    code, imported = json.loads(done.stdout.splitlines()[-1])
    return code, set(imported)


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_imports_no_command(module: str) -> None:
    code, imported = run(module, "--help")
    assert code == 0
    assert imported & SLOW == set()
    package = f"{module.partition('.')[0]}."
    assert [name for name in imported if name.startswith(package) and name.count(".") > 1] == []


@pytest.mark.parametrize("words", [("budget", "--json"), ("outbox",), ("trust", "--list")])
def test_a_command_that_trains_nothing_imports_no_trainer(sites: Sites, words: tuple[str]) -> None:
    site = sites.make(changes={"lab.simulated": True})
    _, imported = run("client.cli", *words, "--site", str(site))
    assert "client.ledger.ledger" in imported
    assert imported & SLOW == set()


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield from commands(command) if isinstance(command, click.Group) else [command]


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_table_says_what_its_commands_say(module: str) -> None:
    for listed in commands(PROGRAMS[module].app):
        name = str(listed.name)
        command = listed.make_context(name, [], resilient_parsing=True).command
        assert command is not listed
        assert (command.name, command.help) == (name, listed.help)
