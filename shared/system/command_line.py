"""Errors, exit codes, consoles and JSON of every command line of the project.

| what happened                        | exit code |
|--------------------------------------|-----------|
| done                                 | 0         |
| a check failed (`failed`)            | 1         |
| an error, which the message explains | 2         |
| Ctrl-C                               | 130       |

A command's module is imported when the command is typed, not before (`command_table`): torch alone
takes seconds to import, and most commands need none of it.

Results go to stdout, messages to stderr. Neither reads markup or emoji codes: fingerprints, keys
and names are printed as they are. A style is an argument (`style=`, or a `Text`).
"""

from __future__ import annotations

import ast
import gc
import json
import math
import sys
from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import click
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from shared.errors import SottoError

__all__ = [
    "INTERRUPTED",
    "command_group",
    "command_table",
    "confirm",
    "failed",
    "messages",
    "output",
    "run",
    "table_of",
    "write_json",
]

INTERRUPTED = 130
"""What typer returns after Ctrl-C: 128 + SIGINT."""
ERROR, FAILED = 2, 1

messages = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""For messages. Text is printed as it is: names, paths and fingerprints may look like markup, and
Rich takes `:CD:` for an emoji."""
output = Console(highlight=False, markup=False, emoji=False)
"""For results that people read; JSON goes through `write_json`."""


def command_group(about: str, *, runs_alone: bool = False) -> typer.Typer:
    """Make a group of commands whose errors `run` reports.

    Args:
        about: shown by `--help`.
        runs_alone: whether the group does something without a subcommand, too.
    """
    return typer.Typer(
        help=about,
        no_args_is_help=not runs_alone,
        invoke_without_command=runs_alone,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


def command_table(
    about: str, places: Mapping[str, str | TyperGroup], *, hidden: Collection[str] = ()
) -> TyperGroup:
    """Make a group of commands from a table that says where each one is.

    Args:
        about: shown by `--help`.
        places: where each command is, as "module:name" of its function or its `typer.Typer`, or a
            further table. In the order in which `--help` lists them.
        hidden: the commands that `--help` does not list.
    """
    group = TyperGroup(help=about, no_args_is_help=True)
    for name, place in places.items():
        command = _Placed(place, hidden=name in hidden) if isinstance(place, str) else place
        command.name = name
        group.add_command(command)
    return group


class _Placed(TyperCommand):
    """A command of a table: its help is read from the source, and its module imported to run it."""

    def __init__(self, place: str, *, hidden: bool) -> None:
        super().__init__(None, help=_read_help(place), hidden=hidden)
        self.place = place

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # noqa: ANN401 as click's
        return self.load().make_context(*args, **kwargs)

    def load(self) -> click.Command:
        """Import the command."""
        module, _, name = self.place.partition(":")
        gc.disable()  # what is imported stays; to look for garbage in it takes a tenth of the time
        try:
            command = getattr(import_module(module), name)
        finally:
            gc.enable()
        if not isinstance(command, typer.Typer):
            function, command = command, command_group("")
            command.command(self.name)(function)
        loaded = typer.main.get_command(command)
        loaded.name = self.name
        return loaded


def _read_help(place: str) -> str:
    """Return the docstring of a command, or the description of a group, without importing it."""
    module, _, name = place.partition(":")
    for node in _parse(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            assert isinstance(node.value, ast.Call), f"{place} is a command_group(...)"
            return str(ast.literal_eval(node.value.args[0]))
    raise AssertionError(f"there is no command {place}")


@cache
def _parse(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def run(app: typer.Typer | click.Group, *, interrupted: str = "") -> NoReturn:
    """Run the command that was typed, and exit with its exit code.

    Args:
        app: all commands.
        interrupted: advice that is printed after Ctrl-C.
    """
    try:
        code = app(standalone_mode=False) or 0
    except SottoError as error:
        messages.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(ERROR)
    except click.Abort:  # a question that was answered with Ctrl-C or the end of the input
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if code == INTERRUPTED:
        messages.print("; ".join(filter(None, ("\ninterrupted", interrupted))))
    sys.exit(code)


def failed() -> NoReturn:
    """Exit with code 1, for a check that failed."""
    raise typer.Exit(FAILED)


def confirm(question: str) -> bool:
    """Ask on stderr; anything but "y" or "yes" means no, and so does the end of the input."""
    messages.print(f"{question} [y/N] ", end="", markup=False)
    agreed = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not agreed:
        messages.print("Nothing was changed. (Without a terminal, answer with --yes.)")
    return agreed


def table_of(*columns: str) -> Table:
    """Return an empty table that wraps long cells instead of cutting them off."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def write_json(value: object) -> None:
    """Print data on stdout; numbers that are not finite become null, as JSON has none."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:  # noqa: ANN401 whatever JSON holds
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
