"""What every command line of the project does alike: errors, exit codes, consoles, JSON.

| what happened                        | exit code |
|--------------------------------------|-----------|
| done                                 | 0         |
| a check found something (`failed`)   | 1         |
| a mistake that the message explains  | 2         |
| Ctrl-C                               | 130       |

Figures go to stdout, everything said about them to stderr.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.errors import SottoError

__all__ = [
    "command_group",
    "confirmed",
    "failed",
    "messages",
    "output",
    "run",
    "table_of",
    "write_json",
]

INTERRUPTED = 130
"""What typer returns after Ctrl-C: 128 + SIGINT."""
MISTAKE, FOUND = 2, 1

messages = Console(stderr=True, highlight=False)
"""Where commands talk."""
output = Console(highlight=False)
"""Where results go that are meant for people; JSON goes through `write_json`."""


def command_group(about: str, *, alone: bool = False) -> typer.Typer:
    """A set of commands whose errors are left to `run`.

    Args:
        about: what `--help` says.
        alone: whether the group does something without a command, too.
    """
    return typer.Typer(
        help=about,
        no_args_is_help=not alone,
        invoke_without_command=alone,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


def run(app: typer.Typer, *, interrupted: str = "") -> NoReturn:
    """Runs the command that was typed, and leaves with its exit code.

    Args:
        app: all commands.
        interrupted: what to do after Ctrl-C.
    """
    try:
        code = app(standalone_mode=False) or 0
    except SottoError as error:
        messages.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(MISTAKE)
    except click.Abort:  # a question that was answered with Ctrl-C or the end of the input
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if code == INTERRUPTED:
        messages.print("; ".join(filter(None, ("\ninterrupted", interrupted))))
    sys.exit(code)


def failed() -> NoReturn:
    """Ends a check that found something: exit code 1."""
    raise typer.Exit(FOUND)


def confirmed(question: str) -> bool:
    """Asks on stderr; anything but "y" or "yes" is no, and so is the end of the input."""
    messages.print(f"{question} [y/N] ", end="", markup=False)
    sure = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not sure:
        messages.print("Nothing was changed. (Without a terminal, answer with --yes.)")
    return sure


def table_of(*columns: str) -> Table:
    """An empty table that is narrow enough for a terminal and loses no character."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def write_json(value: object) -> None:
    """Prints data on stdout; what is not finite becomes null, for JSON has no infinity."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:  # noqa: ANN401 whatever JSON holds
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
